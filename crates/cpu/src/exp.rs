//! exp(x) over vectors of f32, for softmax and activations: within 2 units in the last place where the result is a
//! normal number; 0 where it would be subnormal (x < -87.33); infinity above 88.72; NaN stays NaN.
//!
//! exp(x) = 2^n · exp(r) with n = round(x / ln 2) and |r| <= ln 2 / 2, where exp(r) = 1 + r + r²·p(r) and p is an
//! interpolation in Chebyshev nodes (relative error 1.1e-8).
#[cfg(target_arch = "aarch64")]
use std::arch::aarch64::*;
#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// Smallest argument whose exponential is a normal number (rounded up).
pub const EXP_LOW: f32 = -87.33;
/// From here up the result is infinite; also bounds the power of two.
pub(crate) const EXP_HIGH: f32 = 89.0;
/// ln 2 with zeros in the low bits, so that a product with n is exact, and the rest of it.
pub(crate) const LN2_HIGH: f32 = 0.693_145_75;
pub(crate) const LN2_LOW: f32 = 1.428_606_8e-6;
/// p, lowest power first.
pub(crate) const P: [f32; 5] = [0.5, 0.166_665_76, 0.041_666_556, 0.008_363_203, 0.001_392_621_3];

/// Coefficients of tanh(x) = x + x³ p(x²) below [`TANH_SWITCH`] (Cephes), highest power first.
pub(crate) const TANH: [f32; 5] = [-5.704_988_7e-3, 2.063_909e-2, -0.053_739_714, 1.333_144_2e-1, -0.333_332_8];
/// Where the exponential takes over.
pub(crate) const TANH_SWITCH: f32 = 0.625;

/// exp of 16 lanes.
///
/// # Safety
/// Outside functions with the same target features: the machine must have AVX-512 F.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
pub fn exp512(x: __m512) -> __m512 {
    // min gives its second operand if one is NaN.
    let y = _mm512_min_ps(_mm512_set1_ps(EXP_HIGH), x);
    let n = _mm512_roundscale_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm512_mul_ps(
        y,
        _mm512_set1_ps(std::f32::consts::LOG2_E),
    ));
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN2_HIGH), y);
    let r = _mm512_fnmadd_ps(n, _mm512_set1_ps(LN2_LOW), r);
    let mut p = _mm512_set1_ps(P[4]);
    for c in [P[3], P[2], P[1], P[0]] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    }
    let p = _mm512_fmadd_ps(p, _mm512_mul_ps(r, r), r);
    let p = _mm512_add_ps(p, _mm512_set1_ps(1.0));
    // Not less: true for NaN. -infinity made r NaN above, and is zeroed here.
    let keep = _mm512_cmp_ps_mask::<_CMP_NLT_UQ>(x, _mm512_set1_ps(EXP_LOW));
    _mm512_maskz_scalef_ps(keep, p, n)
}

/// 2^r = 1 + r·p(r) for 0 <= r <= 1, within 2.9e-6 of itself: a five-hundredth of what rounding to bf16 takes.
#[cfg(target_arch = "x86_64")]
const POWER: [f32; 4] = [0.693_044_84, 0.241_280_24, 0.052_242_383, 0.013_426_741];

/// 2^x of 16 lanes as attention weights need it, which are rounded to bf16: within 3e-6 of itself, 1 for 0, 0 for
/// -infinity. NaN stays NaN.
///
/// # Safety
/// Outside functions with the same target features: the machine must have AVX-512 F and DQ.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f,avx512dq")]
pub fn power512(x: __m512) -> __m512 {
    // What is left of x above its floor, by which the last instruction scales; 0 is left of an infinity.
    let r = _mm512_reduce_ps::<{ _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC }>(x);
    let mut p = _mm512_set1_ps(POWER[3]);
    for c in [POWER[2], POWER[1], POWER[0], 1.0] {
        p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
    }
    _mm512_scalef_ps(p, x)
}

/// exp of 8 lanes.
///
/// # Safety
/// Outside functions with the same target features: the machine must have AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2,fma")]
pub fn exp256(x: __m256) -> __m256 {
    let y = _mm256_min_ps(_mm256_set1_ps(EXP_HIGH), x);
    let n = _mm256_round_ps::<{ _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC }>(_mm256_mul_ps(
        y,
        _mm256_set1_ps(std::f32::consts::LOG2_E),
    ));
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN2_HIGH), y);
    let r = _mm256_fnmadd_ps(n, _mm256_set1_ps(LN2_LOW), r);
    let mut p = _mm256_set1_ps(P[4]);
    for c in [P[3], P[2], P[1], P[0]] {
        p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(c));
    }
    let p = _mm256_fmadd_ps(p, _mm256_mul_ps(r, r), r);
    let p = _mm256_add_ps(p, _mm256_set1_ps(1.0));
    // 2^128 is no f32: the power is applied in two halves, of which only the second can round.
    let n = _mm256_cvtps_epi32(n);
    let half = _mm256_srai_epi32::<1>(n);
    let bias = _mm256_set1_epi32(127);
    let power = |e| _mm256_castsi256_ps(_mm256_slli_epi32::<23>(_mm256_add_epi32(e, bias)));
    let p = _mm256_mul_ps(_mm256_mul_ps(p, power(half)), power(_mm256_sub_epi32(n, half)));
    let keep = _mm256_cmp_ps::<_CMP_NLT_UQ>(x, _mm256_set1_ps(EXP_LOW));
    _mm256_and_ps(p, keep)
}

/// exp of 4 lanes, to the bits of the wider ones.
///
/// # Safety
/// Outside functions with the same target features: the machine must have NEON.
#[cfg(target_arch = "aarch64")]
#[inline]
#[target_feature(enable = "neon")]
pub fn exp128(x: float32x4_t) -> float32x4_t {
    let low = vdupq_n_f32(EXP_LOW);
    // NaN stays: FMIN and FMAX propagate it.
    let y = vmaxq_f32(vminq_f32(x, vdupq_n_f32(EXP_HIGH)), low);
    let n = vrndnq_f32(vmulq_n_f32(y, std::f32::consts::LOG2_E));
    let r = vfmsq_f32(y, n, vdupq_n_f32(LN2_HIGH));
    let r = vfmsq_f32(r, n, vdupq_n_f32(LN2_LOW));
    let mut p = vdupq_n_f32(P[4]);
    for c in [P[3], P[2], P[1], P[0]] {
        p = vfmaq_f32(vdupq_n_f32(c), p, r);
    }
    let p = vaddq_f32(vfmaq_f32(r, p, vmulq_f32(r, r)), vdupq_n_f32(1.0));
    let n = vcvtnq_s32_f32(n);
    let half = vshrq_n_s32::<1>(n);
    let bias = vdupq_n_s32(127);
    let first = vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(half, bias)));
    let second = vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(vsubq_s32(n, half), bias)));
    let p = vmulq_f32(vmulq_f32(p, first), second);
    vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(p), vcltq_f32(x, low)))
}

#[cfg(all(test, any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tests {
    use super::*;
    use crate::isa::Isa;

    fn eval(isa: Isa, x: f32) -> f32 {
        // SAFETY: the caller passes families that run here; the first lane is an f32.
        unsafe {
            match isa {
                #[cfg(target_arch = "x86_64")]
                Isa::Avx512 => _mm512_cvtss_f32(run512(x)),
                #[cfg(target_arch = "x86_64")]
                Isa::Avx2 => _mm256_cvtss_f32(run256(x)),
                #[cfg(target_arch = "aarch64")]
                Isa::Neon => run128(x),
                _ => unreachable!("not one of `families`"),
            }
        }
    }
    #[cfg(target_arch = "aarch64")]
    #[target_feature(enable = "neon")]
    fn run128(x: f32) -> f32 {
        vgetq_lane_f32::<0>(exp128(vdupq_n_f32(x)))
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f")]
    fn run512(x: f32) -> __m512 {
        exp512(_mm512_set1_ps(x))
    }
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    fn run256(x: f32) -> __m256 {
        exp256(_mm256_set1_ps(x))
    }

    fn families() -> impl Iterator<Item = Isa> {
        [Isa::Neon, Isa::Avx2, Isa::Avx512].into_iter().filter(|isa| isa.runs_here())
    }

    #[test]
    fn within_two_units_in_the_last_place() {
        for isa in families() {
            let mut worst = 0.0f64;
            for i in 0..=1_000_000 {
                let x = -87.32f32 + i as f32 * ((88.72 + 87.32) / 1e6);
                let want = (x as f64).exp();
                let unit = (f32::from_bits((want as f32).to_bits() + 1) - want as f32) as f64;
                worst = worst.max((eval(isa, x) as f64 - want).abs() / unit);
            }
            assert!(worst < 2.0, "{isa:?}: {worst} units");
        }
    }

    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512dq")]
    fn power(x: f32) -> f32 {
        _mm512_cvtss_f32(power512(_mm512_set1_ps(x)))
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn powers_of_two() {
        if !Isa::Avx512.runs_here() {
            return;
        }
        // SAFETY: the family runs here.
        let power = |x| unsafe { power(x) };
        let mut worst = 0.0f64;
        for i in 0..=1_000_000 {
            let x = -125.9f32 + i as f32 * (251.8 / 1e6);
            let want = (x as f64).exp2();
            worst = worst.max((power(x) as f64 - want).abs() / want);
        }
        assert!(worst < 3.2e-6, "{worst}");
        for exact in [0.0, 1.0, -1.0, -126.0, 127.0] {
            assert_eq!(power(exact), exact.exp2());
        }
        assert_eq!((power(f32::NEG_INFINITY), power(-1e30), power(-151.0)), (0.0, 0.0, 0.0));
        assert_eq!((power(f32::INFINITY), power(1e30)), (f32::INFINITY, f32::INFINITY));
        assert!(power(f32::NAN).is_nan());
    }

    #[test]
    fn special_values() {
        for isa in families() {
            assert_eq!(eval(isa, 0.0), 1.0);
            assert_eq!(eval(isa, f32::NEG_INFINITY), 0.0);
            assert_eq!(eval(isa, -1e30), 0.0);
            assert_eq!(eval(isa, -87.4), 0.0);
            assert_eq!(eval(isa, 88.8), f32::INFINITY);
            assert_eq!(eval(isa, 1e30), f32::INFINITY);
            assert_eq!(eval(isa, f32::INFINITY), f32::INFINITY);
            assert!(eval(isa, f32::NAN).is_nan());
        }
    }
}
