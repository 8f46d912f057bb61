//! The vector engine: query rows of one key head against one segment of keys, and the split over the threads.
use super::scratch::{Scratch, clear, row};
use super::softmax::{cap_scores, merge, weigh};
use super::tile::{MOST_ROWS, Scores, Values, add_values, score};
use super::{KEYS, KvSlice, Operands, QUERY_ROWS, SEGMENT};
use crate::buffer::Aligned;
use crate::threads::Threads;
use crate::vector::{Shared, Vector, Work};
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Query rows of some neighbouring tokens of a sequence, for one key head: row `i * group + g` is token i, head g.
#[derive(Clone)]
struct Item {
    seq: usize,
    head: usize,
    tokens: Range<usize>,
    /// Keys from the first that a row sees to the last.
    keys: usize,
    /// Segments in which a row sees a key.
    segments: Range<usize>,
    /// Where the segments' states go if they are computed one by one.
    parts: usize,
}

/// Multiply-adds below which waking other threads costs more than it saves.
const INLINE: usize = 1 << 17;

/// Attends. Items are taken heaviest first; if there are few, their segments are taken one by one, and merged after.
///
/// # Safety
/// The machine has the family's instructions.
pub(super) unsafe fn run<V: Vector>(threads: &Threads, operands: Operands<'_>, out: &mut [f32]) {
    let width = operands.shape.d.next_multiple_of(V::LANES);
    let mut items = items(&operands);
    let work: usize = items.iter().map(|i| i.tokens.len() * i.keys).sum();
    let small = work * operands.group() * operands.shape.d < INLINE;
    let size = |i: &Item| i.tokens.len() * operands.group() * (width + 2);
    let split = !small && items.len() < 4 * threads.count() && items.iter().any(|i| i.segments.len() > 1);
    let mut tasks: Vec<(usize, Option<usize>)> = Vec::new();
    let mut parts = 0;
    for (i, item) in items.iter_mut().enumerate() {
        if split {
            item.parts = parts;
            parts += item.segments.len() * size(item);
            tasks.extend(item.segments.clone().map(|s| (i, Some(s))));
        } else {
            tasks.push((i, None));
        }
    }
    let mut parts = Aligned::zeroed(parts * 4);
    let (parts, out) = (Shared(parts.bytes_mut().as_mut_ptr().cast::<f32>()), Shared(out.as_mut_ptr()));
    let next = AtomicUsize::new(0);
    let pull = |_: usize| {
        let mut scratch = Scratch::new::<V>(&operands);
        while let Some(&(i, segment)) = tasks.get(next.fetch_add(1, Relaxed)) {
            let item = &items[i];
            // SAFETY: the caller's contract; each task has its own rows of `out`, or its own part.
            unsafe {
                let to = match segment {
                    None => Place::Out(out),
                    Some(s) => Place::Part(parts.at(item.parts + (s - item.segments.start) * size(item)), s),
                };
                V::enter(Attend::<V> { operands: &operands, item, scratch: &mut scratch, to, family: PhantomData });
            }
        }
    };
    if small {
        pull(0)
    } else {
        threads.run(threads.count().min(tasks.len()), pull)
    }
    if split {
        let join = |i: usize| {
            let (item, from) = (&items[i], parts.at(items[i].parts));
            // SAFETY: the caller's contract; all parts are complete, and each item has its own rows of `out`.
            unsafe { V::enter(Join::<V> { operands: &operands, item, parts: from, out, family: PhantomData }) }
        };
        threads.run(items.len(), join);
    }
}

/// The work of a call, heaviest first.
fn items(o: &Operands<'_>) -> Vec<Item> {
    let tokens_each = (QUERY_ROWS / o.group()).max(1);
    let mut items = Vec::new();
    for seq in 0..o.batch.sequences() {
        let (first, end) = (o.batch.query_starts[seq] as usize, o.batch.query_starts[seq + 1] as usize);
        for start in (first..end).step_by(tokens_each) {
            let tokens = start..(start + tokens_each).min(end);
            let lo = tokens.clone().map(|t| o.visible(seq, t).start).min().unwrap_or(0);
            let hi = tokens.clone().map(|t| o.visible(seq, t).end).max().unwrap_or(0);
            let segments = lo / SEGMENT..hi.div_ceil(SEGMENT);
            items.extend((0..o.shape.nkv).map(|head| Item {
                seq,
                head,
                tokens: tokens.clone(),
                keys: hi - lo,
                segments: segments.clone(),
                parts: 0,
            }));
        }
    }
    items.sort_by_key(|i| std::cmp::Reverse(i.tokens.len() * i.keys));
    items
}

/// Where an item's result goes.
enum Place {
    /// To the output, all segments merged.
    Out(Shared<f32>),
    /// One segment's state.
    Part(*mut f32, usize),
}

struct Attend<'a, V> {
    operands: &'a Operands<'a>,
    item: &'a Item,
    scratch: &'a mut Scratch,
    to: Place,
    family: PhantomData<V>,
}

impl<V: Vector> Work for Attend<'_, V> {
    #[inline(always)]
    unsafe fn run(self) {
        let Attend { operands: o, item, scratch: s, to, .. } = self;
        let (rows, width) = (item.tokens.len() * o.group(), s.width);
        s.visible.clear();
        s.visible.extend(item.tokens.clone().flat_map(|t| std::iter::repeat_n(o.visible(item.seq, t), o.group())));
        // SAFETY: the maker of the work answers for the family and the places.
        unsafe {
            match to {
                Place::Part(state, segment) => attend_segment::<V>(o, item, s, segment, state),
                Place::Out(out) => {
                    let (part, all) = (s.state(0), s.state(1));
                    clear(all, rows, width);
                    for segment in item.segments.clone() {
                        attend_segment::<V>(o, item, s, segment, part);
                        for r in 0..rows {
                            merge::<V>(&row(all, rows, width, r), &row(part, rows, width, r), width);
                        }
                    }
                    finish::<V>(o, item, all, width, out);
                }
            }
        }
    }
}

struct Join<'a, V> {
    operands: &'a Operands<'a>,
    item: &'a Item,
    parts: *mut f32,
    out: Shared<f32>,
    family: PhantomData<V>,
}

impl<V: Vector> Work for Join<'_, V> {
    #[inline(always)]
    unsafe fn run(self) {
        let Join { operands: o, item, parts, out, .. } = self;
        let (rows, width) = (item.tokens.len() * o.group(), o.shape.d.next_multiple_of(V::LANES));
        let mut all = Aligned::zeroed(rows * (width + 2) * 4);
        let all = all.bytes_mut().as_mut_ptr().cast::<f32>();
        // SAFETY: the maker of the work answers for the parts; `all` has a state's size.
        unsafe {
            clear(all, rows, width);
            for segment in 0..item.segments.len() {
                let part = parts.add(segment * rows * (width + 2));
                for r in 0..rows {
                    merge::<V>(&row(all, rows, width, r), &row(part, rows, width, r), width);
                }
            }
            finish::<V>(o, item, all, width, out);
        }
    }
}

/// Divides by the sums and writes the item's rows.
///
/// # Safety
/// As for [`Vector`]; the state is the item's, and `out` is `[t, nq d]`.
#[inline(always)]
unsafe fn finish<V: Vector>(o: &Operands<'_>, item: &Item, all: *mut f32, width: usize, out: Shared<f32>) {
    let (group, d) = (o.group(), o.shape.d);
    let rows = item.tokens.len() * group;
    for r in 0..rows {
        let from = row(all, rows, width, r);
        let head = item.head * group + r % group;
        let to = out.at(((item.tokens.start + r / group) * o.shape.nq + head) * d);
        for c in (0..d).step_by(V::LANES) {
            // SAFETY: the caller keeps the contract.
            unsafe { V::load(from.o.add(c)).div(V::splat(*from.l)).store_part(to.add(c), (d - c).min(V::LANES)) };
        }
    }
}

/// Computes the state of an item's rows for one segment.
///
/// # Safety
/// As for [`Vector`]; `state` has room for the item's rows.
#[inline(always)]
unsafe fn attend_segment<V: Vector>(o: &Operands<'_>, item: &Item, s: &mut Scratch, segment: usize, state: *mut f32) {
    let rows = item.tokens.len() * o.group();
    // SAFETY: the caller keeps the contract.
    unsafe { clear(state, rows, s.width) };
    let lo = s.visible.iter().map(|v| v.start).min().unwrap_or(0).max(segment * SEGMENT);
    let hi = s.visible.iter().map(|v| v.end).max().unwrap_or(0).min((segment + 1) * SEGMENT);
    for block in lo / KEYS..hi.div_ceil(KEYS) {
        let keys = block * KEYS..(block * KEYS + KEYS).min(hi);
        // SAFETY: the caller keeps the contract; the scratch holds a block.
        unsafe {
            load_block::<V>(o, item, s, keys);
            for first in (0..rows).step_by(V::QUERIES) {
                let tile = first..(first + V::QUERIES).min(rows);
                attend_tile::<V>(o, item, s, block * KEYS, tile, state);
            }
        }
    }
}

/// Attends with the rows of a tile to the block in the scratch, whose first key is `base`.
///
/// # Safety
/// As for `attend_segment`.
#[inline(always)]
unsafe fn attend_tile<V: Vector>(
    o: &Operands<'_>,
    item: &Item,
    s: &mut Scratch,
    base: usize,
    tile: Range<usize>,
    state: *mut f32,
) {
    let (rows, width, m) = (item.tokens.len() * o.group(), s.width, tile.len());
    let mut seen = [const { 0..0 }; MOST_ROWS];
    let mut q = [std::ptr::null(); MOST_ROWS];
    for (i, r) in tile.clone().enumerate() {
        let v = &s.visible[r];
        seen[i] = v.start.max(base).min(base + KEYS) - base..v.end.max(base).min(base + KEYS) - base;
        q[i] = o.query(item.tokens.start + r / o.group(), item.head * o.group() + r % o.group()).as_ptr();
    }
    let seen = &seen[..m];
    if seen.iter().all(|k| k.is_empty()) {
        return;
    }
    let mut factors = [1.0; MOST_ROWS];
    let p = s.scores();
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
                cap_scores::<V>(scores, cap);
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
unsafe fn load_block<V: Vector>(o: &Operands<'_>, item: &Item, s: &mut Scratch, keys: Range<usize>) {
    let (d, width, count) = (o.shape.d, s.width, keys.len());
    s.k_rows = [s.zeros().cast_const(); KEYS];
    s.factors = [o.shape.scale; KEYS];
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
