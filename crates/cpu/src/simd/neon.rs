//! aarch64 NEON with dot products, without and with 8-bit matrix multiplication: 4 lanes.
use super::{Op, Simd, four_deep, intrinsics};
use crate::exp::exp128;
use planish_tensor::float8;
use std::arch::aarch64::*;
use std::arch::asm;

#[derive(Clone, Copy)]
struct Neon<const I8MM: bool>(());

/// Runs `op` with 4 lanes.
///
/// # Safety
/// The machine must have `Isa::Neon`.
#[target_feature(enable = "neon,dotprod")]
#[inline(never)]
pub(super) unsafe fn with<O: Op>(op: O) -> O::Out {
    op.run(Neon::<false>(()))
}

/// Runs `op` with 4 lanes and matrix multiplication.
///
/// # Safety
/// The machine must have `Isa::NeonI8mm`.
#[target_feature(enable = "neon,dotprod,i8mm")]
#[inline(never)]
pub(super) unsafe fn with_i8mm<O: Op>(op: O) -> O::Out {
    op.run(Neon::<true>(()))
}

/// SDOT; its intrinsic is younger than the oldest supported compiler.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(mut acc: int32x4_t, w: int32x4_t, x: int32x4_t) -> int32x4_t {
    // SAFETY: a register operation.
    unsafe {
        asm!(
            "sdot {acc:v}.4s, {w:v}.16b, {x:v}.16b",
            acc = inout(vreg) acc, w = in(vreg) w, x = in(vreg) x,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// SMMLA: `x` is two rows of eight codes, `w` two columns of eight; adds row 0 by column 0, row 0 by column 1, row 1 by
/// column 0, row 1 by column 1. By hand for the same reason.
#[inline]
#[target_feature(enable = "neon,i8mm")]
fn smmla(mut acc: int32x4_t, x: int32x4_t, w: int32x4_t) -> int32x4_t {
    // SAFETY: a register operation.
    unsafe {
        asm!(
            "smmla {acc:v}.4s, {x:v}.16b, {w:v}.16b",
            acc = inout(vreg) acc, x = in(vreg) x, w = in(vreg) w,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    acc
}

/// Two rows by four columns, of two channels' fours each, from the sums of two columns and of the two others.
#[inline]
#[target_feature(enable = "neon")]
fn rows_of_pairs(a: int32x4_t, b: int32x4_t) -> (int32x4_t, int32x4_t) {
    let (a, b) = (vreinterpretq_s64_s32(a), vreinterpretq_s64_s32(b));
    (vreinterpretq_s32_s64(vtrn1q_s64(a, b)), vreinterpretq_s32_s64(vtrn2q_s64(a, b)))
}

/// [`Simd::multiply`] of columns that are eight channels deep, two to a vector: rows by pairs, of whose sums the first
/// row keeps those of each vector's first two columns, the second row the others; a row without a partner by fours.
///
/// # Safety
/// As for [`Simd::multiply`]; the machine must have `Isa::NeonI8mm`.
#[inline(always)]
unsafe fn eight_deep<S: Simd<I = int32x4_t>, const R: usize, const V: usize>(
    s: S,
    w: *const u8,
    x: [*const u8; R],
    acc: &mut [[int32x4_t; V]; R],
) {
    // SAFETY: the caller's.
    unsafe {
        let mut pairs = [s.isplat(0); R];
        for r in (0..R / 2 * 2).step_by(2) {
            pairs[r] = vreinterpretq_s32_u8(vcombine_u8(vld1_u8(x[r]), vld1_u8(x[r + 1])));
        }
        for v in 0..V {
            let (a, b) = (s.iload(w.add(v * 32).cast()), s.iload(w.add(v * 32 + 16).cast()));
            for r in (0..R / 2 * 2).step_by(2) {
                acc[r][v] = smmla(acc[r][v], pairs[r], a);
                acc[r + 1][v] = smmla(acc[r + 1][v], pairs[r], b);
            }
            if R % 2 == 1 {
                let [low, high] = x[R - 1].cast::<[i32; 2]>().read_unaligned();
                let sum = s.dot(acc[R - 1][v], vuzp1q_s32(a, b), low);
                acc[R - 1][v] = s.dot(sum, vuzp2q_s32(a, b), high);
            }
        }
    }
}

impl<const I8MM: bool> Simd for Neon<I8MM> {
    type F = float32x4_t;
    type I = int32x4_t;
    const LANES: usize = 4;
    const VECTORS: usize = 4;
    const ROWS: usize = if I8MM { 6 } else { 4 };
    const DEPTH: usize = if I8MM { 8 } else { 4 };
    const UNSIGNED_WEIGHTS: bool = false;
    const E4M3_FACTOR: f32 = 1.0;

    intrinsics! {
        fn splat(x: f32) -> float32x4_t = vdupq_n_f32(x);
        fn add(a: float32x4_t, b: float32x4_t) -> float32x4_t = vaddq_f32(a, b);
        fn sub(a: float32x4_t, b: float32x4_t) -> float32x4_t = vsubq_f32(a, b);
        fn mul(a: float32x4_t, b: float32x4_t) -> float32x4_t = vmulq_f32(a, b);
        fn div(a: float32x4_t, b: float32x4_t) -> float32x4_t = vdivq_f32(a, b);
        fn max(a: float32x4_t, b: float32x4_t) -> float32x4_t = vbslq_f32(vcgtq_f32(a, b), a, b);
        fn min(a: float32x4_t, b: float32x4_t) -> float32x4_t = vbslq_f32(vcltq_f32(a, b), a, b);
        fn fma(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t = vfmaq_f32(c, a, b);
        fn madd(a: float32x4_t, b: float32x4_t, c: float32x4_t) -> float32x4_t = vfmaq_f32(c, a, b);
        fn exp(x: float32x4_t) -> float32x4_t = exp128(x);
        fn sum(x: float32x4_t) -> f32 = vaddvq_f32(x);
        fn largest(x: float32x4_t) -> f32 = vmaxnmvq_f32(x);
        fn any_eq(a: float32x4_t, b: float32x4_t) -> bool = vmaxvq_u32(vceqq_f32(a, b)) != 0;
        fn isplat(x: i32) -> int32x4_t = vdupq_n_s32(x);
        fn bits(x: float32x4_t) -> int32x4_t = vreinterpretq_s32_f32(x);
        fn float_of(x: int32x4_t) -> float32x4_t = vreinterpretq_f32_s32(x);
        fn to_int(x: float32x4_t) -> int32x4_t = vcvtnq_s32_f32(x);
        fn to_float(x: int32x4_t) -> float32x4_t = vcvtq_f32_s32(x);
        fn iadd(a: int32x4_t, b: int32x4_t) -> int32x4_t = vaddq_s32(a, b);
        fn isub(a: int32x4_t, b: int32x4_t) -> int32x4_t = vsubq_s32(a, b);
        fn imul(a: int32x4_t, b: int32x4_t) -> int32x4_t = vmulq_s32(a, b);
        fn imax(a: int32x4_t, b: int32x4_t) -> int32x4_t = vmaxq_s32(a, b);
        fn iand(a: int32x4_t, b: int32x4_t) -> int32x4_t = vandq_s32(a, b);
        fn ior(a: int32x4_t, b: int32x4_t) -> int32x4_t = vorrq_s32(a, b);
        fn ilargest(x: int32x4_t) -> i32 = vmaxvq_s32(x);
        fn dot(acc: int32x4_t, w: int32x4_t, x: i32) -> int32x4_t = sdot(acc, w, vdupq_n_s32(x));
    }
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
    #[inline(always)]
    fn prefetch2(self, _: *const u8) {}
    #[inline(always)]
    fn call<O: Op>(self, op: O) -> O::Out {
        // SAFETY: the token exists only where the features do.
        unsafe { if I8MM { with_i8mm(op) } else { with(op) } }
    }
    #[inline(always)]
    unsafe fn multiply<const R: usize, const V: usize>(
        self,
        w: *const u8,
        x: [*const u8; R],
        acc: &mut [[int32x4_t; V]; R],
    ) {
        // SAFETY: the caller's; the token exists only where the features do.
        unsafe { if I8MM { eight_deep(self, w, x, acc) } else { four_deep(self, w, x, acc) } }
    }
    #[inline(always)]
    fn settle<const R: usize, const V: usize>(self, acc: &mut [[int32x4_t; V]; R]) {
        for pair in (0..R / 2 * 2).step_by(2).filter(|_| I8MM) {
            for v in 0..V {
                // SAFETY: the token exists only where the features do.
                (acc[pair][v], acc[pair + 1][v]) = unsafe { rows_of_pairs(acc[pair][v], acc[pair + 1][v]) };
            }
        }
    }
    #[inline(always)]
    fn shl<const N: i32>(self, a: int32x4_t) -> int32x4_t {
        // SAFETY: the token exists only where the features do.
        unsafe { vshlq_s32(a, vdupq_n_s32(N)) }
    }
    #[inline(always)]
    fn shr<const N: i32>(self, a: int32x4_t) -> int32x4_t {
        // SAFETY: as above. A negative shift to the left is one to the right.
        unsafe { vreinterpretq_s32_u32(vshlq_u32(vreinterpretq_u32_s32(a), vdupq_n_s32(-N))) }
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> float32x4_t {
        // SAFETY: the caller's.
        unsafe { vld1q_f32(p) }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, x: float32x4_t) {
        // SAFETY: the caller's.
        unsafe { vst1q_f32(p, x) }
    }
    #[inline(always)]
    unsafe fn load_part(self, p: *const f32, n: usize, fill: f32) -> float32x4_t {
        let mut lanes = [fill; 4];
        // SAFETY: the caller's; at most 4 lanes.
        unsafe {
            std::ptr::copy_nonoverlapping(p, lanes.as_mut_ptr(), n.min(4));
            vld1q_f32(lanes.as_ptr())
        }
    }
    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, n: usize, x: float32x4_t) {
        let mut lanes = [0f32; 4];
        // SAFETY: as above.
        unsafe {
            vst1q_f32(lanes.as_mut_ptr(), x);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), p, n.min(4));
        }
    }
    #[inline(always)]
    unsafe fn iload(self, p: *const i32) -> int32x4_t {
        // SAFETY: the caller's; bytes have no alignment.
        unsafe { vreinterpretq_s32_u8(vld1q_u8(p.cast())) }
    }
    #[inline(always)]
    unsafe fn istore(self, p: *mut i32, x: int32x4_t) {
        // SAFETY: the caller's.
        unsafe { vst1q_u8(p.cast(), vreinterpretq_u8_s32(x)) }
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, n: usize, x: int32x4_t) {
        let mut lanes = [0i32; 4];
        // SAFETY: the caller's.
        unsafe {
            vst1q_s32(lanes.as_mut_ptr(), x);
            for i in 0..n.min(4) {
                *p.add(i) = lanes[i] as u8;
            }
        }
    }
    #[inline(always)]
    unsafe fn sum_bytes(self, p: *const u8, n: usize) -> i32 {
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts(p, n) }.iter().map(|&x| x as i8 as i32).sum()
    }
    #[inline(always)]
    unsafe fn decode<const E4M3: bool>(self, p: *const u8) -> float32x4_t {
        // SAFETY: the caller's.
        unsafe {
            let codes = p.cast::<[u8; 4]>().read_unaligned();
            let values = codes.map(|c| if E4M3 { float8::e4m3_to_f32(c) } else { float8::e5m2_to_f32(c) });
            vld1q_f32(values.as_ptr())
        }
    }
}
