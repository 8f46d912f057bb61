//! Sixteen query rows at a time, one in each lane: a row's maximum and sum need no work across lanes, which is a
//! quarter of the time of long prompts. Every number is computed in the order of the tiles of few rows, to the same bits.
use super::tile::{Halves, Values, Weights, add_values, dot};
use super::{add_tile_values, block};
use crate::attention::scratch::{MANY, Scratch, row};
use crate::attention::segment::in_block;
use crate::attention::softmax::cap_scores;
use crate::attention::split::Item;
use crate::attention::tile::MOST_ROWS;
use crate::attention::{KEYS, KvSlice, Operands};
use crate::exp::power512;
use crate::vector::Avx512;
use std::arch::x86_64::*;
use std::f32::consts::LOG2_E;
use std::ops::Range;

/// Keys of a tile of scores.
const TILE: usize = 8;

/// From `[rows, pairs]` to `[rows / 16, pairs, 16]`; rows beyond the last sixteen are left out.
///
/// # Safety
/// The machine has the instructions; `pairs` is a multiple of 16, and both places have room.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
pub(super) unsafe fn turn_queries(rows: usize, pairs: usize, from: *const f32, to: *mut f32) {
    for first in (0..rows / 16 * 16).step_by(16) {
        for pair in (0..pairs).step_by(16) {
            // SAFETY: the caller keeps the contract.
            unsafe {
                block::transpose(
                    |i| _mm512_loadu_si512(from.add((first + i) * pairs + pair).cast()),
                    |i, x| _mm512_storeu_si512(to.add(first * pairs + (pair + i) * 16).cast(), x),
                );
            }
        }
    }
}

/// Attends with whole sixteens of the item's rows; returns how many rows those are.
///
/// # Safety
/// As for `Tiles::attend_many`.
#[inline(always)]
pub(super) unsafe fn attend(o: &Operands<'_>, item: &Item, s: &mut Scratch<'_>, base: usize, state: *mut f32) -> usize {
    let rows = item.tokens.len() * o.group();
    let mut first = 0;
    while first + 16 <= rows {
        // SAFETY: the caller keeps the contract.
        first += unsafe {
            match (rows - first) / 16 {
                1 => attend_lanes::<1>(o, s, rows, first, base, state),
                2 => attend_lanes::<2>(o, s, rows, first, base, state),
                _ => attend_lanes::<3>(o, s, rows, first, base, state),
            }
        };
    }
    first
}

/// Attends with `16 N` rows from `first` on; returns their number.
#[inline(always)]
unsafe fn attend_lanes<const N: usize>(
    o: &Operands<'_>,
    s: &mut Scratch<'_>,
    rows: usize,
    first: usize,
    base: usize,
    state: *mut f32,
) -> usize {
    let visible = &s.visible[first..first + 16 * N];
    let (low, high) = visible.iter().fold((usize::MAX, 0), |(low, high), v| (low.min(v.start), high.max(v.end)));
    if high <= base || low >= base + KEYS {
        return 16 * N;
    }
    let whole = visible.iter().all(|v| v.start <= base && v.end >= base + KEYS) && o.shape.softcap.is_none();
    // SAFETY: the caller keeps the contract.
    unsafe {
        match o.k {
            _ if !whole => attend_part::<N>(o, s, rows, first, base, state),
            KvSlice::Bf16(_) if s.base == 1.0 => attend_whole::<N, false>(o, s, rows, first, state),
            _ => attend_whole::<N, true>(o, s, rows, first, state),
        }
    }
    16 * N
}

/// Attends to a block of which every row sees all keys.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
unsafe fn attend_whole<const N: usize, const SCALES: bool>(
    o: &Operands<'_>,
    s: &mut Scratch<'_>,
    rows: usize,
    first: usize,
    state: *mut f32,
) {
    let (width, pairs, count) = (s.width, s.pitch / 2, 16 * N);
    let (q, x) = (s.queries_by_lane().wrapping_add(first * pairs), s.many());
    let mut factors = [1.0; MANY];
    // SAFETY: the caller keeps the contract; the scratch has room for many rows.
    unsafe {
        let mut tops = [_mm512_set1_ps(f32::NEG_INFINITY); N];
        for key in (0..KEYS).step_by(TILE) {
            let to = x.add(key * count);
            let (kt, factors) = (s.kt().add(key), &s.factors[key..]);
            score::<N, SCALES>(q, pairs, o.shape.d.div_ceil(2), kt, factors, to, &mut tops);
            // Outputs will be read after this, from the second-level cache.
            let part = count * width / (KEYS / TILE);
            let outputs = state.wrapping_add(first * width + key / TILE * part);
            for line in (0..part).step_by(16) {
                _mm_prefetch::<_MM_HINT_T0>(outputs.wrapping_add(line).cast());
            }
        }
        let visible = Visible::all();
        for v in 0..N {
            let state = row(state, rows, width, first + 16 * v);
            let lanes = Lanes { x: x.add(16 * v), pitch: count, keys: KEYS, unit: s.unit, m: state.m, l: state.l };
            weigh::<SCALES, true>(&lanes, &visible, tops[v], &s.v_scales, &mut factors[16 * v..][..16]);
        }
        let weights = Weights { first: x, row: 1, pair: 2 * count };
        let values = Values { p: weights, v: s.wide(1), pitch: s.pitch, o: state.add(first * width), width };
        for tile in (0..count).step_by(MOST_ROWS) {
            let factors = &factors[tile..(tile + MOST_ROWS).min(count)];
            add_values(&values.of_row(tile), 0..KEYS / 2, Halves::Both, factors, &[]);
        }
    }
}

/// Attends to a block of which a row may see any part, or whose scores are capped.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
unsafe fn attend_part<const N: usize>(
    o: &Operands<'_>,
    s: &mut Scratch<'_>,
    rows: usize,
    first: usize,
    base: usize,
    state: *mut f32,
) {
    let (width, pairs, count) = (s.width, s.pitch / 2, 16 * N);
    let mut seen = [const { 0..0 }; MANY];
    for (seen, v) in seen.iter_mut().zip(&s.visible[first..first + count]) {
        *seen = in_block(v, base);
    }
    let keys = seen.iter().filter(|k| !k.is_empty()).map(|k| k.end).max().unwrap_or(0);
    let (q, x) = (s.queries_by_lane().wrapping_add(first * pairs), s.many());
    let mut factors = [1.0; MANY];
    // SAFETY: the caller keeps the contract; the scratch has room for many rows.
    unsafe {
        let mut tops = [_mm512_setzero_ps(); N];
        for key in (0..keys).step_by(TILE) {
            let to = x.add(key * count);
            let (kt, factors) = (s.kt().add(key), &s.factors[key..]);
            score::<N, true>(q, pairs, o.shape.d.div_ceil(2), kt, factors, to, &mut tops);
        }
        if let Some(cap) = o.shape.softcap {
            let blocks = 0..keys.next_multiple_of(TILE) * count / KEYS;
            blocks.for_each(|i| cap_scores::<Avx512>(x.add(i * KEYS), cap, LOG2_E));
        }
        for v in 0..N {
            let state = row(state, rows, width, first + 16 * v);
            let lanes = Lanes { x: x.add(16 * v), pitch: count, keys, unit: s.unit, m: state.m, l: state.l };
            let visible = Visible::new(&seen[16 * v..][..16]);
            let factors = &mut factors[16 * v..][..16];
            weigh::<true, false>(&lanes, &visible, top(&lanes, &visible), &s.v_scales, factors);
        }
        let weights = Weights { first: x, row: 1, pair: 2 * count };
        let values = Values { p: weights, v: s.wide(1), pitch: s.pitch, o: state.add(first * width), width };
        for tile in (0..count).step_by(MOST_ROWS) {
            let rows = tile..(tile + MOST_ROWS).min(count);
            add_tile_values(&values.of_row(tile), &seen[rows.clone()], &mut factors[rows]);
        }
    }
}

/// Scores of `16 N` rows for [`TILE`] keys to `out[key][row]`, times the keys' factors if there are any (or may be);
/// `tops` become the largest so far.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
unsafe fn score<const N: usize, const SCALES: bool>(
    q: *const f32,
    q_pitch: usize,
    pairs: usize,
    kt: *const f32,
    factors: &[f32],
    out: *mut f32,
    tops: &mut [__m512; N],
) {
    // SAFETY: the caller's operands cover rows, pairs and keys.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); TILE]; N];
        for i in 0..pairs {
            let mut x = [_mm512_setzero_ps(); N];
            for v in 0..N {
                x[v] = _mm512_loadu_ps(q.add(v * 16 * q_pitch + i * 16));
            }
            for k in 0..TILE {
                let key = _mm512_set1_ps(*kt.add(i * KEYS + k));
                for v in 0..N {
                    acc[v][k] = dot(acc[v][k], x[v], key);
                }
            }
        }
        for v in 0..N {
            let mut y = acc[v];
            for k in 0..TILE {
                if SCALES {
                    y[k] = _mm512_mul_ps(y[k], _mm512_set1_ps(factors[k]));
                }
                _mm512_storeu_ps(out.add(k * 16 * N + v * 16), y[k]);
            }
            for half in [4, 2, 1] {
                for k in 0..half {
                    y[k] = _mm512_max_ps(y[k], y[k + half]);
                }
            }
            tops[v] = _mm512_max_ps(tops[v], y[0]);
        }
    }
}

/// Sixteen rows' scores, which become their weights, and what they know.
struct Lanes {
    /// Scores of key k are at `x[k * pitch]`; weights of pair j go to `x[2 * j * pitch]`.
    x: *mut f32,
    pitch: usize,
    /// No row sees keys from here on.
    keys: usize,
    /// What turns scores into exponents.
    unit: f32,
    m: *mut f32,
    l: *mut f32,
}

impl Lanes {
    /// Scores of a key, -infinity in rows that do not see it.
    #[inline(always)]
    unsafe fn load<const WHOLE: bool>(&self, sees: __mmask16, k: usize) -> __m512 {
        let from = self.x.wrapping_add(k * self.pitch);
        // SAFETY: the caller has the instructions, and scores of key k.
        unsafe {
            match WHOLE {
                true => _mm512_loadu_ps(from),
                false => _mm512_mask_loadu_ps(_mm512_set1_ps(f32::NEG_INFINITY), sees, from),
            }
        }
    }
}

/// The largest scores.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
unsafe fn top(lanes: &Lanes, visible: &Visible) -> __m512 {
    let mut top = _mm512_set1_ps(f32::NEG_INFINITY);
    for k in 0..lanes.keys {
        // SAFETY: the caller's scores cover the keys.
        top = _mm512_max_ps(top, unsafe { lanes.load::<false>(visible.of(k), k) });
    }
    top
}

/// As the `weigh` of the tiles, for sixteen rows, whose largest scores of these keys are `top`. Weights are multiplied
/// with values' scales if there are any (or may be).
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
unsafe fn weigh<const SCALES: bool, const WHOLE: bool>(
    lanes: &Lanes,
    visible: &Visible,
    top: __m512,
    scales: &[f32; KEYS],
    factors: &mut [f32],
) {
    // A tile adds the sums of its sixteen lanes by halves: in this order only a few of them wait for others.
    const ORDER: [usize; 8] = [0, 8, 4, 12, 2, 10, 6, 14];
    // SAFETY: the caller's pointers cover sixteen rows and a block of keys.
    unsafe {
        let (old, old_sum) = (_mm512_loadu_ps(lanes.m), _mm512_loadu_ps(lanes.l));
        let m = _mm512_max_ps(old, _mm512_mul_ps(top, _mm512_set1_ps(lanes.unit)));
        let factor = power512(_mm512_sub_ps(old, m));
        let mut sums = [[_mm512_setzero_ps(); 2]; 8];
        for n in 0..8 {
            sums[n] = weigh_keys::<SCALES, WHOLE>(lanes, visible, m, scales, ORDER[n]);
        }
        for half in [1, 2, 4] {
            for n in (0..8).step_by(2 * half) {
                sums[n] = add(sums[n], sums[n + half]);
            }
        }
        let sum = _mm512_fmadd_ps(old_sum, factor, _mm512_add_ps(sums[0][0], sums[0][1]));
        // Rows that see none of these keys stay as they are.
        let any = if WHOLE { !0 } else { visible.any };
        _mm512_mask_storeu_ps(lanes.m, any, m);
        _mm512_mask_storeu_ps(lanes.l, any, sum);
        _mm512_mask_storeu_ps(factors.as_mut_ptr(), any, factor);
    }
}

#[inline(always)]
unsafe fn add(a: [__m512; 2], b: [__m512; 2]) -> [__m512; 2] {
    // SAFETY: the caller has the instructions.
    unsafe { [_mm512_add_ps(a[0], b[0]), _mm512_add_ps(a[1], b[1])] }
}

/// Weights of keys i and i + 1 of each sixteen; returns their sums. (No closures here: they may stay calls, with all
/// vectors in memory.)
#[inline(always)]
unsafe fn weigh_keys<const SCALES: bool, const WHOLE: bool>(
    lanes: &Lanes,
    visible: &Visible,
    m: __m512,
    scales: &[f32; KEYS],
    i: usize,
) -> [__m512; 2] {
    // SAFETY: as for `weigh`.
    unsafe {
        let order = _mm512_loadu_si512(INTERLEAVE.as_ptr().cast());
        let mut y = [[_mm512_setzero_ps(); 2]; 4];
        for quarter in 0..4 {
            let k = 16 * quarter + i;
            if !WHOLE && k >= lanes.keys {
                break;
            }
            let mut z = [_mm512_setzero_ps(); 2];
            for h in 0..2 {
                let sees = if WHOLE { !0 } else { visible.of(k + h) };
                let x = lanes.load::<WHOLE>(sees, k + h);
                y[quarter][h] = power512(_mm512_fmsub_ps(x, _mm512_set1_ps(lanes.unit), m));
                z[h] = match (SCALES, WHOLE) {
                    (true, true) => _mm512_mul_ps(y[quarter][h], _mm512_set1_ps(scales[k + h])),
                    (true, false) => _mm512_maskz_mul_ps(sees, y[quarter][h], _mm512_set1_ps(scales[k + h])),
                    _ => y[quarter][h],
                };
            }
            let halves = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(z[1], z[0]));
            let pairs = _mm512_permutexvar_epi16(order, halves);
            _mm512_storeu_si512(lanes.x.add(k * lanes.pitch).cast(), pairs);
        }
        add(add(y[0], y[1]), add(y[2], y[3]))
    }
}

/// Words 0, 16, 1, 17, … of a register.
const INTERLEAVE: [u16; 32] = {
    let mut order = [0; 32];
    let mut i = 0;
    while i < 32 {
        order[i] = (i / 2 + i % 2 * 16) as u16;
        i += 1;
    }
    order
};

/// Which of sixteen rows see a key.
struct Visible {
    start: __m512i,
    end: __m512i,
    /// Every row sees keys `from..to`.
    all: Range<usize>,
    /// Rows that see a key.
    any: __mmask16,
}

impl Visible {
    /// Every row sees every key.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
    fn all() -> Visible {
        let end = _mm512_set1_epi32(KEYS as i32);
        Visible { start: _mm512_setzero_si512(), end, all: 0..KEYS, any: !0 }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
    fn new(seen: &[Range<usize>]) -> Visible {
        let start: [i32; 16] = std::array::from_fn(|i| seen[i].start as i32);
        let end: [i32; 16] = std::array::from_fn(|i| seen[i].end as i32);
        let from = seen.iter().map(|k| k.start).max().unwrap_or(0);
        let to = seen.iter().map(|k| k.end).min().unwrap_or(0);
        // SAFETY: arrays of sixteen numbers.
        let (start, end) =
            unsafe { (_mm512_loadu_si512(start.as_ptr().cast()), _mm512_loadu_si512(end.as_ptr().cast())) };
        Visible { start, end, all: from..to, any: _mm512_cmplt_epi32_mask(start, end) }
    }

    /// Rows that see key `k`.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
    fn of(&self, k: usize) -> __mmask16 {
        if self.all.contains(&k) {
            return !0;
        }
        let k = _mm512_set1_epi32(k as i32);
        _mm512_cmple_epi32_mask(self.start, k) & _mm512_cmplt_epi32_mask(k, self.end)
    }
}
