//! FP8 E4M3 (finite, "fn") and E5M2: decoding tables and encoders that round to nearest even.
//! Format: OCP 8-bit Floating Point Specification, revision 1.0.

/// Largest finite E4M3 value.
pub const E4M3_MAX: f32 = 448.0;
/// Largest finite E5M2 value.
pub const E5M2_MAX: f32 = 57344.0;

const E4M3_TABLE: [f32; 256] = table(4, 3);
const E5M2_TABLE: [f32; 256] = table(5, 2);

/// Value of an E4M3 code (0x7F and 0xFF are NaN).
#[inline]
pub fn e4m3_to_f32(code: u8) -> f32 {
    E4M3_TABLE[code as usize]
}

/// Value of an E5M2 code.
#[inline]
pub fn e5m2_to_f32(code: u8) -> f32 {
    E5M2_TABLE[code as usize]
}

/// The E4M3 code nearest to `x`, saturating at ±448 (infinities too); NaN gives the NaN code.
pub fn f32_to_e4m3(x: f32) -> u8 {
    let sign = ((x.to_bits() >> 24) & 0x80) as u8;
    if x.is_nan() {
        return sign | 0x7F;
    }
    sign | encode_magnitude(x.abs().min(E4M3_MAX), 3, -6)
}

/// The E5M2 code nearest to `x`; values that round beyond ±57344 become infinity, NaN stays NaN.
pub fn f32_to_e5m2(x: f32) -> u8 {
    let sign = ((x.to_bits() >> 24) & 0x80) as u8;
    if x.is_nan() {
        return sign | 0x7E;
    }
    // 61440 lies halfway between the largest finite value and the next step, whose code is even.
    if x.abs() >= 61440.0 {
        return sign | 0x7C;
    }
    sign | encode_magnitude(x.abs(), 2, -14)
}

/// Code of a finite magnitude: rounds to a multiple of the step of its binade, to nearest even.
fn encode_magnitude(x: f32, mantissa_bits: i32, min_exponent: i32) -> u8 {
    if x == 0.0 {
        return 0;
    }
    let exponent = (((x.to_bits() >> 23) as i32) - 127).max(min_exponent);
    // Both are powers of two in f32's normal range, so the quotient is exact.
    let step = f32::from_bits(((exponent - mantissa_bits + 127) as u32) << 23);
    let multiple = (x / step).round_ties_even() as u32;
    // A multiple of 2^(bits+1) carries into the exponent field by plain addition.
    let base = ((exponent - min_exponent) as u32) << mantissa_bits;
    (base + multiple) as u8
}

const fn table(exponent_bits: u32, mantissa_bits: u32) -> [f32; 256] {
    let mut out = [0f32; 256];
    let mut code = 0;
    while code < 256 {
        out[code] = decode(code as u32, exponent_bits, mantissa_bits);
        code += 1;
    }
    out
}

const fn decode(code: u32, exponent_bits: u32, mantissa_bits: u32) -> f32 {
    let negative = code & 0x80 != 0;
    let magnitude = code & 0x7F;
    let exponent = magnitude >> mantissa_bits;
    let mantissa = magnitude & ((1 << mantissa_bits) - 1);
    let all_ones = (1 << exponent_bits) - 1;
    let value = if exponent_bits == 4 && magnitude == 0x7F {
        f32::NAN
    } else if exponent_bits == 5 && exponent == all_ones {
        if mantissa == 0 { f32::INFINITY } else { f32::NAN }
    } else {
        let bias = (1 << (exponent_bits - 1)) - 1;
        let (field, fraction) = if exponent == 0 {
            (1 - bias - mantissa_bits as i32, mantissa)
        } else {
            (exponent as i32 - bias - mantissa_bits as i32, mantissa | (1 << mantissa_bits))
        };
        fraction as f32 * f32::from_bits(((field + 127) as u32) << 23)
    };
    if negative { -value } else { value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_survives_a_round_trip() {
        for code in 0..=255u8 {
            let (a, b) = (e4m3_to_f32(code), e5m2_to_f32(code));
            if !a.is_nan() {
                assert_eq!(f32_to_e4m3(a), code);
            }
            if !b.is_nan() {
                assert_eq!(f32_to_e5m2(b), code);
            }
        }
        assert!(e4m3_to_f32(0x7F).is_nan() && e4m3_to_f32(f32_to_e4m3(f32::NAN)).is_nan());
        assert_eq!(e4m3_to_f32(0x7E), E4M3_MAX);
        assert_eq!(e5m2_to_f32(0x7B), E5M2_MAX);
    }

    /// Every midpoint between neighbours must go to the even code, and its float neighbours to their own side.
    #[test]
    fn midpoints_round_to_even() {
        for (decode, encode, top) in [
            (e4m3_to_f32 as fn(u8) -> f32, f32_to_e4m3 as fn(f32) -> u8, 0x7E),
            (e5m2_to_f32 as fn(u8) -> f32, f32_to_e5m2 as fn(f32) -> u8, 0x7B),
        ] {
            for code in 0..top {
                let middle = (decode(code) + decode(code + 1)) / 2.0;
                assert_eq!(encode(middle), code + (code & 1), "midpoint above {code:#x}");
                assert_eq!(encode(f32::from_bits(middle.to_bits() - 1)), code);
                assert_eq!(encode(f32::from_bits(middle.to_bits() + 1)), code + 1);
            }
        }
    }

    #[test]
    fn limits() {
        assert_eq!(f32_to_e4m3(1e9), 0x7E);
        assert_eq!(f32_to_e4m3(f32::NEG_INFINITY), 0xFE);
        assert_eq!(f32_to_e5m2(f32::INFINITY), 0x7C);
        assert_eq!(f32_to_e5m2(61439.9), 0x7B);
        assert_eq!(f32_to_e5m2(61440.0), 0x7C);
        assert_eq!(f32_to_e4m3(-0.0), 0x80);
    }
}
