//! The softmax of one row against one block of keys, and the merging of two stretches of keys.
use super::KEYS;
use super::segment::Tiles;
use crate::exp::{TANH, TANH_SWITCH};
use crate::vector::Vector;

/// What a row knows after some keys: `o` is `[width]`, the sum of exp(score - m) * value; `l` the sum of exp(score - m).
pub(super) struct Row {
    pub o: *mut f32,
    pub m: *mut f32,
    pub l: *mut f32,
}

/// `cap * tanh(score / cap)` over a block, times `unit`.
///
/// # Safety
/// As for [`Vector`]; `scores` are [`KEYS`] floats.
#[inline(always)]
pub(super) unsafe fn cap_scores<V: Vector>(scores: *mut f32, cap: f32, unit: f32) {
    // SAFETY: the caller keeps the contract.
    unsafe {
        for i in 0..KEYS / V::LANES {
            let at = scores.add(i * V::LANES);
            let x = V::load(at).div(V::splat(cap));
            tanh(x).mul(V::splat(cap * unit)).store(at);
        }
    }
}

#[inline(always)]
unsafe fn tanh<V: Vector>(x: V) -> V {
    // SAFETY: the caller keeps the contract of `Vector`.
    unsafe {
        let square = x.mul(x);
        let p = TANH[1..].iter().fold(V::splat(TANH[0]), |p, &c| p.fma(square, V::splat(c)));
        let small = p.mul(square).fma(x, x);
        let e = x.abs().mul(V::splat(-2.0)).exp();
        let one = V::splat(1.0);
        let large = one.sub(e).div(one.add(e)).with_sign(x);
        x.abs().select_ge(V::splat(TANH_SWITCH), large, small)
    }
}

/// Turns a block's scores (masked ones are -infinity, at least one is not) into exp(score - m) for the new maximum m,
/// and returns exp(old m - m), the factor that the row's output now needs.
///
/// # Safety
/// As for [`Vector`]; `scores` are [`KEYS`] floats, and the row's pointers are valid.
#[inline(always)]
pub(super) unsafe fn weigh<V: Vector>(scores: *mut f32, row: &Row) -> f32 {
    // SAFETY: the caller keeps the contract.
    unsafe {
        let load = |i: usize| V::load(scores.add(i * V::LANES));
        let count = KEYS / V::LANES;
        let mut top = load(0);
        for i in 1..count {
            top = top.max(load(i));
        }
        let old = *row.m;
        let m = larger(old, top.largest());
        let factor = V::splat(old - m).exp().first();
        // Sixteen running sums on every family.
        let parts = 16 / V::LANES;
        let mut sums = [V::splat(0.0); 4];
        for i in 0..count {
            let p = load(i).sub(V::splat(m)).exp();
            p.store(scores.add(i * V::LANES));
            sums[i % parts] = if i < parts { p } else { sums[i % parts].add(p) };
        }
        let sum = match parts {
            1 => sums[0],
            2 => sums[0].add(sums[1]),
            _ => sums[0].add(sums[2]).add(sums[1].add(sums[3])),
        };
        *row.m = m;
        *row.l = (*row.l).mul_add(factor, sum.sum());
        factor
    }
}

/// The larger; `b` if either is NaN.
#[inline(always)]
pub(super) fn larger(a: f32, b: f32) -> f32 {
    if a > b { a } else { b }
}

/// Adds a later stretch of keys to a row.
///
/// # Safety
/// As for [`Tiles`]; outputs are `width` floats, a multiple of the lanes.
#[inline(always)]
pub(super) unsafe fn merge<T: Tiles>(row: &Row, later: &Row, width: usize) {
    // SAFETY: the caller keeps the contract.
    unsafe {
        // No key of the stretch was visible.
        if *later.l == 0.0 {
            return;
        }
        let m = larger(*row.m, *later.m);
        let (a, b) = (T::power(T::V::splat(*row.m - m)), T::power(T::V::splat(*later.m - m)));
        *row.m = m;
        *row.l = (*row.l).mul_add(a.first(), *later.l * b.first());
        for c in (0..width).step_by(T::V::LANES) {
            let y = T::V::load(later.o.add(c)).mul(b);
            T::V::load(row.o.add(c)).fma(a, y).store(row.o.add(c));
        }
    }
}
