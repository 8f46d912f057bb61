//! The definition of W8A8: grids, rounding and scales, in plain loops. Every back end must agree with this file.
//!
//! Weights: symmetric, one scale per output channel (`ws`), on the grid of compressed-tensors:
//! `scale = absmax / 127.5` for INT8 (the range is [-128, 127]), `absmax / 448` for E4M3, `absmax / 57344` for E5M2.
//! Activations: symmetric, one scale per token (`xs`), computed when the token runs: `absmax / 127`, `/ 448`, `/ 57344`.
//! Product: `y = (acc * xs) * ws (+ bias)` in f32, where `acc` is the exact int32 sum for INT8 and, for FP8,
//! the f32 sum of the (exact) products in ascending order of the input channel by fused multiply-adds.
//! Less usual ways in which inputs share scales (static, asymmetric, by groups) are in [`crate::grid`].
use crate::{DType, float8};

/// The 8-bit element types.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Q8 {
    /// Signed 8-bit integers.
    Int8,
    /// FP8 E4M3 (finite).
    E4M3,
    /// FP8 E5M2.
    E5M2,
}

/// The scale that a weight row of zeros gets (as compressed-tensors writes it: f32's epsilon).
pub const ZERO_ROW_SCALE: f32 = f32::EPSILON;

impl Q8 {
    /// Every 8-bit type.
    pub const ALL: [Q8; 3] = [Q8::Int8, Q8::E4M3, Q8::E5M2];

    /// Element type of the codes.
    pub const fn dtype(self) -> DType {
        match self {
            Q8::Int8 => DType::I8,
            Q8::E4M3 => DType::F8E4M3,
            Q8::E5M2 => DType::F8E5M2,
        }
    }

    /// The 8-bit type with these codes.
    pub const fn from_dtype(dtype: DType) -> Option<Q8> {
        match dtype {
            DType::I8 => Some(Q8::Int8),
            DType::F8E4M3 => Some(Q8::E4M3),
            DType::F8E5M2 => Some(Q8::E5M2),
            _ => None,
        }
    }

    /// Value of a row's absolute maximum in units of the weight scale.
    pub const fn weight_range(self) -> f32 {
        match self {
            Q8::Int8 => 127.5,
            Q8::E4M3 => float8::E4M3_MAX,
            Q8::E5M2 => float8::E5M2_MAX,
        }
    }

    /// Value of a token's absolute maximum in units of the activation scale.
    pub const fn activation_range(self) -> f32 {
        match self {
            Q8::Int8 => 127.0,
            Q8::E4M3 => float8::E4M3_MAX,
            Q8::E5M2 => float8::E5M2_MAX,
        }
    }

    /// The code nearest to `units` (a value divided by its scale), to nearest even, saturating. NaN gives 0.
    pub fn encode(self, units: f32) -> u8 {
        if units.is_nan() {
            return 0;
        }
        match self {
            Q8::Int8 => units.clamp(-128.0, 127.0).round_ties_even() as i8 as u8,
            Q8::E4M3 => float8::f32_to_e4m3(units.clamp(-float8::E4M3_MAX, float8::E4M3_MAX)),
            Q8::E5M2 => float8::f32_to_e5m2(units.clamp(-float8::E5M2_MAX, float8::E5M2_MAX)),
        }
    }

    /// The value of a code in units of its scale.
    pub fn decode(self, code: u8) -> f32 {
        match self {
            Q8::Int8 => code as i8 as f32,
            Q8::E4M3 => float8::e4m3_to_f32(code),
            Q8::E5M2 => float8::e5m2_to_f32(code),
        }
    }

    /// Scale of a weight row with this absolute maximum.
    pub fn weight_scale(self, absmax: f32) -> f32 {
        let scale = absmax / self.weight_range();
        if scale == 0.0 { ZERO_ROW_SCALE } else { scale }
    }
}

/// Largest magnitude of a row; NaN if any element is NaN.
pub fn absmax(row: &[f32]) -> f32 {
    row.iter().fold(0.0f32, |m, &x| if x.is_nan() || m.is_nan() { f32::NAN } else { m.max(x.abs()) })
}

/// Quantizes one weight row `[k]` to the nearest codes; returns its scale.
pub fn quantize_weight_row(kind: Q8, row: &[f32], codes: &mut [u8]) -> f32 {
    let scale = kind.weight_scale(absmax(row));
    encode_weight_row(kind, row, scale, codes);
    scale
}

/// Codes of one weight row on a given scale.
pub fn encode_weight_row(kind: Q8, row: &[f32], scale: f32, codes: &mut [u8]) {
    for (c, &w) in codes.iter_mut().zip(row) {
        *c = kind.encode(w / scale);
    }
}

/// Quantizes one token `[k]`; returns its scale.
/// A scale of 0 (a row of zeros, or so small that the division underflows) gives codes 0.
/// A row with NaN or infinity gives codes 0 and scale NaN, so that the whole product row becomes NaN.
pub fn quantize_activation_row(kind: Q8, row: &[f32], codes: &mut [u8]) -> f32 {
    let scale = absmax(row) / kind.activation_range();
    if !scale.is_finite() {
        codes.fill(0);
        return f32::NAN;
    }
    for (c, &x) in codes.iter_mut().zip(row) {
        *c = if scale == 0.0 { 0 } else { kind.encode(x / scale) };
    }
    scale
}

/// Unscaled product of one token `[k]` and one output channel `[k]`.
pub fn dot(kind: Q8, x: &[u8], w: &[u8]) -> f32 {
    match kind {
        Q8::Int8 => x.iter().zip(w).map(|(&a, &b)| a as i8 as i32 * b as i8 as i32).sum::<i32>() as f32,
        _ => x.iter().zip(w).fold(0.0f32, |acc, (&a, &b)| kind.decode(a).mul_add(kind.decode(b), acc)),
    }
}

/// Scales an unscaled product; the order of the operations is part of the definition.
#[inline]
pub fn rescale(acc: f32, xs: f32, ws: f32, bias: f32) -> f32 {
    (acc * xs) * ws + bias
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn int8_grid() {
        let mut codes = [0u8; 4];
        let s = quantize_weight_row(Q8::Int8, &[127.5, -127.5, 63.75, 0.0], &mut codes);
        assert_eq!(s, 1.0);
        assert_eq!(codes.map(|c| c as i8), [127, -128, 64, 0]);
        let s = quantize_activation_row(Q8::Int8, &[127.0, -126.5, 0.5, 1.5], &mut codes);
        assert_eq!((s, codes.map(|c| c as i8)), (1.0, [127, -126, 0, 2]));
    }

    #[test]
    fn degenerate_rows() {
        let mut codes = [9u8; 2];
        assert_eq!(quantize_activation_row(Q8::Int8, &[0.0, -0.0], &mut codes), 0.0);
        assert_eq!(codes, [0, 0]);
        assert!(quantize_activation_row(Q8::E4M3, &[f32::INFINITY, 1.0], &mut codes).is_nan());
        assert!(quantize_activation_row(Q8::Int8, &[1.0, f32::NAN], &mut codes).is_nan());
        assert_eq!(quantize_weight_row(Q8::Int8, &[0.0, 0.0], &mut codes), ZERO_ROW_SCALE);
    }
}
