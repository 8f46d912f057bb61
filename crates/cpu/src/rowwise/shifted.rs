//! Tokens to INT8 codes with a zero point: bit for bit what `planish_tensor::grid::encode_shifted` says.
use super::{Fold, Magnitude, RowsMut, fold4, for_vectors};
use crate::simd::{Op, Simd};
use planish_tensor::grid::range_scale;
use std::ops::Range;

/// Quantizes some rows.
pub(super) struct QuantizeShifted<'a> {
    /// The scale and zero point of all rows; else each has its own.
    pub given: Option<(f32, i8)>,
    pub rows: Range<usize>,
    pub x: &'a [f32],
    pub codes: &'a RowsMut<'a, u8>,
    pub xs: &'a RowsMut<'a, f32>,
    pub zeros: &'a RowsMut<'a, i32>,
}

impl Op for QuantizeShifted<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let k = self.codes.width;
        for r in self.rows.clone() {
            let x = &self.x[r * k..][..k];
            // SAFETY: each row is in one range.
            let (codes, xs, zeros) = unsafe { (self.codes.row(r), self.xs.row(r), self.zeros.row(r)) };
            let largest = f32::from_bits(s.ilargest(fold4(s, Magnitude, x)) as u32);
            let (scale, zero) = match self.given {
                Some((_, zero)) if !largest.is_finite() => (f32::NAN, zero),
                None if !largest.is_finite() => (f32::NAN, 0),
                Some(given) => given,
                None => {
                    let (below, above) = fold4(s, Sides, x);
                    range_scale(-s.largest(below), s.largest(above))
                }
            };
            (xs[0], zeros[0]) = (scale, zero.into());
            match scale {
                _ if !scale.is_finite() => codes.fill(0),
                0.0 => codes.fill(zero as u8),
                _ => encode(s, x, scale, zero, codes),
            }
        }
    }
}

/// How far finite values reach below and above 0.
#[derive(Clone, Copy)]
struct Sides;

impl<S: Simd> Fold<S> for Sides {
    type A = (S::F, S::F);
    const FILL: f32 = 0.0;
    #[inline(always)]
    fn start(self, s: S) -> (S::F, S::F) {
        (s.splat(0.0), s.splat(0.0))
    }
    #[inline(always)]
    fn step(self, s: S, (below, above): (S::F, S::F), x: S::F) -> (S::F, S::F) {
        (s.max(below, s.sub(s.splat(0.0), x)), s.max(above, x))
    }
    #[inline(always)]
    fn join(self, s: S, a: (S::F, S::F), b: (S::F, S::F)) -> (S::F, S::F) {
        (s.max(a.0, b.0), s.max(a.1, b.1))
    }
}

#[inline(always)]
fn encode<S: Simd>(s: S, x: &[f32], scale: f32, zero: i8, codes: &mut [u8]) {
    assert_eq!(x.len(), codes.len());
    let (p, c) = (x.as_ptr(), codes.as_mut_ptr());
    let (scale, zero) = (s.splat(scale), s.splat(zero.into()));
    // SAFETY: equal lengths; vectors lie inside.
    unsafe {
        for_vectors!(
            S,
            x.len(),
            |i| {
                s.store_bytes(c.add(i), S::LANES, code(s, s.load(p.add(i)), scale, zero));
            },
            |i, n| {
                s.store_bytes(c.add(i), n, code(s, s.load_part(p.add(i), n, 0.0), scale, zero));
            }
        );
    }
}

#[inline(always)]
fn code<S: Simd>(s: S, x: S::F, scale: S::F, zero: S::F) -> S::I {
    let units = s.add(s.div(x, scale), zero);
    s.to_int(s.min(s.splat(127.0), s.max(s.splat(-128.0), units)))
}
