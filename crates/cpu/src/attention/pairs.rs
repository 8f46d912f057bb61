//! Attention with dot products of bf16 pairs, for caches narrower than f32: queries and weights are rounded to bf16;
//! keys, values and 8-bit codes are bf16 numbers exactly, and codes' scales join the factors of scores and the weights.
//! Softmaxes are of powers of two: log2(e) joins the scores' scale.
//! A score is a chain over the pairs of channels, an output over the pairs of keys, both from the first up.
mod block;
mod lanes;
mod tile;

use super::scratch::{Scratch, row};
use super::segment::Tiles;
use super::softmax::cap_scores;
use super::split::Item;
use super::tile::MOST_ROWS;
use super::{KEYS, KvSlice, Operands};
use crate::vector::{Avx512, Work};
pub(super) use block::Table;
use planish_tensor::Q8;
use std::arch::x86_64::*;
use std::f32::consts::LOG2_E;
use std::ops::Range;
use tile::{Halves, Scores, Values, Weights, add_values, score, weigh};

/// How many tokens ahead queries are asked for.
const AHEAD: usize = 6;

/// AVX-512 with bf16 dot products and byte permutations.
pub(super) struct Pairs;

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
unsafe fn enter<W: Work>(work: W) {
    // SAFETY: the caller of `Tiles::enter` has the instructions and answers for `work`.
    unsafe { work.run() }
}

impl Tiles for Pairs {
    type V = Avx512;

    #[inline(always)]
    unsafe fn enter<W: Work>(work: W) {
        // SAFETY: the caller keeps the contract.
        unsafe { enter(work) }
    }

    #[inline(always)]
    unsafe fn power(x: Avx512) -> Avx512 {
        // SAFETY: the caller keeps the contract.
        Avx512(unsafe { crate::exp::power512(x.0) })
    }

    #[inline(always)]
    unsafe fn begin(o: &Operands<'_>, item: &Item, s: &mut Scratch<'_>) {
        let (d, group, pitch) = (o.shape.d, o.group(), s.pitch);
        let to = s.queries();
        // Whatever keeps the order of scores may wait until one is an exponent.
        let exponent = o.shape.scale * LOG2_E;
        (s.base, s.unit) = match o.shape.softcap {
            Some(_) => (o.shape.scale, 1.0),
            None if exponent > 0.0 => (1.0, exponent),
            None => (exponent, 1.0),
        };
        s.factors = [s.base; KEYS];
        for r in 0..item.tokens.len() * group {
            let q = o.query(item.tokens.start + r / group, item.head * group + r % group).as_ptr();
            // Rows of a head lie far apart.
            let ahead = q.wrapping_add(AHEAD * o.shape.qkv_width()).cast::<i8>();
            // SAFETY: a prefetch may be of any address.
            (0..4 * d).step_by(64).for_each(|at| unsafe { _mm_prefetch::<_MM_HINT_T0>(ahead.wrapping_add(at)) });
            for c in (0..pitch).step_by(32) {
                let part = |first: usize| mask16(d.saturating_sub(first));
                // SAFETY: the caller keeps the contract; a row of queries is `pitch / 2` pairs, and masks end at d.
                unsafe {
                    let low = _mm512_maskz_loadu_ps(part(c), q.wrapping_add(c));
                    let high = _mm512_maskz_loadu_ps(part(c + 16), q.wrapping_add(c + 16));
                    let pairs = std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high, low));
                    _mm512_storeu_ps(to.add((r * pitch + c) / 2), pairs);
                }
            }
        }
        // SAFETY: the caller keeps the contract; the queries are complete.
        unsafe { lanes::turn_queries(item.tokens.len() * group, pitch / 2, to, s.queries_by_lane()) };
    }

    #[inline(always)]
    unsafe fn attend_many(o: &Operands<'_>, item: &Item, s: &mut Scratch<'_>, base: usize, state: *mut f32) -> usize {
        // SAFETY: the caller keeps the contract.
        unsafe { lanes::attend(o, item, s, base, state) }
    }

    #[inline(always)]
    unsafe fn load_block(o: &Operands<'_>, item: &Item, s: &mut Scratch<'_>, keys: Range<usize>) {
        let count = keys.len();
        find_rows(o, item, s, keys.clone());
        // A few rows at a time, between others that are read: many at once would wait for each other.
        let ahead = Ahead::of(o, item, s, keys.end);
        let ask = |from, keys: Range<usize>| ahead.iter().for_each(|ahead| ahead.ask(o, from, keys.clone()));
        let (d, pitch, kt, pairs) = (o.shape.d, s.pitch, s.kt(), s.wide(1));
        // SAFETY: the caller keeps the contract; rows have d elements, and the scratch room for a block.
        unsafe {
            match o.k {
                KvSlice::Q8 { kind, .. } => {
                    let table = &s.tables[usize::from(kind != Q8::Int8)];
                    ask(o.k, 0..KEYS);
                    block::keys_from_codes(&s.k_rows, count, d, table, kt);
                    ask(o.v, 0..KEYS);
                    block::values_from_codes(&s.v_rows, count, d, table, pairs, pitch);
                }
                _ => {
                    block::keys_from_bf16(&s.k_rows, count, d, kt, |key| ask(o.k, key..key + 16));
                    ask(o.k, count.next_multiple_of(16)..KEYS);
                    block::values_from_bf16(&s.v_rows, count, d, pairs, pitch, |key| ask(o.v, key..key + 16));
                    ask(o.v, count.next_multiple_of(16)..KEYS);
                }
            }
        }
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
        let (rows, width, m) = (item.tokens.len() * o.group(), s.width, tile.len());
        let (scores, p) = (s.scores(0), s.scores(1));
        let q = s.queries().wrapping_add(tile.start * s.pitch / 2);
        let keys = seen.iter().map(|k| k.end).max().unwrap_or(0);
        let mut factors = [1.0; MOST_ROWS];
        // SAFETY: the caller keeps the contract; the scratch holds a tile of scores and of weights.
        unsafe {
            score(
                &Scores { q, pitch: s.pitch / 2, rows: m, kt: s.kt(), pairs: o.shape.d.div_ceil(2), keys, out: scores },
                &s.factors,
            );
            for i in (0..m).filter(|&i| !seen[i].is_empty()) {
                let scores = scores.add(i * KEYS);
                if let Some(cap) = o.shape.softcap {
                    cap_scores::<Avx512>(scores, cap, LOG2_E);
                }
                let to = p.add(i * KEYS / 2);
                factors[i] = weigh(scores, &seen[i], s.unit, &s.v_scales, to, &row(state, rows, width, tile.start + i));
            }
            let p = Weights { first: p, row: KEYS / 2, pair: 1 };
            let v = Values { p, v: s.wide(1), pitch: s.pitch, o: state.add(tile.start * width), width };
            add_tile_values(&v, seen, &mut factors[..m]);
        }
    }
}

/// The first `n` of sixteen lanes.
#[inline(always)]
fn mask16(n: usize) -> __mmask16 {
    if n >= 16 { !0 } else { (1 << n) - 1 }
}

/// Where the block's keys and values lie, their factors and scales. Beyond the last they are zeros.
#[inline(always)]
fn find_rows(o: &Operands<'_>, item: &Item, s: &mut Scratch<'_>, keys: Range<usize>) {
    let (d, count, page_size) = (o.shape.d, keys.len(), o.batch.page_size);
    let zeros = s.zeros().cast_const();
    s.k_rows[count..].fill(zeros);
    s.v_rows[count..].fill(zeros);
    let mut j = 0;
    while j < count {
        let first = o.vector(item.seq, item.head, keys.start + j);
        let n = (page_size - (keys.start + j) % page_size).min(count - j);
        let (k, v, size) = (bytes(o.k, first * d, n * d), bytes(o.v, first * d, n * d), element_size(o.k));
        for i in 0..n {
            s.k_rows[j + i] = k.wrapping_add(i * d * size).cast();
            s.v_rows[j + i] = v.wrapping_add(i * d * size).cast();
        }
        if let (KvSlice::Q8 { scales: ks, .. }, KvSlice::Q8 { scales: vs, .. }) = (o.k, o.v) {
            let factors = s.factors[j..j + n].iter_mut().zip(&ks[first..first + n]);
            factors.for_each(|(factor, scale)| *factor = scale * s.base);
            s.v_scales[j..j + n].copy_from_slice(&vs[first..first + n]);
        }
        j += n;
    }
}

/// A block that will be read soon.
struct Ahead {
    seq: usize,
    head: usize,
    keys: Range<usize>,
}

impl Ahead {
    /// The block after this one, or the first of what follows.
    #[inline(always)]
    fn of(o: &Operands<'_>, item: &Item, s: &Scratch<'_>, end: usize) -> Option<Ahead> {
        let block = |(seq, head): (usize, usize), first: usize| {
            let seen = o.batch.kv_lens[seq] as usize;
            Ahead { seq, head, keys: first..(first + KEYS).min(seen) }
        };
        match end < o.batch.kv_lens[item.seq] as usize {
            true => Some(block((item.seq, item.head), end)),
            false => s.following.map(|other| block(other, 0)),
        }
    }

    /// Asks for some of its rows of keys, or of values, counted from the block's first: pages lie anywhere.
    #[inline(always)]
    fn ask(&self, o: &Operands<'_>, from: KvSlice<'_>, rows: Range<usize>) {
        let (page_size, d, row) = (o.batch.page_size, o.shape.d, o.shape.d * element_size(from));
        let (mut key, end) = (self.keys.start + rows.start, (self.keys.start + rows.end).min(self.keys.end));
        while key < end {
            let first = o.vector(self.seq, self.head, key);
            let n = (page_size - key % page_size).min(end - key);
            key += n;
            let rows = bytes(from, first * d, n * d);
            for line in (0..n * row).step_by(64) {
                // SAFETY: a prefetch may be of any address.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(rows.wrapping_add(line).cast()) };
            }
        }
    }
}

fn element_size(from: KvSlice<'_>) -> usize {
    if matches!(from, KvSlice::Q8 { .. }) { 1 } else { 2 }
}

/// The address of `n` elements from `at` on, which must be there.
#[inline(always)]
fn bytes(from: KvSlice<'_>, at: usize, n: usize) -> *const u8 {
    match from {
        KvSlice::F32(x) => x[at..at + n].as_ptr().cast(),
        KvSlice::Bf16(x) => x[at..at + n].as_ptr().cast(),
        KvSlice::Q8 { codes, .. } => codes[at..at + n].as_ptr(),
    }
}

/// Adds each row's own keys and no others: the pairs that all rows see whole together, the rest by row.
///
/// # Safety
/// As for `Tiles`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
unsafe fn add_tile_values(v: &Values, seen: &[Range<usize>], factors: &mut [f32]) {
    if seen.iter().all(|k| k.start == 0 && k.end > 0) {
        let mut ends = [0; MOST_ROWS];
        ends.iter_mut().zip(seen).for_each(|(end, k)| *end = k.end);
        let (ends, whole) = (&ends[..seen.len()], seen.iter().map(|k| k.end).min().unwrap_or(0) / 2);
        // SAFETY: the caller keeps the contract.
        return unsafe { add_values(v, 0..whole, Halves::Both, factors, ends) };
    }
    let whole = |k: &Range<usize>| k.start.div_ceil(2)..k.end / 2;
    let start = seen.iter().map(|k| whole(k).start).max().unwrap_or(0);
    let end = seen.iter().map(|k| whole(k).end).min().unwrap_or(0).max(start);
    // SAFETY: the caller keeps the contract.
    unsafe {
        for (i, (k, factor)) in seen.iter().zip(factors.iter_mut()).enumerate().filter(|(_, (k, _))| !k.is_empty()) {
            add_alone(v, i, k.start / 2..k.start.div_ceil(2), Halves::High, factor);
            add_alone(v, i, whole(k).start..whole(k).end.min(start), Halves::Both, factor);
        }
        if start < end {
            add_values(v, start..end, Halves::Both, factors, &[]);
            factors.fill(1.0);
        }
        for (i, (k, factor)) in seen.iter().zip(factors.iter_mut()).enumerate().filter(|(_, (k, _))| !k.is_empty()) {
            add_alone(v, i, whole(k).start.max(end)..whole(k).end, Halves::Both, factor);
            add_alone(v, i, k.end / 2..k.end.div_ceil(2), Halves::Low, factor);
        }
    }
}

/// Adds some pairs to row `i`; its factor is used up.
///
/// # Safety
/// As for `Tiles`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
unsafe fn add_alone(v: &Values, i: usize, pairs: Range<usize>, halves: Halves, factor: &mut f32) {
    if !pairs.is_empty() {
        // SAFETY: the caller keeps the contract.
        unsafe { add_values(&v.of_row(i), pairs, halves, std::slice::from_ref(factor), &[]) };
        *factor = 1.0;
    }
}
