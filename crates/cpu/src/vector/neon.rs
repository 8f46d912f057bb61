//! Four lanes: aarch64 NEON, which every processor of that kind has.
use super::{Vector, Work};
use std::arch::aarch64::*;

/// A 128-bit register.
#[derive(Clone, Copy)]
pub(crate) struct Neon(float32x4_t);

#[target_feature(enable = "neon")]
unsafe fn enter<W: Work>(work: W) {
    // SAFETY: the caller of `Vector::enter` has the instructions and answers for `work`.
    unsafe { work.run() }
}

impl Vector for Neon {
    const LANES: usize = 4;
    // Of 32 registers, eighteen and twenty-four are sums.
    const ROWS: usize = 6;
    const QUERIES: usize = 6;

    #[inline(always)]
    unsafe fn enter<W: Work>(work: W) {
        // SAFETY: the caller keeps the contract of `Vector`.
        unsafe { enter(work) }
    }

    // Cores with NEON follow such streams by themselves, as far as is known: nothing was measured.
    #[inline(always)]
    unsafe fn prefetch(_: *const u32) {}

    methods! {
        fn splat(x: f32) -> Self { Self(vdupq_n_f32(x)) }
        fn load(from: *const f32) -> Self { Self(vld1q_f32(from)) }
        fn store(self: Self, to: *mut f32) { vst1q_f32(to, self.0) }
        fn load_part(from: *const f32, lanes: usize) -> Self {
            if lanes >= 4 {
                return Self::load(from);
            }
            let mut part = [0.0; 4];
            std::ptr::copy_nonoverlapping(from, part.as_mut_ptr(), lanes);
            Self::load(part.as_ptr())
        }
        fn store_part(self: Self, to: *mut f32, lanes: usize) {
            if lanes >= 4 {
                return self.store(to);
            }
            let mut part = [0.0; 4];
            self.store(part.as_mut_ptr());
            std::ptr::copy_nonoverlapping(part.as_ptr(), to, lanes);
        }
        fn add(self: Self, y: Self) -> Self { Self(vaddq_f32(self.0, y.0)) }
        fn sub(self: Self, y: Self) -> Self { Self(vsubq_f32(self.0, y.0)) }
        fn mul(self: Self, y: Self) -> Self { Self(vmulq_f32(self.0, y.0)) }
        fn div(self: Self, y: Self) -> Self { Self(vdivq_f32(self.0, y.0)) }
        fn fma(self: Self, y: Self, z: Self) -> Self { Self(vfmaq_f32(z.0, self.0, y.0)) }
        fn max(self: Self, y: Self) -> Self { Self(vbslq_f32(vcgtq_f32(self.0, y.0), self.0, y.0)) }
        fn select_ge(self: Self, limit: Self, yes: Self, no: Self) -> Self {
            Self(vbslq_f32(vcgeq_f32(self.0, limit.0), yes.0, no.0))
        }
        fn abs(self: Self) -> Self { Self(vabsq_f32(self.0)) }
        fn with_sign(self: Self, sign: Self) -> Self { Self(vbslq_f32(vdupq_n_u32(1 << 31), sign.0, self.0)) }
        fn exp(self: Self) -> Self { Self(crate::exp::exp128(self.0)) }
        fn first(self: Self) -> f32 { vgetq_lane_f32::<0>(self.0) }
        fn sum(self: Self) -> f32 { vpadds_f32(vadd_f32(vget_low_f32(self.0), vget_high_f32(self.0))) }
        fn largest(self: Self) -> f32 { vmaxnmvq_f32(self.0) }
        fn load_pairs(from: *const u32) -> (Self, Self) {
            let w = vld1q_u32(from);
            let high = vandq_u32(w, vdupq_n_u32(0xffff_0000));
            (Self(vreinterpretq_f32_u32(vshlq_n_u32::<16>(w))), Self(vreinterpretq_f32_u32(high)))
        }
        fn transpose(rows: *const *const f32, column: usize, to: *mut f32, pitch: usize) {
            transpose(rows, column, to, pitch)
        }
    }
}

/// Four rows of four: pairs, then halves of the registers.
#[inline(always)]
unsafe fn transpose(rows: *const *const f32, column: usize, to: *mut f32, pitch: usize) {
    // SAFETY: the caller keeps the contract of `Vector::transpose`.
    unsafe {
        let row = |i: usize| vld1q_f32((*rows.add(i)).add(column));
        let (a, b, c, d) = (row(0), row(1), row(2), row(3));
        let wide = |x: float32x4_t| vreinterpretq_f64_f32(x);
        let (ab, cd) = ([vtrn1q_f32(a, b), vtrn2q_f32(a, b)], [vtrn1q_f32(c, d), vtrn2q_f32(c, d)]);
        for i in 0..2 {
            let (ab, cd) = (wide(ab[i]), wide(cd[i]));
            vst1q_f32(to.add(i * pitch), vreinterpretq_f32_f64(vtrn1q_f64(ab, cd)));
            vst1q_f32(to.add((2 + i) * pitch), vreinterpretq_f32_f64(vtrn2q_f64(ab, cd)));
        }
    }
}
