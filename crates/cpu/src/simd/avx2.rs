//! AVX2 with FMA and F16C, without and with VNNI: 8 lanes.
use super::{Op, Simd, four_deep, intrinsics};
use crate::exp::exp256;
use std::arch::x86_64::*;

#[derive(Clone, Copy)]
struct Avx2(());
#[derive(Clone, Copy)]
struct AvxVnni(());

/// Whether half floats can be widened: true wherever AVX2 was ever built, but a separate flag.
pub(super) fn has_f16c() -> bool {
    is_x86_feature_detected!("f16c")
}

/// Runs `op` with 8 lanes.
///
/// # Safety
/// The machine must have `Isa::Avx2` and F16C.
#[target_feature(enable = "avx2,fma,f16c")]
#[inline(never)]
pub(super) unsafe fn with<O: Op>(op: O) -> O::Out {
    op.run(Avx2(()))
}

/// Runs `op` with 8 lanes and VNNI.
///
/// # Safety
/// The machine must have `Isa::AvxVnni` and F16C.
#[target_feature(enable = "avx2,fma,f16c,avxvnni")]
#[inline(never)]
pub(super) unsafe fn with_vnni<O: Op>(op: O) -> O::Out {
    op.run(AvxVnni(()))
}

/// Bytes 0 and 2 of each lane, and bytes 1 and 3, as 16-bit numbers.
#[inline]
#[target_feature(enable = "avx2")]
fn widen(x: __m256i) -> [__m256i; 2] {
    [_mm256_srai_epi16::<8>(_mm256_slli_epi16::<8>(x)), _mm256_srai_epi16::<8>(x)]
}

/// Multiplies the even and the odd bytes as 16-bit numbers: nothing can saturate.
#[inline]
#[target_feature(enable = "avx2")]
fn dot_madd(acc: __m256i, w: [__m256i; 2], x: [__m256i; 2]) -> __m256i {
    _mm256_add_epi32(acc, _mm256_add_epi32(_mm256_madd_epi16(w[0], x[0]), _mm256_madd_epi16(w[1], x[1])))
}

/// [`Simd::multiply`] with activations that [`widen_groups`] made: weights are widened once for all rows.
///
/// # Safety
/// As for [`Simd::multiply`].
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn multiply_wide<const R: usize, const V: usize>(
    _: Avx2,
    w: *const u8,
    x: [*const u8; R],
    acc: &mut [[__m256i; V]; R],
) {
    // SAFETY: the caller's.
    unsafe {
        let mut columns = [[_mm256_setzero_si256(); 2]; V];
        for v in 0..V {
            columns[v] = widen(_mm256_loadu_si256(w.add(v * 32).cast()));
        }
        for r in 0..R {
            let x = [splat32(x[r]), splat32(x[r].add(4))];
            for v in 0..V {
                acc[r][v] = dot_madd(acc[r][v], columns[v], x);
            }
        }
    }
}

/// Groups of four bytes, widened to bytes 0 and 2 and then bytes 1 and 3 as 16-bit numbers.
///
/// # Safety
/// There are that many groups, and room for them.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn widen_groups(from: *const u8, groups: usize, to: *mut u8) {
    let whole = groups / 8 * 8;
    // SAFETY: the caller's.
    unsafe {
        for g in (0..whole).step_by(8) {
            let [even, odd] = widen(_mm256_loadu_si256(from.add(4 * g).cast()));
            let (low, high) = (_mm256_unpacklo_epi32(even, odd), _mm256_unpackhi_epi32(even, odd));
            let to = to.add(8 * g).cast::<__m256i>();
            _mm256_storeu_si256(to, _mm256_permute2x128_si256::<0x20>(low, high));
            _mm256_storeu_si256(to.add(1), _mm256_permute2x128_si256::<0x31>(low, high));
        }
        for g in whole..groups {
            let [a, b, c, d] = from.add(4 * g).cast::<[i8; 4]>().read().map(i16::from);
            to.add(8 * g).cast::<[i16; 4]>().write_unaligned([a, c, b, d]);
        }
    }
}

/// The 32 bits at `p` in all lanes.
///
/// # Safety
/// They are there.
#[inline]
#[target_feature(enable = "avx2")]
unsafe fn splat32(p: *const u8) -> __m256i {
    // SAFETY: the caller's.
    _mm256_set1_epi32(unsafe { p.cast::<i32>().read_unaligned() })
}

#[inline]
#[target_feature(enable = "avx2")]
fn sum_f32(x: __m256) -> f32 {
    let x = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_add_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_add_ss(x, _mm_movehdup_ps(x)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn largest_f32(x: __m256) -> f32 {
    let x = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let x = _mm_max_ps(x, _mm_movehl_ps(x, x));
    _mm_cvtss_f32(_mm_max_ss(x, _mm_movehdup_ps(x)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn largest_i32(x: __m256i) -> i32 {
    let x = _mm_max_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    let x = _mm_max_epi32(x, _mm_shuffle_epi32::<0b01_00_11_10>(x));
    _mm_cvtsi128_si32(_mm_max_epi32(x, _mm_shuffle_epi32::<0b10_11_00_01>(x)))
}

/// The low bytes of the lanes.
#[inline]
#[target_feature(enable = "avx2")]
fn low_bytes(x: __m256i) -> u64 {
    let x = _mm256_and_si256(x, _mm256_set1_epi32(255));
    let x = _mm_packus_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256::<1>(x));
    _mm_cvtsi128_si64(_mm_packus_epi16(x, x)) as u64
}

macro_rules! lanes8 {
    ($token:ident, $with:ident, $unsigned:literal, $rows:literal, $bytes:literal, $multiply:ident, |$acc:ident, $w:ident, $x:ident| $dot:expr) => {
        impl Simd for $token {
            type F = __m256;
            type I = __m256i;
            const GROUP: usize = $bytes;
            const LANES: usize = 8;
            const VECTORS: usize = 2;
            const ROWS: usize = $rows;
            const UNSIGNED_WEIGHTS: bool = $unsigned;
            const E4M3_FACTOR: f32 = 256.0;

            intrinsics! {
                fn splat(x: f32) -> __m256 = _mm256_set1_ps(x);
                fn add(a: __m256, b: __m256) -> __m256 = _mm256_add_ps(a, b);
                fn sub(a: __m256, b: __m256) -> __m256 = _mm256_sub_ps(a, b);
                fn mul(a: __m256, b: __m256) -> __m256 = _mm256_mul_ps(a, b);
                fn div(a: __m256, b: __m256) -> __m256 = _mm256_div_ps(a, b);
                fn max(a: __m256, b: __m256) -> __m256 = _mm256_max_ps(a, b);
                fn min(a: __m256, b: __m256) -> __m256 = _mm256_min_ps(a, b);
                fn fma(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
                fn madd(a: __m256, b: __m256, c: __m256) -> __m256 = _mm256_fmadd_ps(a, b, c);
                fn exp(x: __m256) -> __m256 = exp256(x);
                fn sum(x: __m256) -> f32 = sum_f32(x);
                fn largest(x: __m256) -> f32 = largest_f32(x);
                fn any_eq(a: __m256, b: __m256) -> bool = _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(a, b)) != 0;
                fn isplat(x: i32) -> __m256i = _mm256_set1_epi32(x);
                fn bits(x: __m256) -> __m256i = _mm256_castps_si256(x);
                fn float_of(x: __m256i) -> __m256 = _mm256_castsi256_ps(x);
                fn to_int(x: __m256) -> __m256i = _mm256_cvtps_epi32(x);
                fn to_float(x: __m256i) -> __m256 = _mm256_cvtepi32_ps(x);
                fn iadd(a: __m256i, b: __m256i) -> __m256i = _mm256_add_epi32(a, b);
                fn isub(a: __m256i, b: __m256i) -> __m256i = _mm256_sub_epi32(a, b);
                fn imul(a: __m256i, b: __m256i) -> __m256i = _mm256_mullo_epi32(a, b);
                fn imax(a: __m256i, b: __m256i) -> __m256i = _mm256_max_epi32(a, b);
                fn iand(a: __m256i, b: __m256i) -> __m256i = _mm256_and_si256(a, b);
                fn ior(a: __m256i, b: __m256i) -> __m256i = _mm256_or_si256(a, b);
                fn ilargest(x: __m256i) -> i32 = largest_i32(x);
                fn prefetch(p: *const u8) = _mm_prefetch::<_MM_HINT_T0>(p.cast());
                fn prefetch2(p: *const u8) = _mm_prefetch::<_MM_HINT_T1>(p.cast());
            }
            #[inline(always)]
            fn dot(self, $acc: __m256i, $w: __m256i, x: i32) -> __m256i {
                // SAFETY: the token exists only where the features do.
                unsafe {
                    let $x = _mm256_set1_epi32(x);
                    $dot
                }
            }
            #[inline(always)]
            unsafe fn multiply<const R: usize, const V: usize>(
                self,
                w: *const u8,
                x: [*const u8; R],
                acc: &mut [[__m256i; V]; R],
            ) {
                // SAFETY: the caller's, and the token exists only where the features do.
                unsafe { $multiply(self, w, x, acc) }
            }
            #[inline(always)]
            unsafe fn arrange(self, from: *const u8, groups: usize, to: *mut u8) {
                // SAFETY: the caller's.
                unsafe { widen_groups(from, groups, to) }
            }
            #[inline(always)]
            fn call<O: Op>(self, op: O) -> O::Out {
                // SAFETY: the token exists only where the features do.
                unsafe { $with(op) }
            }
            #[inline(always)]
            fn shl<const N: i32>(self, a: __m256i) -> __m256i {
                // SAFETY: as above.
                unsafe { _mm256_slli_epi32::<N>(a) }
            }
            #[inline(always)]
            fn shr<const N: i32>(self, a: __m256i) -> __m256i {
                // SAFETY: as above.
                unsafe { _mm256_srli_epi32::<N>(a) }
            }
            #[inline(always)]
            unsafe fn load(self, p: *const f32) -> __m256 {
                // SAFETY: the caller's.
                unsafe { _mm256_loadu_ps(p) }
            }
            #[inline(always)]
            unsafe fn store(self, p: *mut f32, x: __m256) {
                // SAFETY: the caller's.
                unsafe { _mm256_storeu_ps(p, x) }
            }
            #[inline(always)]
            unsafe fn load_part(self, p: *const f32, n: usize, fill: f32) -> __m256 {
                let mut lanes = [fill; 8];
                // SAFETY: the caller's; `n` is at most 8.
                unsafe {
                    std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n.min(8));
                    _mm256_loadu_ps(lanes.as_ptr())
                }
            }
            #[inline(always)]
            unsafe fn store_part(self, p: *mut f32, n: usize, x: __m256) {
                let mut lanes = [0f32; 8];
                // SAFETY: as above.
                unsafe {
                    _mm256_storeu_ps(lanes.as_mut_ptr(), x);
                    std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n.min(8));
                }
            }
            #[inline(always)]
            unsafe fn iload(self, p: *const i32) -> __m256i {
                // SAFETY: the caller's.
                unsafe { _mm256_loadu_si256(p.cast()) }
            }
            #[inline(always)]
            unsafe fn istore(self, p: *mut i32, x: __m256i) {
                // SAFETY: the caller's.
                unsafe { _mm256_storeu_si256(p.cast(), x) }
            }
            #[inline(always)]
            unsafe fn store_bytes(self, p: *mut u8, n: usize, x: __m256i) {
                // SAFETY: the caller's; `n` is at most 8.
                unsafe {
                    let bytes = low_bytes(x).to_le_bytes();
                    if n >= 8 {
                        p.cast::<[u8; 8]>().write_unaligned(bytes);
                    } else {
                        std::ptr::copy_nonoverlapping(bytes.as_ptr(), p, n);
                    }
                }
            }
            #[inline(always)]
            unsafe fn sum_bytes(self, p: *const u8, n: usize) -> i32 {
                // SAFETY: the caller's.
                unsafe { std::slice::from_raw_parts(p, n) }.iter().map(|&x| x as i8 as i32).sum()
            }
            #[inline(always)]
            unsafe fn decode<const E4M3: bool>(self, p: *const u8) -> __m256 {
                // SAFETY: the caller's.
                unsafe {
                    let codes = _mm_loadl_epi64(p.cast());
                    // E5M2 is the upper half of f16. E4M3's exponent and mantissa fit f16's, whose bias is 8 more.
                    let halves = if E4M3 {
                        let wide = _mm_slli_epi16::<7>(_mm_cvtepi8_epi16(codes));
                        _mm_and_si128(wide, _mm_set1_epi16(0xBFFFu16 as i16))
                    } else {
                        _mm_slli_epi16::<8>(_mm_cvtepu8_epi16(codes))
                    };
                    _mm256_cvtph_ps(halves)
                }
            }
        }
    };
}
lanes8!(Avx2, with, false, 4, 8, multiply_wide, |acc, w, x| dot_madd(acc, widen(w), widen(x)));
lanes8!(AvxVnni, with_vnni, true, 6, 4, four_deep, |acc, w, x| _mm256_dpbusd_avx_epi32(acc, w, x));
