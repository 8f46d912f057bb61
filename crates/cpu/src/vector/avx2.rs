//! Eight lanes: AVX2 and FMA.
use super::{Vector, Work};
use std::arch::x86_64::*;

/// A 256-bit register.
#[derive(Clone, Copy)]
pub(crate) struct Avx2(__m256);

#[target_feature(enable = "avx2,fma")]
unsafe fn enter<W: Work>(work: W) {
    // SAFETY: the caller of `Vector::enter` has the instructions and answers for `work`.
    unsafe { work.run() }
}

#[inline(always)]
unsafe fn mask(lanes: usize) -> __m256i {
    // SAFETY: the caller has AVX2.
    unsafe {
        let index = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
        _mm256_cmpgt_epi32(_mm256_set1_epi32(lanes.min(8) as i32), index)
    }
}

/// Sum of eight lanes, halves first.
#[inline(always)]
pub(super) unsafe fn sum(v: __m256) -> f32 {
    // SAFETY: the caller has AVX2.
    unsafe {
        let v = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_add_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_add_ss(v, _mm_movehdup_ps(v)))
    }
}

/// Largest of eight lanes.
#[inline(always)]
pub(super) unsafe fn largest(v: __m256) -> f32 {
    // SAFETY: the caller has AVX2.
    unsafe {
        let v = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps::<1>(v));
        let v = _mm_max_ps(v, _mm_movehl_ps(v, v));
        _mm_cvtss_f32(_mm_max_ss(v, _mm_movehdup_ps(v)))
    }
}

impl Vector for Avx2 {
    const LANES: usize = 8;
    const ROWS: usize = 4;
    const QUERIES: usize = 3;

    #[inline(always)]
    unsafe fn enter<W: Work>(work: W) {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { enter(work) }
    }

    methods! {
        fn splat(x: f32) -> Self { Self(_mm256_set1_ps(x)) }
        fn load(from: *const f32) -> Self { Self(_mm256_loadu_ps(from)) }
        fn store(self: Self, to: *mut f32) { _mm256_storeu_ps(to, self.0) }
        fn load_part(from: *const f32, lanes: usize) -> Self { Self(_mm256_maskload_ps(from, mask(lanes))) }
        fn store_part(self: Self, to: *mut f32, lanes: usize) { _mm256_maskstore_ps(to, mask(lanes), self.0) }
        fn prefetch(at: *const u32) { _mm_prefetch::<_MM_HINT_T0>(at.cast()) }
        fn add(self: Self, y: Self) -> Self { Self(_mm256_add_ps(self.0, y.0)) }
        fn sub(self: Self, y: Self) -> Self { Self(_mm256_sub_ps(self.0, y.0)) }
        fn mul(self: Self, y: Self) -> Self { Self(_mm256_mul_ps(self.0, y.0)) }
        fn div(self: Self, y: Self) -> Self { Self(_mm256_div_ps(self.0, y.0)) }
        fn fma(self: Self, y: Self, z: Self) -> Self { Self(_mm256_fmadd_ps(self.0, y.0, z.0)) }
        fn max(self: Self, y: Self) -> Self { Self(_mm256_max_ps(self.0, y.0)) }
        fn select_ge(self: Self, limit: Self, yes: Self, no: Self) -> Self {
            Self(_mm256_blendv_ps(no.0, yes.0, _mm256_cmp_ps::<_CMP_GE_OQ>(self.0, limit.0)))
        }
        fn abs(self: Self) -> Self { Self(_mm256_andnot_ps(_mm256_set1_ps(-0.0), self.0)) }
        fn with_sign(self: Self, sign: Self) -> Self {
            let bit = _mm256_set1_ps(-0.0);
            Self(_mm256_or_ps(_mm256_andnot_ps(bit, self.0), _mm256_and_ps(bit, sign.0)))
        }
        fn exp(self: Self) -> Self { Self(crate::exp::exp256(self.0)) }
        fn first(self: Self) -> f32 { _mm256_cvtss_f32(self.0) }
        fn sum(self: Self) -> f32 { sum(self.0) }
        fn largest(self: Self) -> f32 { largest(self.0) }
        fn load_pairs(from: *const u32) -> (Self, Self) {
            let w = _mm256_loadu_si256(from.cast());
            let high = _mm256_and_si256(w, _mm256_set1_epi32(0xffff_0000u32 as i32));
            (Self(_mm256_castsi256_ps(_mm256_slli_epi32::<16>(w))), Self(_mm256_castsi256_ps(high)))
        }
        fn transpose(rows: *const *const f32, column: usize, to: *mut f32, pitch: usize) {
            transpose(rows, column, to, pitch)
        }
    }
}

/// Eight rows of eight: pairs, then fours, then halves of the registers.
#[inline(always)]
unsafe fn transpose(rows: *const *const f32, column: usize, to: *mut f32, pitch: usize) {
    // SAFETY: the caller keeps the contract of `Vector::transpose`.
    unsafe {
        let row = |i: usize| _mm256_loadu_ps((*rows.add(i)).add(column));
        let mut fours = [_mm256_setzero_ps(); 8];
        for g in 0..2 {
            let (a, b, c, d) = (row(4 * g), row(4 * g + 1), row(4 * g + 2), row(4 * g + 3));
            let pair = |lo: __m256, hi: __m256| (_mm256_castps_pd(lo), _mm256_castps_pd(hi));
            let (ab, cd) = pair(_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
            fours[4 * g] = _mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd));
            fours[4 * g + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd));
            let (ab, cd) = pair(_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
            fours[4 * g + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd));
            fours[4 * g + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd));
        }
        for c in 0..4 {
            let (a, b) = (fours[c], fours[4 + c]);
            _mm256_storeu_ps(to.add(c * pitch), _mm256_permute2f128_ps::<0x20>(a, b));
            _mm256_storeu_ps(to.add((4 + c) * pitch), _mm256_permute2f128_ps::<0x31>(a, b));
        }
    }
}
