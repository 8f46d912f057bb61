//! aarch64 NEON with dot products: 4 lanes.
use super::{Op, Simd, intrinsics};
use crate::exp::{EXP_HIGH, EXP_LOW, LN2_HIGH, LN2_LOW, P};
use planish_tensor::float8;
use std::arch::aarch64::*;
use std::arch::asm;

#[derive(Clone, Copy)]
struct Neon(());

/// Runs `op` with 4 lanes.
///
/// # Safety
/// The machine must have `Isa::Neon`.
#[target_feature(enable = "neon,dotprod")]
#[inline(never)]
pub(super) unsafe fn with<O: Op>(op: O) -> O::Out {
    op.run(Neon(()))
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

/// As `exp256`.
#[inline]
#[target_feature(enable = "neon")]
fn exp128(x: float32x4_t) -> float32x4_t {
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

impl Simd for Neon {
    type F = float32x4_t;
    type I = int32x4_t;
    const LANES: usize = 4;
    const VECTORS: usize = 4;
    const ROWS: usize = 4;
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
        unsafe { with(op) }
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
