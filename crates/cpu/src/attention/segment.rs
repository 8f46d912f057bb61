//! The vector engine: query rows of one key head against one segment of keys, block by block; and the tiles of f32,
//! to which narrower keys and values are widened.
use super::scratch::{Scratch, clear, row};
use super::softmax::{cap_scores, weigh};
use super::split::Item;
use super::tile::{MOST_ROWS, Scores, Values, add_values, score};
use super::{KEYS, KvSlice, Operands, SEGMENT};
use crate::vector::{Vector, Work};
use std::marker::PhantomData;
use std::ops::Range;

/// A way to attend to a block of keys. A row's arithmetic depends neither on the other rows nor on the tile.
///
/// # Safety
/// As for [`Vector`], whose family enters.
#[allow(clippy::missing_safety_doc)] // stated above
pub(super) trait Tiles {
    /// What softmaxes and merging use.
    type V: Vector;

    /// Runs `work` compiled for this family.
    unsafe fn enter<W: Work>(work: W);
    /// What a difference of scores stands for in the softmax.
    unsafe fn power(x: Self::V) -> Self::V;
    /// Prepares an item's queries.
    unsafe fn begin(o: &Operands<'_>, item: &Item, s: &mut Scratch<'_>);
    /// Brings a block of keys and values into the scratch.
    unsafe fn load_block(o: &Operands<'_>, item: &Item, s: &mut Scratch<'_>, keys: Range<usize>);
    /// Attends with the first rows of the item to the block in the scratch, whose first key is `base`, if this family
    /// has a way to take many rows at once; returns how many it took.
    unsafe fn attend_many(
        _o: &Operands<'_>,
        _item: &Item,
        _s: &mut Scratch<'_>,
        _base: usize,
        _state: *mut f32,
    ) -> usize {
        0
    }
    /// Attends with the rows of a tile to the block in the scratch; `seen[i]` are the keys of it that row i sees.
    unsafe fn attend_tile(
        o: &Operands<'_>,
        item: &Item,
        s: &mut Scratch<'_>,
        seen: &[Range<usize>],
        tile: Range<usize>,
        state: *mut f32,
    );
}

/// Computes the state of an item's rows for one segment.
///
/// # Safety
/// As for [`Vector`]; `state` has room for the item's rows.
#[inline(always)]
pub(super) unsafe fn attend_segment<T: Tiles>(
    o: &Operands<'_>,
    item: &Item,
    s: &mut Scratch<'_>,
    segment: usize,
    state: *mut f32,
) {
    let rows = item.tokens.len() * o.group();
    // SAFETY: the caller keeps the contract.
    unsafe { clear(state, rows, s.width) };
    let lo = s.visible.iter().map(|v| v.start).min().unwrap_or(0).max(segment * SEGMENT);
    let hi = s.visible.iter().map(|v| v.end).max().unwrap_or(0).min((segment + 1) * SEGMENT);
    for base in (lo / KEYS * KEYS..hi).step_by(KEYS) {
        // SAFETY: the caller keeps the contract; the scratch holds a block.
        unsafe {
            T::load_block(o, item, s, base..(base + KEYS).min(hi));
            let taken = T::attend_many(o, item, s, base, state);
            for first in (taken..rows).step_by(T::V::QUERIES) {
                let tile = first..(first + T::V::QUERIES).min(rows);
                let mut seen = [const { 0..0 }; MOST_ROWS];
                for (seen, v) in seen.iter_mut().zip(&s.visible[tile.clone()]) {
                    *seen = in_block(v, base);
                }
                let seen = &seen[..tile.len()];
                if seen.iter().any(|k| !k.is_empty()) {
                    T::attend_tile(o, item, s, seen, tile, state);
                }
            }
        }
    }
}

/// The part of `visible` that lies in the block whose first key is `base`, counted from there.
pub(super) fn in_block(visible: &Range<usize>, base: usize) -> Range<usize> {
    visible.start.clamp(base, base + KEYS) - base..visible.end.clamp(base, base + KEYS) - base
}

/// Tiles of f32.
pub(super) struct Floats<V>(PhantomData<V>);

impl<V: Vector> Tiles for Floats<V> {
    type V = V;

    #[inline(always)]
    unsafe fn enter<W: Work>(work: W) {
        // SAFETY: the caller keeps the contract.
        unsafe { V::enter(work) }
    }

    #[inline(always)]
    unsafe fn power(x: V) -> V {
        // SAFETY: the caller keeps the contract.
        unsafe { x.exp() }
    }

    #[inline(always)]
    unsafe fn begin(_: &Operands<'_>, _: &Item, _: &mut Scratch<'_>) {}

    #[inline(always)]
    unsafe fn load_block(o: &Operands<'_>, item: &Item, s: &mut Scratch<'_>, keys: Range<usize>) {
        // SAFETY: the caller keeps the contract.
        unsafe { load_block::<V>(o, item, s, keys) }
    }

    #[inline(always)]
    unsafe fn attend_tile(
        o: &Operands<'_>,
        item: &Item,
        s: &mut Scratch<'_>,
        seen: &[Range<usize>],
        tile: Range<usize>,
        state: *mut f32,
    ) {
        // SAFETY: the caller keeps the contract.
        unsafe { attend_tile::<V>(o, item, s, seen, tile, state) }
    }
}

/// As [`Tiles::attend_tile`].
///
/// # Safety
/// As for `attend_segment`.
#[inline(always)]
unsafe fn attend_tile<V: Vector>(
    o: &Operands<'_>,
    item: &Item,
    s: &mut Scratch<'_>,
    seen: &[Range<usize>],
    tile: Range<usize>,
    state: *mut f32,
) {
    let (rows, width, m) = (item.tokens.len() * o.group(), s.width, tile.len());
    let mut q = [std::ptr::null(); MOST_ROWS];
    for (q, r) in q.iter_mut().zip(tile.clone()) {
        *q = o.query(item.tokens.start + r / o.group(), item.head * o.group() + r % o.group()).as_ptr();
    }
    let mut factors = [1.0; MOST_ROWS];
    let p = s.scores(0);
    // SAFETY: the caller keeps the contract; `p` holds a tile of scores.
    unsafe {
        let of_keys = s.factors.as_ptr();
        score::<V>(&Scores { q: &q[..m], kt: s.kt(), d: o.shape.d, factors: of_keys, out: p });
        for i in 0..m {
            let scores = p.add(i * KEYS);
            if seen[i].is_empty() {
                continue;
            }
            if let Some(cap) = o.shape.softcap {
                cap_scores::<V>(scores, cap, 1.0);
            }
            (0..seen[i].start).chain(seen[i].end..KEYS).for_each(|j| *scores.add(j) = f32::NEG_INFINITY);
            factors[i] = weigh::<V>(scores, &row(state, rows, width, tile.start + i));
            if matches!(o.v, KvSlice::Q8 { .. }) {
                (0..KEYS).for_each(|j| *scores.add(j) *= s.v_scales[j]);
            }
        }
        let o = state.add(tile.start * width);
        add_tile_values::<V>(&s.v_rows, p, seen, o, width, &mut factors[..m]);
    }
}

/// Adds each row's own keys and no others: those that all rows see together, the few before and after by row.
///
/// # Safety
/// As for `attend_segment`.
#[inline(always)]
unsafe fn add_tile_values<V: Vector>(
    v: &[*const f32; KEYS],
    p: *const f32,
    seen: &[Range<usize>],
    o: *mut f32,
    width: usize,
    factors: &mut [f32],
) {
    let start = seen.iter().map(|k| k.start).max().unwrap_or(0);
    let end = seen.iter().map(|k| k.end).min().unwrap_or(0);
    let all = start..end.max(start);
    let alone = |i: usize, keys: Range<usize>, factor: &mut f32| {
        if !keys.is_empty() {
            let (p, o) = (p.wrapping_add(i * KEYS), o.wrapping_add(i * width));
            // SAFETY: the caller keeps the contract.
            unsafe { add_values::<V>(&Values { p, keys, v, o, width, factors: std::slice::from_ref(factor) }) };
            *factor = 1.0;
        }
    };
    for (i, factor) in factors.iter_mut().enumerate() {
        alone(i, seen[i].start..seen[i].end.min(all.start), factor);
    }
    if !all.is_empty() {
        // SAFETY: the caller keeps the contract.
        unsafe { add_values::<V>(&Values { p, keys: all.clone(), v, o, width, factors }) };
        factors.fill(1.0);
    }
    for (i, factor) in factors.iter_mut().enumerate() {
        alone(i, seen[i].start.max(all.end)..seen[i].end, factor);
    }
}

/// Brings a block of keys and values into the scratch: keys transposed, both widened where needed.
///
/// # Safety
/// As for [`Vector`].
#[inline(always)]
unsafe fn load_block<V: Vector>(o: &Operands<'_>, item: &Item, s: &mut Scratch<'_>, keys: Range<usize>) {
    let (d, width, count) = (o.shape.d, s.width, keys.len());
    s.k_rows = [s.zeros().cast_const(); KEYS];
    let (k_wide, v_wide) = (s.wide(0), s.wide(1));
    let mut j = 0;
    while j < count {
        let first = o.vector(item.seq, item.head, keys.start + j);
        let in_page = o.batch.page_size - (keys.start + j) % o.batch.page_size;
        for i in 0..in_page.min(count - j) {
            let (at, row) = ((first + i) * d, (j + i) * width);
            if let (KvSlice::Q8 { scales: ks, .. }, KvSlice::Q8 { scales: vs, .. }) = (o.k, o.v) {
                (s.factors[j + i], s.v_scales[j + i]) = (ks[first + i] * o.shape.scale, vs[first + i]);
            }
            // SAFETY: the scratch has a row of `width` floats for each key of a block.
            unsafe {
                s.k_rows[j + i] = fetch(o.k, at, d, k_wide.add(row), false);
                s.v_rows[j + i] = fetch(o.v, at, d, v_wide.add(row), d != width);
            }
        }
        j += in_page.min(count - j);
    }
    let (kt, whole) = (s.kt(), d / V::LANES * V::LANES);
    for key in (0..count).step_by(V::LANES) {
        let rows = s.k_rows[key..].as_ptr();
        // SAFETY: KEYS is a multiple of the lanes, and every row has d floats (absent ones are zeros).
        unsafe {
            for c in (0..whole).step_by(V::LANES) {
                V::transpose(rows, c, kt.add(c * KEYS + key), KEYS);
            }
            for c in whole..d {
                for i in 0..V::LANES {
                    *kt.add(c * KEYS + key + i) = *(*rows.add(i)).add(c);
                }
            }
        }
    }
}

/// The address of a key or value as f32: its own, or that of a copy in `wide`.
///
/// # Safety
/// `wide` has room for `d` floats.
#[inline(always)]
unsafe fn fetch(from: KvSlice<'_>, at: usize, d: usize, wide: *mut f32, copy: bool) -> *const f32 {
    match from {
        KvSlice::F32(x) if !copy => return x[at..at + d].as_ptr(),
        KvSlice::F32(x) => {
            // SAFETY: the caller's contract; the source is checked.
            unsafe { std::ptr::copy_nonoverlapping(x[at..at + d].as_ptr(), wide, d) }
        }
        KvSlice::Bf16(x) => {
            for (i, b) in x[at..at + d].iter().enumerate() {
                // SAFETY: the caller's contract.
                unsafe { *wide.add(i) = f32::from_bits((b.to_bits() as u32) << 16) };
            }
        }
        KvSlice::Q8 { kind, codes, .. } => {
            for (i, &code) in codes[at..at + d].iter().enumerate() {
                // SAFETY: the caller's contract.
                unsafe { *wide.add(i) = kind.decode(code) };
            }
        }
    }
    wide
}
