//! Sixteen query rows at a time, one in each lane: a row's maximum and sum need no work across lanes, which is a
//! quarter of the time of long prompts. Every number is computed in the order of the tiles of few rows, to the same bits.
use super::tile::{Values, Weights, dot};
use super::{add_tile_values, block};
use crate::attention::scratch::{MANY, Scratch, row};
use crate::attention::segment::in_block;
use crate::attention::softmax::cap_scores;
use crate::attention::split::Item;
use crate::attention::tile::MOST_ROWS;
use crate::attention::{KEYS, Operands};
use crate::exp::exp512;
use crate::vector::Avx512;
use std::arch::x86_64::*;
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
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
unsafe fn attend_lanes<const N: usize>(
    o: &Operands<'_>,
    s: &mut Scratch<'_>,
    rows: usize,
    first: usize,
    base: usize,
    state: *mut f32,
) -> usize {
    let count = 16 * N;
    let mut seen = [const { 0..0 }; MANY];
    for (seen, v) in seen.iter_mut().zip(&s.visible[first..first + count]) {
        *seen = in_block(v, base);
    }
    let keys = seen.iter().filter(|k| !k.is_empty()).map(|k| k.end).max().unwrap_or(0);
    if keys == 0 {
        return count;
    }
    let (width, pairs) = (s.width, s.pitch / 2);
    let (q, x) = (s.queries_by_lane().wrapping_add(first * pairs), s.many());
    let p = x.wrapping_add(KEYS * count);
    let mut factors = [1.0; MANY];
    // SAFETY: the caller keeps the contract; the scratch has room for many rows.
    unsafe {
        for key in (0..keys).step_by(TILE) {
            score::<N>(q, pairs, o.shape.d.div_ceil(2), s.kt().add(key), &s.factors[key..], x.add(key * count));
        }
        if let Some(cap) = o.shape.softcap {
            (0..keys.next_multiple_of(TILE) * count / KEYS).for_each(|i| cap_scores::<Avx512>(x.add(i * KEYS), cap));
        }
        for v in 0..N {
            let first = first + 16 * v;
            let state = row(state, rows, width, first);
            let lanes = Lanes { x: x.add(16 * v), p: p.add(16 * v), pitch: count, m: state.m, l: state.l };
            let factors = &mut factors[16 * v..][..16];
            weigh(&lanes, &seen[16 * v..][..16], keys, &s.v_scales, factors);
        }
        let weights = Weights { first: p, row: 1, pair: count };
        let values = Values { p: weights, v: s.wide(1), pitch: s.pitch, o: state.add(first * width), width };
        for tile in (0..count).step_by(MOST_ROWS) {
            let rows = tile..(tile + MOST_ROWS).min(count);
            add_tile_values(&values.of_row(tile), &seen[rows.clone()], &mut factors[rows]);
        }
    }
    count
}

/// Scores of `16 N` rows for [`TILE`] keys, times the keys' factors, to `out[key][row]`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
unsafe fn score<const N: usize>(
    q: *const f32,
    q_pitch: usize,
    pairs: usize,
    kt: *const f32,
    factors: &[f32],
    out: *mut f32,
) {
    // SAFETY: the caller's operands cover rows, pairs and keys.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); TILE]; N];
        for i in 0..pairs {
            let x: [__m512; N] = std::array::from_fn(|v| _mm512_loadu_ps(q.add(v * 16 * q_pitch + i * 16)));
            for k in 0..TILE {
                let key = _mm512_set1_ps(*kt.add(i * KEYS + k));
                for v in 0..N {
                    acc[v][k] = dot(acc[v][k], x[v], key);
                }
            }
        }
        for v in 0..N {
            for k in 0..TILE {
                let y = _mm512_mul_ps(acc[v][k], _mm512_set1_ps(factors[k]));
                _mm512_storeu_ps(out.add(k * 16 * N + v * 16), y);
            }
        }
    }
}

/// Sixteen rows' scores, where their weights go, and what they know.
struct Lanes {
    /// Scores of key k are at `x[k * pitch]`.
    x: *const f32,
    /// Weights of pair j go to `p[j * pitch]`.
    p: *mut f32,
    pitch: usize,
    m: *mut f32,
    l: *mut f32,
}

/// As the `weigh` of the tiles, for sixteen rows; `seen[i]` are the keys of row i, none of them beyond `keys`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
unsafe fn weigh(lanes: &Lanes, seen: &[Range<usize>], keys: usize, scales: &[f32; KEYS], factors: &mut [f32]) {
    let low = _mm512_set1_ps(f32::NEG_INFINITY);
    let visible = Visible::new(seen);
    // SAFETY: the caller's pointers cover sixteen rows and a block of keys.
    unsafe {
        let load = |k: usize| _mm512_mask_loadu_ps(low, visible.of(k), lanes.x.wrapping_add(k * lanes.pitch));
        let mut top = low;
        for k in 0..keys {
            top = _mm512_max_ps(top, load(k));
        }
        let (old, old_sum) = (_mm512_loadu_ps(lanes.m), _mm512_loadu_ps(lanes.l));
        let m = _mm512_max_ps(old, top);
        let factor = exp512(_mm512_sub_ps(old, m));
        let mut sums = [_mm512_setzero_ps(); 16];
        let order = _mm512_loadu_si512(INTERLEAVE.as_ptr().cast());
        for i in (0..16).step_by(2) {
            let mut y = [[_mm512_setzero_ps(); 2]; 4];
            for (quarter, y) in y.iter_mut().enumerate() {
                let k = 16 * quarter + i;
                if k >= keys {
                    break;
                }
                *y = [k, k + 1].map(|k| exp512(_mm512_sub_ps(load(k), m)));
                let z: [__m512; 2] = std::array::from_fn(|h| {
                    _mm512_maskz_mul_ps(visible.of(k + h), y[h], _mm512_set1_ps(scales[k + h]))
                });
                let halves = std::mem::transmute::<__m512bh, __m512i>(_mm512_cvtne2ps_pbh(z[1], z[0]));
                let pairs = _mm512_permutexvar_epi16(order, halves);
                _mm512_storeu_si512(lanes.p.add(k / 2 * lanes.pitch).cast(), pairs);
            }
            for h in 0..2 {
                sums[i + h] = _mm512_add_ps(_mm512_add_ps(y[0][h], y[1][h]), _mm512_add_ps(y[2][h], y[3][h]));
            }
        }
        for half in [8, 4, 2, 1] {
            for i in 0..half {
                sums[i] = _mm512_add_ps(sums[i], sums[i + half]);
            }
        }
        // Rows that see none of these keys stay as they are.
        let any = visible.any;
        _mm512_mask_storeu_ps(lanes.m, any, m);
        _mm512_mask_storeu_ps(lanes.l, any, _mm512_fmadd_ps(old_sum, factor, sums[0]));
        _mm512_mask_storeu_ps(factors.as_mut_ptr(), any, factor);
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
