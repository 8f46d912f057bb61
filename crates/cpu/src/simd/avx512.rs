//! AVX-512 with VNNI: 16 lanes.
use super::{Op, Simd, intrinsics};
use crate::exp::exp512;
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
struct Avx512(());

/// Runs `op` with 16 lanes.
///
/// # Safety
/// The machine must have `Isa::Avx512`.
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx512vnni,avx2,fma")]
#[inline(never)]
pub(super) unsafe fn with<O: Op>(op: O) -> O::Out {
    op.run(Avx512(()))
}

/// Mask of the first `n` lanes.
#[inline(always)]
fn first(n: usize) -> __mmask16 {
    if n >= 16 { 0xFFFF } else { (1 << n) - 1 }
}

impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    const LANES: usize = 16;
    const VECTORS: usize = 3;
    const ROWS: usize = 8;
    const UNSIGNED_WEIGHTS: bool = true;
    const E4M3_FACTOR: f32 = 256.0;

    intrinsics! {
        fn splat(x: f32) -> __m512 = _mm512_set1_ps(x);
        fn add(a: __m512, b: __m512) -> __m512 = _mm512_add_ps(a, b);
        fn sub(a: __m512, b: __m512) -> __m512 = _mm512_sub_ps(a, b);
        fn mul(a: __m512, b: __m512) -> __m512 = _mm512_mul_ps(a, b);
        fn div(a: __m512, b: __m512) -> __m512 = _mm512_div_ps(a, b);
        fn max(a: __m512, b: __m512) -> __m512 = _mm512_max_ps(a, b);
        fn min(a: __m512, b: __m512) -> __m512 = _mm512_min_ps(a, b);
        fn fma(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        fn madd(a: __m512, b: __m512, c: __m512) -> __m512 = _mm512_fmadd_ps(a, b, c);
        fn exp(x: __m512) -> __m512 = exp512(x);
        fn sum(x: __m512) -> f32 = _mm512_reduce_add_ps(x);
        fn largest(x: __m512) -> f32 = _mm512_reduce_max_ps(x);
        fn any_eq(a: __m512, b: __m512) -> bool = _mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b) != 0;
        fn isplat(x: i32) -> __m512i = _mm512_set1_epi32(x);
        fn bits(x: __m512) -> __m512i = _mm512_castps_si512(x);
        fn float_of(x: __m512i) -> __m512 = _mm512_castsi512_ps(x);
        fn to_int(x: __m512) -> __m512i = _mm512_cvtps_epi32(x);
        fn to_float(x: __m512i) -> __m512 = _mm512_cvtepi32_ps(x);
        fn iadd(a: __m512i, b: __m512i) -> __m512i = _mm512_add_epi32(a, b);
        fn isub(a: __m512i, b: __m512i) -> __m512i = _mm512_sub_epi32(a, b);
        fn imul(a: __m512i, b: __m512i) -> __m512i = _mm512_mullo_epi32(a, b);
        fn imax(a: __m512i, b: __m512i) -> __m512i = _mm512_max_epi32(a, b);
        fn iand(a: __m512i, b: __m512i) -> __m512i = _mm512_and_si512(a, b);
        fn ior(a: __m512i, b: __m512i) -> __m512i = _mm512_or_si512(a, b);
        fn ilargest(x: __m512i) -> i32 = _mm512_reduce_max_epi32(x);
        fn dot(acc: __m512i, w: __m512i, x: i32) -> __m512i = _mm512_dpbusd_epi32(acc, w, _mm512_set1_epi32(x));
        fn prefetch(p: *const u8) = _mm_prefetch::<_MM_HINT_T0>(p.cast());
        fn prefetch2(p: *const u8) = _mm_prefetch::<_MM_HINT_T1>(p.cast());
    }
    #[inline(always)]
    fn reciprocal(self, x: __m512) -> __m512 {
        // SAFETY: the token exists only where the features do.
        unsafe {
            // 14 bits, and a step of Newton's, which must not see infinity.
            let y = _mm512_rcp14_ps(x);
            let rest = _mm512_fnmadd_ps(x, y, _mm512_set1_ps(1.0));
            let finite = _mm512_cmp_ps_mask::<_CMP_NEQ_UQ>(x, _mm512_set1_ps(f32::INFINITY));
            _mm512_mask3_fmadd_ps(rest, y, y, finite)
        }
    }
    #[inline(always)]
    fn call<O: Op>(self, op: O) -> O::Out {
        // SAFETY: the token exists only where the features do.
        unsafe { with(op) }
    }
    #[inline(always)]
    fn shl<const N: i32>(self, a: __m512i) -> __m512i {
        // SAFETY: the token exists only where the features do.
        unsafe { _mm512_sll_epi32(a, _mm_cvtsi32_si128(N)) }
    }
    #[inline(always)]
    fn shr<const N: i32>(self, a: __m512i) -> __m512i {
        // SAFETY: as above.
        unsafe { _mm512_srl_epi32(a, _mm_cvtsi32_si128(N)) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> __m512 {
        // SAFETY: the caller's.
        unsafe { _mm512_loadu_ps(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, x: __m512) {
        // SAFETY: the caller's.
        unsafe { _mm512_storeu_ps(p, x) }
    }
    #[inline(always)]
    unsafe fn load_part(self, p: *const f32, n: usize, fill: f32) -> __m512 {
        // SAFETY: the caller's; masked lanes are not touched.
        unsafe { _mm512_mask_loadu_ps(_mm512_set1_ps(fill), first(n), p) }
    }
    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, n: usize, x: __m512) {
        // SAFETY: as above.
        unsafe { _mm512_mask_storeu_ps(p, first(n), x) }
    }
    #[inline(always)]
    unsafe fn iload(self, p: *const i32) -> __m512i {
        // SAFETY: the caller's.
        unsafe { _mm512_loadu_si512(p.cast()) }
    }
    #[inline(always)]
    unsafe fn istore(self, p: *mut i32, x: __m512i) {
        // SAFETY: the caller's.
        unsafe { _mm512_storeu_si512(p.cast(), x) }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, n: usize, x: __m512i) {
        // SAFETY: the caller's; masked lanes are not touched. (Narrowing and storing in one masked instruction is slow.)
        unsafe {
            let bytes = _mm512_cvtepi32_epi8(x);
            if n >= 16 { _mm_storeu_si128(p.cast(), bytes) } else { _mm_mask_storeu_epi8(p.cast(), first(n), bytes) }
        }
    }
    #[inline(always)]
    unsafe fn sum_bytes(self, p: *const u8, n: usize) -> i32 {
        // SAFETY: the caller's; masked lanes are not touched.
        unsafe {
            let ones = _mm512_set1_epi8(1);
            let mut sum = _mm512_setzero_si512();
            let mut i = 0;
            while i + 64 <= n {
                sum = _mm512_dpbusd_epi32(sum, ones, _mm512_loadu_si512(p.add(i).cast()));
                i += 64;
            }
            let tail = _mm512_maskz_loadu_epi8((1u64 << (n - i)) - 1, p.add(i).cast());
            _mm512_reduce_add_epi32(_mm512_dpbusd_epi32(sum, ones, tail))
        }
    }
    #[inline(always)]
    unsafe fn decode<const E4M3: bool>(self, p: *const u8) -> __m512 {
        // SAFETY: the caller's.
        unsafe {
            let codes = _mm_loadu_si128(p.cast());
            // E5M2 is the upper half of f16. E4M3's exponent and mantissa fit f16's, whose bias is 8 more.
            let halves = if E4M3 {
                let wide = _mm256_slli_epi16::<7>(_mm256_cvtepi8_epi16(codes));
                _mm256_and_si256(wide, _mm256_set1_epi16(0xBFFFu16 as i16))
            } else {
                _mm256_slli_epi16::<8>(_mm256_cvtepu8_epi16(codes))
            };
            _mm512_cvtph_ps(halves)
        }
    }
}
