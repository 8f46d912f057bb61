//! Tokens to 8 bits: bit for bit what `planish_tensor::Grid::quantize_row` says.
use super::shifted::QuantizeShifted;
use super::{Magnitude, RowsMut, fold4, for_vectors, row_count, split};
use crate::isa::Isa;
use crate::simd::{Op, Simd, dispatch};
use crate::threads::Threads;
use planish_tensor::grid::power_scale;
use planish_tensor::host::decode_f32_into;
use planish_tensor::{Error, Grid, HostTensor, Q8, Result};
use std::ops::Range;

/// Where quantized tokens go.
pub struct Q8SliceMut<'a> {
    /// `[t, k]` codes.
    pub codes: &'a mut [u8],
    /// `[t]` scales.
    pub xs: &'a mut [f32],
}

/// What a row becomes when it has one scale and no zero point.
#[derive(Clone, Copy)]
pub struct Units {
    /// The 8-bit type.
    pub kind: Q8,
    /// A scale that is given; `None` for one from the row's own values.
    pub scale: Option<f32>,
}

impl From<Q8> for Units {
    fn from(kind: Q8) -> Units {
        Units { kind, scale: None }
    }
}

impl Units {
    /// Those of a grid, if it has one scale and no zero point.
    pub fn of(kind: Q8, grid: Grid) -> Option<Units> {
        match grid {
            Grid::Token => Some(kind.into()),
            Grid::Static { scale, zero: 0 } => Some(Units { kind, scale: Some(scale) }),
            _ => None,
        }
    }
}

/// Quantizes each row of `x[t, k]`.
pub fn quantize_rows(threads: &Threads, isa: Isa, to: impl Into<Units>, x: &[f32], k: usize, out: Q8SliceMut<'_>) {
    let (to, t) = (to.into(), row_count(x.len(), k));
    let (codes, xs) = (RowsMut::new(out.codes, t, k), RowsMut::new(out.xs, t, 1));
    split(threads, t, k, |rows| {
        dispatch(isa, Quantize { to, rows, x, size: k, powers: false, codes: &codes, xs: &xs })
    });
}

/// Quantizes each row of `x[t, k]` on any grid: `out.xs` is `[t, groups]`, `zeros` `[t]` if the grid has zero points.
pub fn quantize_on(
    threads: &Threads,
    isa: Isa,
    kind: Q8,
    grid: Grid,
    x: &[f32],
    k: usize,
    out: Q8SliceMut<'_>,
    zeros: Option<&mut [i32]>,
) {
    if let Some(to) = Units::of(kind, grid) {
        return quantize_rows(threads, isa, to, x, k, out);
    }
    let t = row_count(x.len(), k);
    let (codes, xs) = (RowsMut::new(out.codes, t, k), RowsMut::new(out.xs, t, grid.groups(k)));
    if let Grid::Group(size) | Grid::Powers(size) = grid {
        let powers = matches!(grid, Grid::Powers(_));
        let to = kind.into();
        return split(threads, t, k, |rows| {
            dispatch(isa, Quantize { to, rows, x, size, powers, codes: &codes, xs: &xs });
        });
    }
    let mut unused = Vec::new();
    let zeros = zeros.unwrap_or_else(|| {
        unused.resize(t, 0);
        &mut unused
    });
    let zeros = RowsMut::new(zeros, t, 1);
    let given = if let Grid::Static { scale, zero } = grid { Some((scale, zero)) } else { None };
    split(threads, t, k, |rows| {
        dispatch(isa, QuantizeShifted { given, rows, x, codes: &codes, xs: &xs, zeros: &zeros });
    });
}

/// Rounds a float weight `[n, k]` to codes `[n, k]` and scales `[n]`, as [`planish_tensor::LinearPart::quantized`] does.
pub fn quantize_weight(threads: &Threads, isa: Isa, kind: Q8, weight: &HostTensor) -> Result<(Vec<u8>, Vec<f32>)> {
    let (&[n, k], true) = (weight.shape(), Q8::from_dtype(weight.dtype()).is_none()) else {
        return Err(Error::shape(format!("a weight to quantize: expected floats [n, k], found {weight:?}")));
    };
    let (mut codes, mut ws) = (vec![0; n * k], vec![0.0; n]);
    let (to, scales) = (RowsMut::new(&mut codes, n, k), RowsMut::new(&mut ws, n, 1));
    split(threads, n, k, |rows| {
        dispatch(isa, QuantizeWeight { kind, rows, weight, codes: &to, ws: &scales });
    });
    Ok((codes, ws))
}

struct QuantizeWeight<'a> {
    kind: Q8,
    rows: Range<usize>,
    weight: &'a HostTensor,
    codes: &'a RowsMut<'a, u8>,
    ws: &'a RowsMut<'a, f32>,
}

impl Op for QuantizeWeight<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let (dtype, k) = (self.weight.dtype(), self.codes.width);
        let mut row = vec![0f32; k];
        for r in self.rows.clone() {
            let size = k * dtype.size();
            decode_f32_into(dtype, &self.weight.bytes()[r * size..][..size], &mut row);
            let bound = s.ilargest(fold4(s, Magnitude, &row));
            let scale = self.kind.weight_scale(f32::from_bits(bound as u32));
            // SAFETY: each row is in one range.
            let (codes, ws) = unsafe { (self.codes.row(r), self.ws.row(r)) };
            ws[0] = scale;
            encode_scaled(s, self.kind, &row, scale, codes);
        }
    }
}

struct Quantize<'a> {
    to: Units,
    rows: Range<usize>,
    x: &'a [f32],
    /// Neighbours that share a scale.
    size: usize,
    /// Scales are powers of two.
    powers: bool,
    codes: &'a RowsMut<'a, u8>,
    xs: &'a RowsMut<'a, f32>,
}

impl Op for Quantize<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let k = self.codes.width;
        for r in self.rows.clone() {
            // SAFETY: each row is in one range.
            let (codes, xs) = unsafe { (self.codes.row(r), self.xs.row(r)) };
            let groups = self.x[r * k..][..k].chunks(self.size).zip(codes.chunks_mut(self.size));
            for ((x, codes), xs) in groups.zip(xs) {
                let (bound, mut to) = (fold4(s, Magnitude, x), self.to);
                if self.powers {
                    to.scale = Some(power_scale(to.kind, f32::from_bits(s.ilargest(bound) as u32)));
                }
                *xs = quantize_bounded(s, to, x, bound, codes);
            }
        }
    }
}

/// Quantizes values that share a scale, and returns that. Their largest magnitude is the largest lane of `bound`, as
/// [`Magnitude`] has it.
#[inline(always)]
pub(super) fn quantize_bounded<S: Simd>(s: S, to: Units, x: &[f32], bound: S::I, codes: &mut [u8]) -> f32 {
    let (kind, largest) = (to.kind, f32::from_bits(s.ilargest(bound) as u32));
    let scale = match to.scale {
        None => largest / kind.activation_range(),
        Some(scale) if largest.is_finite() => scale,
        Some(_) => f32::NAN,
    };
    if !scale.is_finite() || scale == 0.0 {
        codes.fill(0);
        return if scale == 0.0 { scale } else { f32::NAN };
    }
    encode_scaled(s, kind, x, scale, codes);
    scale
}

/// The codes nearest to `x / scale`; 0 on a scale that is no number.
#[inline(always)]
fn encode_scaled<S: Simd>(s: S, kind: Q8, x: &[f32], scale: f32, codes: &mut [u8]) {
    match kind {
        _ if !scale.is_finite() => codes.fill(0),
        Q8::Int8 => encode_row::<S, 0>(s, x, scale, codes),
        Q8::E4M3 => encode_row::<S, 3>(s, x, scale, codes),
        Q8::E5M2 => encode_row::<S, 2>(s, x, scale, codes),
    }
}

/// Codes with `M` bits of mantissa, or INT8 for 0. (Not a closure: those may stay calls, with all vectors in memory.)
#[inline(always)]
fn encode_row<S: Simd, const M: i32>(s: S, x: &[f32], scale: f32, codes: &mut [u8]) {
    assert_eq!(x.len(), codes.len());
    let (p, c) = (x.as_ptr(), codes.as_mut_ptr());
    let scale = s.splat(scale);
    // SAFETY: equal lengths; vectors lie inside.
    unsafe {
        for_vectors!(
            S,
            x.len(),
            |i| {
                s.store_bytes(c.add(i), S::LANES, encode::<S, M>(s, s.div(s.load(p.add(i)), scale)));
            },
            |i, n| {
                s.store_bytes(c.add(i), n, encode::<S, M>(s, s.div(s.load_part(p.add(i), n, 0.0), scale)));
            }
        );
    }
}

#[inline(always)]
fn encode<S: Simd, const M: i32>(s: S, units: S::F) -> S::I {
    match M {
        0 => s.to_int(s.min(s.splat(127.0), s.max(s.splat(-128.0), units))),
        3 => encode8::<S, 3>(s, units, 448.0, -6),
        _ => encode8::<S, 2>(s, units, 57344.0, -14),
    }
}

/// FP8 codes with `M` bits of mantissa: rounds to a multiple of the step of the binade, to nearest even.
#[inline(always)]
fn encode8<S: Simd, const M: i32>(s: S, units: S::F, largest: f32, min_exponent: i32) -> S::I {
    let bits = s.bits(units);
    let sign = s.iand(s.shr::<24>(bits), s.isplat(0x80));
    let x = s.min(s.splat(largest), s.float_of(s.iand(bits, s.isplat(0x7FFF_FFFF))));
    let lowest = s.isplat(min_exponent + 127);
    let exponent = s.imax(s.shr::<23>(s.bits(x)), lowest);
    // One over the step, a power of two: the product is exact.
    let per_step = s.float_of(s.shl::<23>(s.isub(s.isplat(254 + M), exponent)));
    let multiple = s.to_int(s.mul(x, per_step));
    // A multiple of 2^(M+1) carries into the exponent field by plain addition.
    s.ior(sign, s.iadd(s.shl::<M>(s.isub(exponent, lowest)), multiple))
}
