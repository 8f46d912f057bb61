//! Sixteen lanes: AVX-512 F/BW/DQ/VL, and bf16 dot products where entered so.
use super::{DotVector, Vector, Work};
use std::arch::x86_64::*;

/// A 512-bit register.
#[derive(Clone, Copy)]
pub(crate) struct Avx512(pub(crate) __m512);

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2,fma")]
unsafe fn enter<W: Work>(work: W) {
    // SAFETY: the caller of `Vector::enter` has the instructions and answers for `work`.
    unsafe { work.run() }
}

#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,avx2,fma")]
unsafe fn enter_dot<W: Work>(work: W) {
    // SAFETY: as above.
    unsafe { work.run() }
}

#[inline(always)]
fn mask(lanes: usize) -> __mmask16 {
    if lanes >= 16 { !0 } else { (1 << lanes) - 1 }
}

impl Vector for Avx512 {
    const LANES: usize = 16;
    // Eight fit too, but six leave room to load ahead.
    const ROWS: usize = 6;
    const QUERIES: usize = 6;

    #[inline(always)]
    unsafe fn enter<W: Work>(work: W) {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { enter(work) }
    }

    methods! {
        fn splat(x: f32) -> Self { Self(_mm512_set1_ps(x)) }
        fn load(from: *const f32) -> Self { Self(_mm512_loadu_ps(from)) }
        fn store(self: Self, to: *mut f32) { _mm512_storeu_ps(to, self.0) }
        fn load_part(from: *const f32, lanes: usize) -> Self { Self(_mm512_maskz_loadu_ps(mask(lanes), from)) }
        fn store_part(self: Self, to: *mut f32, lanes: usize) { _mm512_mask_storeu_ps(to, mask(lanes), self.0) }
        fn prefetch(at: *const u32) { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
        fn add(self: Self, y: Self) -> Self { Self(_mm512_add_ps(self.0, y.0)) }
        fn sub(self: Self, y: Self) -> Self { Self(_mm512_sub_ps(self.0, y.0)) }
        fn mul(self: Self, y: Self) -> Self { Self(_mm512_mul_ps(self.0, y.0)) }
        fn div(self: Self, y: Self) -> Self { Self(_mm512_div_ps(self.0, y.0)) }
        fn fma(self: Self, y: Self, z: Self) -> Self { Self(_mm512_fmadd_ps(self.0, y.0, z.0)) }
        fn max(self: Self, y: Self) -> Self { Self(_mm512_max_ps(self.0, y.0)) }
        fn select_ge(self: Self, limit: Self, yes: Self, no: Self) -> Self {
            let ge = _mm512_cmp_ps_mask::<_CMP_GE_OQ>(self.0, limit.0);
            Self(_mm512_mask_blend_ps(ge, no.0, yes.0))
        }
        fn abs(self: Self) -> Self { Self(_mm512_abs_ps(self.0)) }
        fn with_sign(self: Self, sign: Self) -> Self {
            let bit = _mm512_set1_ps(-0.0);
            Self(_mm512_or_ps(_mm512_andnot_ps(bit, self.0), _mm512_and_ps(bit, sign.0)))
        }
        fn exp(self: Self) -> Self { Self(crate::exp::exp512(self.0)) }
        fn first(self: Self) -> f32 { _mm512_cvtss_f32(self.0) }
        fn sum(self: Self) -> f32 {
            let v = _mm256_add_ps(_mm512_castps512_ps256(self.0), _mm512_extractf32x8_ps::<1>(self.0));
            super::avx2::sum(v)
        }
        fn largest(self: Self) -> f32 {
            let v = _mm256_max_ps(_mm512_castps512_ps256(self.0), _mm512_extractf32x8_ps::<1>(self.0));
            super::avx2::largest(v)
        }
        fn load_pairs(from: *const u32) -> (Self, Self) {
            let w = _mm512_loadu_si512(from.cast());
            let high = _mm512_and_si512(w, _mm512_set1_epi32(0xffff_0000u32 as i32));
            (Self(_mm512_castsi512_ps(_mm512_slli_epi32::<16>(w))), Self(_mm512_castsi512_ps(high)))
        }
        fn transpose(rows: *const *const f32, column: usize, to: *mut f32, pitch: usize) {
            transpose(rows, column, to, pitch)
        }
    }
}

impl DotVector for Avx512 {
    #[inline(always)]
    unsafe fn enter_dot<W: Work>(work: W) {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { enter_dot(work) }
    }

    methods! {
        fn round_pairs(from: *const f32) -> Self {
            let (low, high) = (_mm512_loadu_ps(from), _mm512_loadu_ps(from.add(16)));
            Self(std::mem::transmute::<__m512bh, __m512>(_mm512_cvtne2ps_pbh(high, low)))
        }
        fn join_pairs(self: Self, high: Self) -> Self {
            let round = |x: __m512| {
                _mm512_cvtepu16_epi32(std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(x)))
            };
            let high = _mm512_slli_epi32::<16>(round(high.0));
            Self(_mm512_castsi512_ps(_mm512_or_si512(round(self.0), high)))
        }
        fn dot_pairs(self: Self, x: u32, w: Self) -> Self {
            let x: __m512bh = std::mem::transmute(_mm512_set1_epi32(x as i32));
            let w: __m512bh = std::mem::transmute(w.0);
            Self(_mm512_dpbf16_ps(self.0, x, w))
        }
    }
}

/// Sixteen rows of sixteen: pairs, then fours, then quarters of the registers.
#[inline(always)]
unsafe fn transpose(rows: *const *const f32, column: usize, to: *mut f32, pitch: usize) {
    // SAFETY: the caller keeps the contract of `Vector::transpose`.
    unsafe {
        let row = |i: usize| _mm512_loadu_ps((*rows.add(i)).add(column));
        let mut fours = [_mm512_setzero_ps(); 16];
        for g in 0..4 {
            let (a, b, c, d) = (row(4 * g), row(4 * g + 1), row(4 * g + 2), row(4 * g + 3));
            let pair = |lo: __m512, hi: __m512| (_mm512_castps_pd(lo), _mm512_castps_pd(hi));
            let (ab, cd) = pair(_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
            fours[4 * g] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
            fours[4 * g + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
            let (ab, cd) = pair(_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
            fours[4 * g + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
            fours[4 * g + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
        }
        // fours[4g + c] holds, in its quarter q, column 4q + c of rows 4g..4g+4.
        for c in 0..4 {
            let (a, b, e, f) = (fours[c], fours[4 + c], fours[8 + c], fours[12 + c]);
            let ab_even = _mm512_shuffle_f32x4::<0b10_00_10_00>(a, b);
            let ab_odd = _mm512_shuffle_f32x4::<0b11_01_11_01>(a, b);
            let ef_even = _mm512_shuffle_f32x4::<0b10_00_10_00>(e, f);
            let ef_odd = _mm512_shuffle_f32x4::<0b11_01_11_01>(e, f);
            let put = |q: usize, v: __m512| _mm512_storeu_ps(to.add((4 * q + c) * pitch), v);
            put(0, _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_even, ef_even));
            put(1, _mm512_shuffle_f32x4::<0b10_00_10_00>(ab_odd, ef_odd));
            put(2, _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_even, ef_even));
            put(3, _mm512_shuffle_f32x4::<0b11_01_11_01>(ab_odd, ef_odd));
        }
    }
}
