//! Sums of hidden states and their root-mean-square norms.
use super::quantize::{Units, quantize_bounded};
use super::{Fold, Magnitude, Q8SliceMut, RowsMut, fold4, for_vectors, row_count, split};
use crate::isa::Isa;
use crate::simd::{Op, Simd, dispatch};
use crate::threads::Threads;
use std::ops::Range;

/// `out = x / sqrt(mean(x²) + eps) * weight` by row; `x[t, h]`, `weight[h]`, `out[t, h]`.
pub fn rms_norm(threads: &Threads, isa: Isa, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) {
    let (h, t) = (weight.len(), row_count(x.len(), weight.len()));
    let out = RowsMut::new(out, t, h);
    split(threads, t, h, |rows| dispatch(isa, Norm { rows, x, weight, eps, out: &out }));
}

/// As [`rms_norm`], in place, of `count` stretches of the weight's width from column `first` on; `x[t, cols]`.
pub fn rms_norm_stretches(
    threads: &Threads,
    isa: Isa,
    x: &mut [f32],
    cols: usize,
    first: usize,
    count: usize,
    weight: &[f32],
    eps: f32,
) {
    let t = row_count(x.len(), cols);
    assert!(first + count * weight.len() <= cols, "stretches inside a row");
    let x = RowsMut::new(x, t, cols);
    let width = count * weight.len();
    split(threads, t, width, |rows| dispatch(isa, NormStretches { rows, x: &x, first, width, weight, eps }));
}

/// `x += delta` (if given), then `out` is the norm of `x`, as [`rms_norm`].
pub fn add_rms_norm(
    threads: &Threads,
    isa: Isa,
    x: &mut [f32],
    delta: Option<&[f32]>,
    weight: &[f32],
    eps: f32,
    out: &mut [f32],
) {
    let (h, t) = (weight.len(), row_count(x.len(), weight.len()));
    let (x, out) = (RowsMut::new(x, t, h), RowsMut::new(out, t, h));
    check_delta(delta, t * h);
    split(threads, t, h, |rows| dispatch(isa, AddNorm { rows, x: &x, delta, weight, eps, out: &out }));
}

/// As [`add_rms_norm`], quantized: codes `[t, h]` and scales `[t]`. The norm itself is not kept.
pub fn add_rms_norm_quantize(
    threads: &Threads,
    isa: Isa,
    to: impl Into<Units>,
    x: &mut [f32],
    delta: Option<&[f32]>,
    weight: &[f32],
    eps: f32,
    out: Q8SliceMut<'_>,
) {
    let (to, h, t) = (to.into(), weight.len(), row_count(x.len(), weight.len()));
    let x = RowsMut::new(x, t, h);
    let (codes, xs) = (RowsMut::new(out.codes, t, h), RowsMut::new(out.xs, t, 1));
    check_delta(delta, t * h);
    split(threads, t, 2 * h, |rows| {
        dispatch(isa, AddNormQuantize { to, rows, x: &x, delta, weight, eps, codes: &codes, xs: &xs });
    });
}

/// `x += y`.
pub fn add(threads: &Threads, isa: Isa, x: &mut [f32], y: &[f32]) {
    assert_eq!(x.len(), y.len(), "terms of equal size");
    // Rows of some length: the sum has no rows of its own.
    const ROW: usize = 1 << 14;
    let (whole, len) = (x.len() / ROW, x.len());
    let (body, tail) = x.split_at_mut(whole * ROW);
    let body = RowsMut::new(body, whole, ROW);
    split(threads, whole, ROW, |rows| {
        for r in rows {
            // SAFETY: each row is in one range.
            dispatch(isa, Add { x: unsafe { body.row(r) }, y: &y[r * ROW..][..ROW] });
        }
    });
    dispatch(isa, Add { x: tail, y: &y[whole * ROW..len] });
}

fn check_delta(delta: Option<&[f32]>, len: usize) {
    if let Some(delta) = delta {
        assert_eq!(delta.len(), len, "terms of equal size");
    }
}

struct Norm<'a> {
    rows: Range<usize>,
    x: &'a [f32],
    weight: &'a [f32],
    eps: f32,
    out: &'a RowsMut<'a, f32>,
}

impl Op for Norm<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let h = self.weight.len();
        for r in self.rows.clone() {
            // SAFETY: each row is in one range.
            let out = unsafe { self.out.row(r) };
            norm_row(s, &self.x[r * h..][..h], self.weight, self.eps, out);
        }
    }
}

struct NormStretches<'a> {
    rows: Range<usize>,
    x: &'a RowsMut<'a, f32>,
    first: usize,
    width: usize,
    weight: &'a [f32],
    eps: f32,
}

impl Op for NormStretches<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let mut before = vec![0f32; self.weight.len()];
        for r in self.rows.clone() {
            // SAFETY: each row is in one range.
            let row = unsafe { self.x.row(r) };
            for stretch in row[self.first..][..self.width].chunks_exact_mut(before.len()) {
                before.copy_from_slice(stretch);
                norm_row(s, &before, self.weight, self.eps, stretch);
            }
        }
    }
}

struct AddNorm<'a> {
    rows: Range<usize>,
    x: &'a RowsMut<'a, f32>,
    delta: Option<&'a [f32]>,
    weight: &'a [f32],
    eps: f32,
    out: &'a RowsMut<'a, f32>,
}

impl Op for AddNorm<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let h = self.weight.len();
        for r in self.rows.clone() {
            // SAFETY: each row is in one range.
            let (x, out) = unsafe { (self.x.row(r), self.out.row(r)) };
            if let Some(delta) = self.delta {
                Add { x, y: &delta[r * h..][..h] }.run(s);
            }
            norm_row(s, x, self.weight, self.eps, out);
        }
    }
}

struct AddNormQuantize<'a> {
    to: Units,
    rows: Range<usize>,
    x: &'a RowsMut<'a, f32>,
    delta: Option<&'a [f32]>,
    weight: &'a [f32],
    eps: f32,
    codes: &'a RowsMut<'a, u8>,
    xs: &'a RowsMut<'a, f32>,
}

impl Op for AddNormQuantize<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let h = self.weight.len();
        let mut normed = vec![0f32; h];
        for r in self.rows.clone() {
            // SAFETY: each row is in one range.
            let (x, codes, xs) = unsafe { (self.x.row(r), self.codes.row(r), self.xs.row(r)) };
            if let Some(delta) = self.delta {
                Add { x, y: &delta[r * h..][..h] }.run(s);
            }
            let bound = norm_row(s, x, self.weight, self.eps, &mut normed);
            xs[0] = quantize_bounded(s, self.to, &normed, bound, codes);
        }
    }
}

struct Add<'a> {
    x: &'a mut [f32],
    y: &'a [f32],
}

impl Op for Add<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        assert_eq!(self.x.len(), self.y.len());
        let (x, y) = (self.x.as_mut_ptr(), self.y.as_ptr());
        // SAFETY: equal lengths; vectors lie inside.
        unsafe {
            for_vectors!(
                S,
                self.x.len(),
                |i| {
                    s.store(x.add(i), s.add(s.load(x.add(i)), s.load(y.add(i))));
                },
                |i, n| {
                    let sum = s.add(s.load_part(x.add(i), n, 0.0), s.load_part(y.add(i), n, 0.0));
                    s.store_part(x.add(i), n, sum);
                }
            );
        }
    }
}

/// Squares of a short piece of a row.
#[derive(Clone, Copy)]
pub(super) struct Squares;

impl<S: Simd> Fold<S> for Squares {
    type A = S::F;
    const FILL: f32 = 0.0;
    #[inline(always)]
    fn start(self, s: S) -> S::F {
        s.splat(0.0)
    }
    #[inline(always)]
    fn step(self, s: S, acc: S::F, x: S::F) -> S::F {
        s.madd(x, x, acc)
    }
    #[inline(always)]
    fn join(self, s: S, a: S::F, b: S::F) -> S::F {
        s.add(a, b)
    }
}

/// Normalizes a row, and returns the largest magnitudes of the result as [`Magnitude`] has them.
#[inline(always)]
fn norm_row<S: Simd>(s: S, x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) -> S::I {
    assert!(x.len() == weight.len() && x.len() == out.len());
    // Short sums in f32, their sum in f64: as exact as the definition, for rows of any width.
    let mut sum = 0f64;
    for piece in x.chunks(64 * S::LANES) {
        sum += s.sum(fold4(s, Squares, piece)) as f64;
    }
    let factor = s.splat(1.0 / ((sum / x.len() as f64) as f32 + eps).sqrt());
    let mut bound = Magnitude.start(s);
    let (x, w, o) = (x.as_ptr(), weight.as_ptr(), out.as_mut_ptr());
    // SAFETY: equal lengths; vectors lie inside.
    unsafe {
        for_vectors!(
            S,
            out.len(),
            |i| {
                let y = s.mul(s.mul(s.load(x.add(i)), factor), s.load(w.add(i)));
                bound = Magnitude.step(s, bound, y);
                s.store(o.add(i), y);
            },
            |i, n| {
                let y = s.mul(s.mul(s.load_part(x.add(i), n, 0.0), factor), s.load_part(w.add(i), n, 0.0));
                bound = Magnitude.step(s, bound, y);
                s.store_part(o.add(i), n, y);
            }
        );
    }
    bound
}
