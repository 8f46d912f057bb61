//! Register tiles of bf16 dot products, and the softmax of a row between them.
use super::mask16;
use crate::attention::KEYS;
use crate::attention::softmax::{Row, larger};
use crate::exp::power512;
use crate::vector::{Avx512, Vector};
use std::arch::x86_64::*;
use std::ops::Range;

/// Scores of some rows against a block of keys.
pub(super) struct Scores {
    /// The first row's queries; rows are `pitch` pairs apart.
    pub q: *const f32,
    pub pitch: usize,
    pub rows: usize,
    /// The block's keys, `[pairs, KEYS]`.
    pub kt: *const f32,
    pub pairs: usize,
    /// Keys whose scores are wanted.
    pub keys: usize,
    /// `[rows, KEYS]`.
    pub out: *mut f32,
}

/// Pairs of weights: that of row r for pair j is at `first[r * row + j * pair]`.
#[derive(Clone, Copy)]
pub(super) struct Weights {
    pub first: *const f32,
    pub row: usize,
    pub pair: usize,
}

/// Values of a block, weighed and added to some rows' outputs.
pub(super) struct Values {
    pub p: Weights,
    /// `[KEYS / 2, pitch]` pairs of keys' values.
    pub v: *const f32,
    pub pitch: usize,
    /// `[rows, width]`.
    pub o: *mut f32,
    pub width: usize,
}

impl Values {
    /// The same from row `i` on.
    #[inline(always)]
    pub fn of_row(&self, i: usize) -> Values {
        let first = self.p.first.wrapping_add(i * self.p.row);
        Values { p: Weights { first, ..self.p }, o: self.o.wrapping_add(i * self.width), ..*self }
    }
}

/// Which keys of a pair count. The others' values may be anything, even NaN.
#[derive(Clone, Copy)]
pub(super) enum Halves {
    Both,
    Low,
    High,
}

#[inline(always)]
pub(super) unsafe fn dot(acc: __m512, x: __m512, w: __m512) -> __m512 {
    // SAFETY: the caller keeps the contract of `Vector`.
    unsafe {
        _mm512_dpbf16_ps(acc, std::mem::transmute::<__m512, __m512bh>(x), std::mem::transmute::<__m512, __m512bh>(w))
    }
}

/// `N` registers from there on. (Not a closure for an array: those may stay calls, with all vectors in memory.)
#[inline(always)]
unsafe fn load<const N: usize>(from: *const f32) -> [__m512; N] {
    // SAFETY: the caller has the instructions, and that many floats.
    unsafe {
        let mut x = [_mm512_setzero_ps(); N];
        for v in 0..N {
            x[v] = _mm512_loadu_ps(from.add(v * 16));
        }
        x
    }
}

macro_rules! by_rows {
    ($rows:expr, $m:ident => $call:expr) => {
        match $rows {
            1 => by_rows!(1, $m, $call),
            2 => by_rows!(2, $m, $call),
            3 => by_rows!(3, $m, $call),
            4 => by_rows!(4, $m, $call),
            5 => by_rows!(5, $m, $call),
            _ => by_rows!(6, $m, $call),
        }
    };
    ($value:literal, $m:ident, $call:expr) => {{
        const $m: usize = $value;
        $call
    }};
}

/// Computes scores and multiplies them with the keys' factors.
///
/// # Safety
/// The machine has the instructions; the pointers cover rows, pairs and keys.
#[inline(always)]
pub(super) unsafe fn score(s: &Scores, factors: &[f32; KEYS]) {
    // SAFETY: the caller keeps the contract.
    unsafe {
        if s.keys > KEYS / 2 {
            by_rows!(s.rows, M => score_tile::<M, 4>(s, factors))
        } else {
            by_rows!(s.rows, M => score_tile::<M, 2>(s, factors))
        }
    }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
unsafe fn score_tile<const M: usize, const N: usize>(s: &Scores, factors: &[f32; KEYS]) {
    // SAFETY: the caller keeps the contract.
    unsafe {
        let mut acc = [[_mm512_setzero_ps(); N]; M];
        for i in 0..s.pairs {
            let k = s.kt.add(i * KEYS);
            let k = load::<N>(k);
            for r in 0..M {
                let q = _mm512_set1_ps(*s.q.add(r * s.pitch + i));
                for v in 0..N {
                    acc[r][v] = dot(acc[r][v], q, k[v]);
                }
            }
        }
        for r in 0..M {
            for v in 0..N {
                let factor = _mm512_loadu_ps(factors.as_ptr().add(v * 16));
                _mm512_storeu_ps(s.out.add(r * KEYS + v * 16), _mm512_mul_ps(acc[r][v], factor));
            }
        }
    }
}

/// As `softmax::weigh` with powers of two of scores times `unit`, of the keys `seen` and no others; the weights times the values' scales go to `p` as bf16.
///
/// # Safety
/// As for [`Vector`]; `scores` are [`KEYS`] floats, `p` as many bf16, and the row's pointers are valid.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
pub(super) unsafe fn weigh(
    scores: *const f32,
    seen: &Range<usize>,
    unit: f32,
    scales: &[f32; KEYS],
    p: *mut f32,
    row: &Row,
) -> f32 {
    // SAFETY: the caller keeps the contract.
    unsafe {
        let low = _mm512_set1_ps(f32::NEG_INFINITY);
        let (mut lanes, mut x) = ([0; 4], [low; 4]);
        for v in 0..4 {
            lanes[v] = mask16(seen.end.saturating_sub(v * 16)) & !mask16(seen.start.saturating_sub(v * 16));
            x[v] = _mm512_mask_loadu_ps(low, lanes[v], scores.add(v * 16));
        }
        let top = _mm512_max_ps(_mm512_max_ps(x[0], x[1]), _mm512_max_ps(x[2], x[3]));
        let old = *row.m;
        let m = larger(old, Avx512(top).largest() * unit);
        let factor = _mm512_cvtss_f32(power512(_mm512_set1_ps(old - m)));
        for v in 0..4 {
            x[v] = power512(_mm512_fmsub_ps(x[v], _mm512_set1_ps(unit), _mm512_set1_ps(m)));
        }
        let sum = _mm512_add_ps(_mm512_add_ps(x[0], x[1]), _mm512_add_ps(x[2], x[3]));
        for v in 0..4 {
            x[v] = _mm512_maskz_mul_ps(lanes[v], x[v], _mm512_loadu_ps(scales.as_ptr().add(v * 16)));
        }
        for v in [0, 2] {
            let pairs = std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(x[v + 1], x[v]));
            _mm512_storeu_ps(p.add(v * 8), pairs);
        }
        *row.m = m;
        *row.l = (*row.l).mul_add(factor, Avx512(sum).sum());
        factor
    }
}

/// Adds these pairs of keys to `factors.len()` rows, each multiplied with its factor first; and of the pairs after them
/// those keys that come before each row's end, if ends are given.
///
/// # Safety
/// The machine has the instructions; the pointers cover rows, channels and keys; there are ends for all rows or none.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
pub(super) unsafe fn add_values(s: &Values, pairs: Range<usize>, halves: Halves, factors: &[f32], ends: &[usize]) {
    let keep = match halves {
        Halves::Both => !0,
        Halves::Low => 0xFFFF,
        Halves::High => 0xFFFF_0000u32,
    } as i32;
    let mut column = 0;
    while column < s.width {
        let (left, pairs) = ((s.width - column) / 16, pairs.clone());
        // SAFETY: the caller keeps the contract.
        unsafe {
            column += match left {
                _ if keep != !0 => value_part(s, column, pairs, keep, factors[0]),
                4.. => by_rows!(factors.len(), M => value_tile::<M, 4>(s, column, pairs, factors, ends)),
                2 | 3 => by_rows!(factors.len(), M => value_tile::<M, 2>(s, column, pairs, factors, ends)),
                _ => by_rows!(factors.len(), M => value_tile::<M, 1>(s, column, pairs, factors, ends)),
            };
        }
    }
}

/// Returns the number of channels done.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
unsafe fn value_tile<const M: usize, const N: usize>(
    s: &Values,
    column: usize,
    pairs: Range<usize>,
    factors: &[f32],
    ends: &[usize],
) -> usize {
    // SAFETY: the caller keeps the contract.
    unsafe {
        let at = |r: usize, v: usize| s.o.add(r * s.width + column + v * 16);
        let mut acc = [[_mm512_setzero_ps(); N]; M];
        for r in 0..M {
            let factor = _mm512_set1_ps(*factors.get_unchecked(r));
            for v in 0..N {
                acc[r][v] = _mm512_mul_ps(_mm512_loadu_ps(at(r, v)), factor);
            }
        }
        for j in pairs.clone() {
            let value = load::<N>(s.v.add(j * s.pitch + column));
            for r in 0..M {
                let p = _mm512_set1_ps(*s.p.first.add(r * s.p.row + j * s.p.pair));
                for v in 0..N {
                    acc[r][v] = dot(acc[r][v], p, value[v]);
                }
            }
        }
        let last = ends.iter().max().map_or(0, |end| end.div_ceil(2));
        for j in pairs.end..last {
            let value = load::<N>(s.v.add(j * s.pitch + column));
            for r in 0..M {
                let keys = ends.get_unchecked(r).saturating_sub(2 * j);
                if keys > 0 {
                    let p = _mm512_set1_ps(*s.p.first.add(r * s.p.row + j * s.p.pair));
                    let keep = _mm512_set1_epi32(if keys == 1 { 0xFFFF } else { -1 });
                    for v in 0..N {
                        let value = _mm512_and_si512(_mm512_castps_si512(value[v]), keep);
                        acc[r][v] = dot(acc[r][v], p, _mm512_castsi512_ps(value));
                    }
                }
            }
        }
        for r in 0..M {
            for v in 0..N {
                _mm512_storeu_ps(at(r, v), acc[r][v]);
            }
        }
    }
    16 * N
}

/// One row and sixteen channels, with a part of each pair.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512bf16,avx2,fma")]
unsafe fn value_part(s: &Values, column: usize, pairs: Range<usize>, keep: i32, factor: f32) -> usize {
    // SAFETY: the caller keeps the contract.
    unsafe {
        let at = s.o.add(column);
        let mut acc = _mm512_mul_ps(_mm512_loadu_ps(at), _mm512_set1_ps(factor));
        for j in pairs {
            let value =
                _mm512_and_si512(_mm512_loadu_si512(s.v.add(j * s.pitch + column).cast()), _mm512_set1_epi32(keep));
            acc = dot(acc, _mm512_set1_ps(*s.p.first.add(j * s.p.pair)), _mm512_castsi512_ps(value));
        }
        _mm512_storeu_ps(at, acc);
    }
    16
}
