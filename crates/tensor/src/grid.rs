//! How a linear's input becomes codes: which values share a scale, and where that comes from. The usual kind, a scale for
//! each token from its own values, is [`crate::q8`]'s; this file defines the others, in plain loops.
//!
//! Product: `y = Σ_g (acc_g * xs[g]) * ws[g] (+ bias)` in f32, groups `g` of input channels ascending, where `acc_g` is the
//! sum over the group's channels of `(x - zero) * w`: exact in int32 for INT8, as in [`crate::q8`] for FP8. All kinds but
//! [`Grid::Group`] and [`Grid::Powers`] have one group, all but [`Grid::Asymmetric`] and [`Grid::Static`] the zero point 0.
use crate::q8::{absmax, dot, quantize_activation_row};
use crate::{Error, Q8, Result};

/// The codes that a linear reads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct InputCodes {
    /// The 8-bit type.
    pub kind: Q8,
    /// How they come to be.
    pub grid: Grid,
}

/// How a linear's input becomes codes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Grid {
    /// A scale for each token, from its values.
    #[default]
    Token,
    /// A scale and a zero point for each token, from its values (INT8): `scale = (max - min) / 255` of the range
    /// that includes 0, `zero = -128 - min / scale`.
    Asymmetric,
    /// The same scale for every token, and for INT8 the same zero point; values outside saturate.
    Static {
        /// The scale.
        scale: f32,
        /// Code of the value 0.
        zero: i8,
    },
    /// A scale for each token and each so many neighbouring channels (the last may be fewer), from their values.
    Group(usize),
    /// As `Group` of FP8, each scale a power of two, as microscaling formats have them.
    Powers(usize),
}

impl Grid {
    /// Scales of a token of width `k`.
    pub const fn groups(self, k: usize) -> usize {
        match self {
            Grid::Group(size) | Grid::Powers(size) => k.div_ceil(size),
            Grid::Token | Grid::Asymmetric | Grid::Static { .. } => 1,
        }
    }

    /// Neighbouring channels of a token of width `k` that share a scale.
    pub const fn group_size(self, k: usize) -> usize {
        match self {
            Grid::Group(size) | Grid::Powers(size) => size,
            Grid::Token | Grid::Asymmetric | Grid::Static { .. } => k,
        }
    }

    /// The code of 0, if all tokens have the same.
    pub const fn zero(self) -> Option<i8> {
        match self {
            Grid::Asymmetric => None,
            Grid::Static { zero, .. } => Some(zero),
            Grid::Token | Grid::Group(_) | Grid::Powers(_) => Some(0),
        }
    }

    /// Fails where codes of this kind have no such grid.
    pub fn check(self, kind: Q8) -> Result<()> {
        let refuse = |expected: &str| Err(Error::dtype(format!("{self:?} of {kind:?}: expected {expected}")));
        match self {
            Grid::Asymmetric if kind != Q8::Int8 => refuse("INT8 codes with a zero point"),
            Grid::Static { zero, .. } if zero != 0 && kind != Q8::Int8 => refuse("INT8 codes with a zero point"),
            Grid::Static { scale, .. } if !(scale.is_finite() && scale > 0.0) => refuse("a finite scale above 0"),
            Grid::Powers(_) if kind == Q8::Int8 => refuse("FP8 codes with scales that are powers of two"),
            Grid::Group(0) | Grid::Powers(0) => refuse("at least one channel in a group"),
            _ => Ok(()),
        }
    }

    /// Quantizes one token `[k]`; fills its scales `[groups]` and returns its zero point.
    ///
    /// A group whose scale would be 0 gets codes that mean 0. NaN or infinity gives codes 0 and scale NaN, so that
    /// the whole product row becomes NaN.
    pub fn quantize_row(self, kind: Q8, row: &[f32], codes: &mut [u8], scales: &mut [f32]) -> i8 {
        match self {
            Grid::Token => scales[0] = quantize_activation_row(kind, row, codes),
            Grid::Asymmetric => {
                let (scale, zero) = asymmetric_scale(row);
                scales[0] = encode_shifted(row, scale, zero, codes);
                return zero;
            }
            Grid::Static { scale, zero } => {
                let scale = if absmax(row).is_finite() { scale } else { f32::NAN };
                scales[0] = match zero {
                    0 => encode_units(kind, row, scale, codes),
                    _ => encode_shifted(row, scale, zero, codes),
                };
                return zero;
            }
            Grid::Group(size) => {
                for ((x, codes), scale) in row.chunks(size).zip(codes.chunks_mut(size)).zip(scales) {
                    *scale = quantize_activation_row(kind, x, codes);
                }
            }
            Grid::Powers(size) => {
                for ((x, codes), scale) in row.chunks(size).zip(codes.chunks_mut(size)).zip(scales) {
                    *scale = encode_units(kind, x, power_scale(kind, absmax(x)), codes);
                }
            }
        }
        0
    }
}

/// Scale and zero point of a token with a zero point; NaN and 0 where a value is not finite. A token of zeros (or so
/// small that the division underflows) has scale 0 and zero point -128.
pub fn asymmetric_scale(row: &[f32]) -> (f32, i8) {
    if !absmax(row).is_finite() {
        return (f32::NAN, 0);
    }
    let (min, max) = row.iter().fold((0.0f32, 0.0f32), |(min, max), &x| (min.min(x), max.max(x)));
    range_scale(min, max)
}

/// The same of finite values from `min` to `max`, which include 0.
pub fn range_scale(min: f32, max: f32) -> (f32, i8) {
    // Each side by itself: the range of two huge numbers may be infinite.
    let scale = max / 255.0 - min / 255.0;
    let scale = if (max - min).is_finite() { (max - min) / 255.0 } else { scale };
    if scale == 0.0 {
        return (0.0, -128);
    }
    (scale, (-128.0 - min / scale).round_ties_even().clamp(-128.0, 127.0) as i8)
}

/// The power of two for values of this largest magnitude: at least `absmax / largest code`, where largest codes are
/// 1.75 times a power of two.
pub fn power_scale(kind: Q8, absmax: f32) -> f32 {
    let top = if kind == Q8::E5M2 { 15 } else { 8 };
    if !absmax.is_finite() || absmax == 0.0 {
        return if absmax == 0.0 { 0.0 } else { f32::NAN };
    }
    let bits = absmax.to_bits();
    let carry = i32::from(bits & 0x7F_FFFF >= 0x60_0000);
    exponent_scale(((bits >> 23) as i32 + carry - top).max(0) as u8)
}

/// The scale that an E8M0 code stands for: `2^(code - 127)`; 255 is no number.
pub fn exponent_scale(code: u8) -> f32 {
    match code {
        0 => f32::from_bits(1 << 22),
        255 => f32::NAN,
        _ => f32::from_bits((code as u32) << 23),
    }
}

/// Codes on a given scale with a zero point; returns the scale. Codes are the zero point on a scale of 0, and 0 on one
/// that is no number.
pub fn encode_shifted(row: &[f32], scale: f32, zero: i8, codes: &mut [u8]) -> f32 {
    for (c, &x) in codes.iter_mut().zip(row) {
        *c = match scale {
            s if !s.is_finite() => 0,
            0.0 => zero as u8,
            s => (x / s + zero as f32).clamp(-128.0, 127.0).round_ties_even() as i8 as u8,
        };
    }
    scale
}

/// Codes on a given scale; returns the scale. Codes are 0 on a scale that is 0 or no number.
fn encode_units(kind: Q8, row: &[f32], scale: f32, codes: &mut [u8]) -> f32 {
    for (c, &x) in codes.iter_mut().zip(row) {
        *c = if scale == 0.0 || !scale.is_finite() { 0 } else { kind.encode(x / scale) };
    }
    scale
}

/// Product of one token and one output channel before the bias: codes `[k]` each, scales `[groups]` each.
pub fn product(kind: Q8, size: usize, (x, xs, zero): (&[u8], &[f32], i8), (w, ws): (&[u8], &[f32])) -> f32 {
    let acc = |x, w| if zero == 0 { dot(kind, x, w) } else { shifted_dot(x, w, zero) };
    let terms = x.chunks(size).zip(w.chunks(size)).zip(xs.iter().zip(ws));
    terms.map(|((x, w), (xs, ws))| (acc(x, w) * xs) * ws).reduce(|sum, term| sum + term).unwrap_or(0.0)
}

/// `Σ (x - zero) * w` of INT8 codes.
fn shifted_dot(x: &[u8], w: &[u8], zero: i8) -> f32 {
    let term = |(&x, &w): (&u8, &u8)| (x as i8 as i32 - zero as i32) * (w as i8 as i32);
    x.iter().zip(w).map(term).sum::<i32>() as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn quantized(grid: Grid, kind: Q8, row: &[f32]) -> (Vec<u8>, Vec<f32>, i8) {
        let (mut codes, mut scales) = (vec![9; row.len()], vec![9.0; grid.groups(row.len())]);
        let zero = grid.quantize_row(kind, row, &mut codes, &mut scales);
        (codes, scales, zero)
    }

    #[test]
    fn zero_points_reach_both_ends() {
        let (codes, scales, zero) = quantized(Grid::Asymmetric, Q8::Int8, &[-55.0, 200.0, 0.0, 72.5]);
        assert_eq!((scales, zero), (vec![1.0], -73));
        // 72.5 is halfway between two codes and goes to the even one.
        assert_eq!(codes.iter().map(|&c| c as i8).collect::<Vec<_>>(), [-128, 127, -73, 0]);
        let (codes, scales, zero) = quantized(Grid::Asymmetric, Q8::Int8, &[-1.0, -2.55]);
        assert_eq!((codes[1] as i8, zero), (-128, 127), "a range that ends at 0");
        assert!((scales[0] - 0.01).abs() < 1e-9);
        let (_, scales, _) = quantized(Grid::Asymmetric, Q8::Int8, &[f32::MAX, -f32::MAX]);
        assert!(scales[0].is_finite());
    }

    #[test]
    fn static_scales_saturate() {
        let grid = Grid::Static { scale: 0.5, zero: 3 };
        let (codes, scales, zero) = quantized(grid, Q8::Int8, &[0.0, 1.0, 1e9, -1e9]);
        assert_eq!(codes.iter().map(|&c| c as i8).collect::<Vec<_>>(), [3, 5, 127, -128]);
        assert_eq!((scales, zero), (vec![0.5], 3));
        let grid = Grid::Static { scale: 1.0, zero: 0 };
        let (codes, ..) = quantized(grid, Q8::E4M3, &[1e9, -1e9, 1.0]);
        assert_eq!(codes.iter().map(|&c| Q8::E4M3.decode(c)).collect::<Vec<_>>(), [448.0, -448.0, 1.0]);
        for bad in [f32::NAN, f32::INFINITY] {
            assert!(quantized(grid, Q8::E4M3, &[bad, 1.0]).1[0].is_nan());
        }
    }

    #[test]
    fn groups_stand_alone() {
        let row = [448.0, 1.0, 0.0, 0.0, 4.48];
        let (codes, scales, _) = quantized(Grid::Group(2), Q8::E4M3, &row);
        assert_eq!(scales, [1.0, 0.0, 4.48 / 448.0]);
        assert_eq!(codes.iter().map(|&c| Q8::E4M3.decode(c)).collect::<Vec<_>>(), [448.0, 1.0, 0.0, 0.0, 448.0]);
        let (_, scales, _) = quantized(Grid::Group(2), Q8::E4M3, &[1.0, 1.0, f32::NAN, 1.0]);
        assert!(scales[0].is_finite() && scales[1].is_nan());
    }

    #[test]
    fn powers_of_two_hold_their_group() {
        for (absmax, scale) in
            [(448.0, 2.0), (447.0, 1.0), (256.0, 1.0), (255.0, 1.0), (223.0, 0.5), (1.0, 1.0 / 256.0)]
        {
            assert_eq!(power_scale(Q8::E4M3, absmax), scale, "{absmax}");
        }
        assert_eq!(power_scale(Q8::E5M2, 32768.0), 1.0);
        assert_eq!(power_scale(Q8::E4M3, 1e-44), exponent_scale(0));
        assert_eq!(exponent_scale(127), 1.0);
        assert_eq!(exponent_scale(0).log2(), -127.0);
        assert!(exponent_scale(255).is_nan() && power_scale(Q8::E4M3, f32::INFINITY).is_nan());
    }

    #[test]
    fn products_shift_and_group() {
        let x = [5u8, (-3i8) as u8, 7];
        let w = [2u8, 4, (-1i8) as u8];
        assert_eq!(product(Q8::Int8, 3, (&x, &[0.5], 2), (&w, &[2.0])), (3 * 2 - 5 * 4 - 5) as f32);
        let (xs, ws) = ([0.5, 2.0], [3.0, 4.0]);
        assert_eq!(product(Q8::Int8, 2, (&x, &xs, 0), (&w, &ws)), -2.0 * 0.5 * 3.0 - 7.0 * 2.0 * 4.0);
    }

    #[test]
    fn impossible_grids_are_refused() {
        assert!(Grid::Asymmetric.check(Q8::E4M3).is_err());
        assert!(Grid::Static { scale: 0.0, zero: 0 }.check(Q8::Int8).is_err());
        assert!(Grid::Static { scale: 1.0, zero: 1 }.check(Q8::E5M2).is_err());
        assert!(Grid::Powers(32).check(Q8::Int8).unwrap_err().to_string().contains("FP8"));
        assert!(Grid::Group(0).check(Q8::Int8).is_err() && Grid::Group(1).check(Q8::Int8).is_ok());
    }
}
