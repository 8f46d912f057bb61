//! Gated activations.
use super::activation::{nonlinearity, with_nonlinearity};
use super::quantize::{Units, quantize_bounded};
use super::{Fold, Magnitude, Q8SliceMut, RowsMut, for_vectors, row_count, split};
use crate::isa::Isa;
use crate::simd::{Op, Simd, dispatch};
use crate::threads::Threads;
use planish_tensor::Activation;
use std::ops::Range;

/// `out[t, f] = act(gate) * up` for `gate_up[t, 2f]` = gate then up.
pub fn gated(threads: &Threads, isa: Isa, gate_up: &[f32], f: usize, act: Activation, out: &mut [f32]) {
    let t = row_count(gate_up.len(), 2 * f);
    let out = RowsMut::new(out, t, f);
    split(threads, t, 4 * f, |rows| dispatch(isa, Gated { rows, gate_up, act, out: &out }));
}

/// As [`gated`], quantized: codes `[t, f]` and scales `[t]`. The product itself is not kept.
pub fn gated_quantize(
    threads: &Threads,
    isa: Isa,
    to: impl Into<Units>,
    gate_up: &[f32],
    f: usize,
    act: Activation,
    out: Q8SliceMut<'_>,
) {
    let (to, t) = (to.into(), row_count(gate_up.len(), 2 * f));
    let (codes, xs) = (RowsMut::new(out.codes, t, f), RowsMut::new(out.xs, t, 1));
    split(threads, t, 4 * f, |rows| {
        dispatch(isa, GatedQuantize { to, rows, gate_up, act, codes: &codes, xs: &xs });
    });
}

struct Gated<'a> {
    rows: Range<usize>,
    gate_up: &'a [f32],
    act: Activation,
    out: &'a RowsMut<'a, f32>,
}

impl Op for Gated<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let f = self.out.width;
        for r in self.rows.clone() {
            // SAFETY: each row is in one range.
            gated_row(s, &self.gate_up[r * 2 * f..][..2 * f], self.act, unsafe { self.out.row(r) });
        }
    }
}

struct GatedQuantize<'a> {
    to: Units,
    rows: Range<usize>,
    gate_up: &'a [f32],
    act: Activation,
    codes: &'a RowsMut<'a, u8>,
    xs: &'a RowsMut<'a, f32>,
}

impl Op for GatedQuantize<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let f = self.codes.width;
        let mut product = vec![0f32; f];
        for r in self.rows.clone() {
            let bound = gated_row(s, &self.gate_up[r * 2 * f..][..2 * f], self.act, &mut product);
            // SAFETY: each row is in one range.
            let (codes, xs) = unsafe { (self.codes.row(r), self.xs.row(r)) };
            xs[0] = quantize_bounded(s, self.to, &product, bound, codes);
        }
    }
}

/// Applies the gate to a row, and returns the largest magnitudes of the result as [`Magnitude`] has them.
#[inline(always)]
fn gated_row<S: Simd>(s: S, gate_up: &[f32], act: Activation, out: &mut [f32]) -> S::I {
    with_nonlinearity!(act, |ACT| apply::<S, ACT>(s, gate_up, out))
}

#[inline(always)]
fn apply<S: Simd, const ACT: u8>(s: S, gate_up: &[f32], out: &mut [f32]) -> S::I {
    let f = out.len();
    assert_eq!(gate_up.len(), 2 * f);
    let mut bound = Magnitude.start(s);
    let (gate, up, o) = (gate_up.as_ptr(), gate_up[f..].as_ptr(), out.as_mut_ptr());
    // SAFETY: `f` elements each; vectors lie inside.
    unsafe {
        for_vectors!(
            S,
            f,
            |i| {
                let y = s.mul(nonlinearity::<S, ACT>(s, s.load(gate.add(i))), s.load(up.add(i)));
                bound = Magnitude.step(s, bound, y);
                s.store(o.add(i), y);
            },
            |i, n| {
                let (gate, up) = (s.load_part(gate.add(i), n, 0.0), s.load_part(up.add(i), n, 0.0));
                let y = s.mul(nonlinearity::<S, ACT>(s, gate), up);
                bound = Magnitude.step(s, bound, y);
                s.store_part(o.add(i), n, y);
            }
        );
    }
    bound
}
