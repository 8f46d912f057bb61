//! Nonlinearities: of plain MLPs, of gates, and the soft cap of logits.
use super::{RowsMut, for_vectors, row_count, split};
use crate::exp::{TANH, TANH_SWITCH};
use crate::isa::Isa;
use crate::simd::{Op, Simd, dispatch};
use crate::threads::Threads;
use planish_tensor::Activation;
use std::ops::Range;

/// `out = act(x)`; rows of `width` for sharing out.
pub fn activate(threads: &Threads, isa: Isa, x: &[f32], width: usize, act: Activation, out: &mut [f32]) {
    let t = row_count(x.len(), width);
    let out = RowsMut::new(out, t, width);
    split(threads, t, 4 * width, |rows| dispatch(isa, Activate { rows, x, act, out: &out }));
}

/// `x = cap * tanh(x / cap)`; rows of `width` for sharing out.
pub fn softcap(threads: &Threads, isa: Isa, x: &mut [f32], width: usize, cap: f32) {
    let t = row_count(x.len(), width);
    let x = RowsMut::new(x, t, width);
    split(threads, t, 4 * width, |rows| dispatch(isa, Softcap { rows, cap, x: &x }));
}

struct Activate<'a> {
    rows: Range<usize>,
    x: &'a [f32],
    act: Activation,
    out: &'a RowsMut<'a, f32>,
}

impl Op for Activate<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let width = self.out.width;
        for r in self.rows.clone() {
            // SAFETY: each row is in one range.
            let (x, out) = (&self.x[r * width..][..width], unsafe { self.out.row(r) });
            with_nonlinearity!(self.act, |ACT| activate_row::<S, ACT>(s, x, out));
        }
    }
}

#[inline(always)]
fn activate_row<S: Simd, const ACT: u8>(s: S, x: &[f32], out: &mut [f32]) {
    assert_eq!(x.len(), out.len());
    let (x, o) = (x.as_ptr(), out.as_mut_ptr());
    // SAFETY: equal lengths; vectors lie inside.
    unsafe {
        for_vectors!(
            S,
            out.len(),
            |i| {
                s.store(o.add(i), nonlinearity::<S, ACT>(s, s.load(x.add(i))));
            },
            |i, n| {
                s.store_part(o.add(i), n, nonlinearity::<S, ACT>(s, s.load_part(x.add(i), n, 0.0)));
            }
        );
    }
}

struct Softcap<'a> {
    rows: Range<usize>,
    cap: f32,
    x: &'a RowsMut<'a, f32>,
}

impl Op for Softcap<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let cap = s.splat(self.cap);
        for r in self.rows.clone() {
            // SAFETY: each row is in one range.
            let row = unsafe { self.x.row(r) };
            let p = row.as_mut_ptr();
            // SAFETY: vectors lie inside the row.
            unsafe {
                for_vectors!(
                    S,
                    row.len(),
                    |i| {
                        s.store(p.add(i), s.mul(cap, tanh(s, s.div(s.load(p.add(i)), cap))));
                    },
                    |i, n| {
                        let x = s.load_part(p.add(i), n, 0.0);
                        s.store_part(p.add(i), n, s.mul(cap, tanh(s, s.div(x, cap))));
                    }
                );
            }
        }
    }
}

pub(super) const SILU: u8 = 0;
pub(super) const GELU_TANH: u8 = 1;
pub(super) const GELU: u8 = 2;
pub(super) const RELU: u8 = 3;

/// Runs an expression with the number of a nonlinearity as a constant. (Closures may stay calls, with all vectors in
/// memory.)
macro_rules! with_nonlinearity {
    ($act:expr, |$name:ident| $run:expr) => {
        match $act {
            Activation::Silu => {
                const $name: u8 = crate::rowwise::activation::SILU;
                $run
            }
            Activation::GeluTanh => {
                const $name: u8 = crate::rowwise::activation::GELU_TANH;
                $run
            }
            Activation::Gelu => {
                const $name: u8 = crate::rowwise::activation::GELU;
                $run
            }
            Activation::Relu => {
                const $name: u8 = crate::rowwise::activation::RELU;
                $run
            }
        }
    };
}
pub(super) use with_nonlinearity;

/// One of the nonlinearities.
#[inline(always)]
pub(super) fn nonlinearity<S: Simd, const ACT: u8>(s: S, x: S::F) -> S::F {
    match ACT {
        SILU => sigmoid_product(s, x, x),
        GELU_TANH => {
            // x (1 + tanh(u)) / 2 = x sigmoid(2u)
            let root = (8.0f64 / std::f64::consts::PI).sqrt();
            let cubic = s.madd(s.mul(x, x), s.splat((0.044715 * root) as f32), s.splat(root as f32));
            sigmoid_product(s, x, s.mul(x, cubic))
        }
        GELU => s.mul(x, normal(s, x)),
        // The larger is the second if one is NaN.
        _ => s.max(s.splat(0.0), x),
    }
}

/// `x / (1 + exp(-u))`.
#[inline(always)]
fn sigmoid_product<S: Simd>(s: S, x: S::F, u: S::F) -> S::F {
    s.mul(x, s.reciprocal(s.add(s.splat(1.0), s.exp(s.sub(s.splat(0.0), u)))))
}

/// Abramowitz and Stegun 7.1.26: erf(x) = 1 - t p(t) exp(-x²) with t = 1 / (1 + 0.3275911 x), within 1.5e-7.
const ERF: [f32; 5] = [1.061_405_4, -1.453_152, 1.421_413_7, -0.284_496_74, 0.254_829_6];
const ERF_T: f32 = 0.327_591_1;

/// (1 + erf(x / √2)) / 2.
#[inline(always)]
fn normal<S: Simd>(s: S, x: S::F) -> S::F {
    let root = std::f32::consts::FRAC_1_SQRT_2;
    let magnitude = magnitude(s, x);
    let t = s.reciprocal(s.madd(magnitude, s.splat(ERF_T * root), s.splat(1.0)));
    let mut p = s.splat(ERF[0]);
    for c in &ERF[1..] {
        p = s.madd(p, t, s.splat(*c));
    }
    let tail = s.mul(s.mul(p, t), s.exp(s.mul(s.mul(x, x), s.splat(-0.5))));
    let half = s.splat(0.5);
    s.add(half, with_sign(s, s.sub(half, s.mul(half, tail)), x))
}

/// As attention's.
#[inline(always)]
fn tanh<S: Simd>(s: S, x: S::F) -> S::F {
    let square = s.mul(x, x);
    let mut p = s.splat(TANH[0]);
    for c in &TANH[1..] {
        p = s.madd(p, square, s.splat(*c));
    }
    let small = s.madd(s.mul(p, square), x, x);
    let magnitude = magnitude(s, x);
    let (e, one) = (s.exp(s.mul(magnitude, s.splat(-2.0))), s.splat(1.0));
    let large = with_sign(s, s.div(s.sub(one, e), s.add(one, e)), x);
    // All ones where the magnitude is below the switch: there the difference of the bits is negative.
    let below = s.shr::<31>(s.isub(s.bits(magnitude), s.bits(s.splat(TANH_SWITCH))));
    let below = s.isub(s.isplat(0), below);
    let above = s.isub(s.isplat(-1), below);
    s.float_of(s.ior(s.iand(below, s.bits(small)), s.iand(above, s.bits(large))))
}

#[inline(always)]
fn magnitude<S: Simd>(s: S, x: S::F) -> S::F {
    s.float_of(s.iand(s.bits(x), s.isplat(i32::MAX)))
}

/// A number without sign with the sign of `x`.
#[inline(always)]
fn with_sign<S: Simd>(s: S, y: S::F, x: S::F) -> S::F {
    s.float_of(s.ior(s.bits(y), s.iand(s.bits(x), s.isplat(i32::MIN))))
}
