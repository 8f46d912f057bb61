//! Norms that take off the mean.
use super::norm::Squares;
use super::{Fold, RowsMut, fold4, for_vectors, row_count, split};
use crate::isa::Isa;
use crate::simd::{Op, Simd, dispatch};
use crate::threads::Threads;
use std::ops::Range;

/// `out = (x - mean) / sqrt(variance + eps) * weight + bias` by row; `x[t, h]`, `weight[h]`, `bias[h]`, `out[t, h]`.
pub fn layer_norm(threads: &Threads, isa: Isa, x: &[f32], weight: &[f32], bias: &[f32], eps: f32, out: &mut [f32]) {
    let (h, t) = (weight.len(), row_count(x.len(), weight.len()));
    assert_eq!(bias.len(), h, "weight and bias of equal size");
    let out = RowsMut::new(out, t, h);
    split(threads, t, 2 * h, |rows| dispatch(isa, LayerNorm { rows, x, weight, bias, eps, out: &out }));
}

struct LayerNorm<'a> {
    rows: Range<usize>,
    x: &'a [f32],
    weight: &'a [f32],
    bias: &'a [f32],
    eps: f32,
    out: &'a RowsMut<'a, f32>,
}

impl Op for LayerNorm<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let h = self.weight.len();
        for r in self.rows.clone() {
            let x = &self.x[r * h..][..h];
            // SAFETY: each row is in one range.
            let out = unsafe { self.out.row(r) };
            center(s, x, (total(s, Sum, x) / h as f64) as f32, out);
            let factor = 1.0 / ((total(s, Squares, out) / h as f64) as f32 + self.eps).sqrt();
            stretch(s, out, factor, self.weight, self.bias);
        }
    }
}

/// Short sums in f32, their sum in f64.
#[inline(always)]
fn total<S: Simd, T: Fold<S, A = S::F>>(s: S, fold: T, x: &[f32]) -> f64 {
    let mut sum = 0f64;
    for piece in x.chunks(64 * S::LANES) {
        sum += s.sum(fold4(s, fold, piece)) as f64;
    }
    sum
}

/// `out = x - mean`.
#[inline(always)]
fn center<S: Simd>(s: S, x: &[f32], mean: f32, out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    let (mean, x, o) = (s.splat(mean), x.as_ptr(), out.as_mut_ptr());
    // SAFETY: equal lengths; vectors lie inside.
    unsafe {
        for_vectors!(
            S,
            out.len(),
            |i| {
                s.store(o.add(i), s.sub(s.load(x.add(i)), mean));
            },
            |i, n| {
                s.store_part(o.add(i), n, s.sub(s.load_part(x.add(i), n, 0.0), mean));
            }
        );
    }
}

/// `x = x * factor * weight + bias`.
#[inline(always)]
fn stretch<S: Simd>(s: S, x: &mut [f32], factor: f32, weight: &[f32], bias: &[f32]) {
    assert!(x.len() == weight.len() && x.len() == bias.len());
    let (factor, p, w, b) = (s.splat(factor), x.as_mut_ptr(), weight.as_ptr(), bias.as_ptr());
    // SAFETY: equal lengths; vectors lie inside.
    unsafe {
        for_vectors!(
            S,
            x.len(),
            |i| {
                let y = s.mul(s.load(p.add(i)), factor);
                s.store(p.add(i), s.add(s.mul(y, s.load(w.add(i))), s.load(b.add(i))));
            },
            |i, n| {
                let y = s.mul(s.load_part(p.add(i), n, 0.0), factor);
                let y = s.add(s.mul(y, s.load_part(w.add(i), n, 0.0)), s.load_part(b.add(i), n, 0.0));
                s.store_part(p.add(i), n, y);
            }
        );
    }
}

/// The sum of a short piece of a row.
#[derive(Clone, Copy)]
struct Sum;

impl<S: Simd> Fold<S> for Sum {
    type A = S::F;
    const FILL: f32 = 0.0;
    #[inline(always)]
    fn start(self, s: S) -> S::F {
        s.splat(0.0)
    }
    #[inline(always)]
    fn step(self, s: S, acc: S::F, x: S::F) -> S::F {
        s.add(acc, x)
    }
    #[inline(always)]
    fn join(self, s: S, a: S::F, b: S::F) -> S::F {
        s.add(a, b)
    }
}
