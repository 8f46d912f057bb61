//! One lane, plain Rust.
use super::{Op, Simd};
use planish_tensor::float8;

#[derive(Clone, Copy)]
pub(super) struct Scalar;

impl Simd for Scalar {
    type F = f32;
    type I = i32;
    const LANES: usize = 1;
    const VECTORS: usize = 1;
    const ROWS: usize = 4;
    const UNSIGNED_WEIGHTS: bool = false;
    const E4M3_FACTOR: f32 = 1.0;

    #[inline(always)]
    fn splat(self, x: f32) -> f32 {
        x
    }
    #[inline(always)]
    unsafe fn load(self, p: *const f32) -> f32 {
        // SAFETY: the caller's.
        unsafe { p.read_unaligned() }
    }
    #[inline(always)]
    unsafe fn store(self, p: *mut f32, x: f32) {
        // SAFETY: the caller's.
        unsafe { p.write_unaligned(x) }
    }
    #[inline(always)]
    unsafe fn load_part(self, p: *const f32, n: usize, fill: f32) -> f32 {
        // SAFETY: the caller's.
        if n == 0 { fill } else { unsafe { p.read_unaligned() } }
    }
    #[inline(always)]
    unsafe fn store_part(self, p: *mut f32, n: usize, x: f32) {
        if n != 0 {
            // SAFETY: the caller's.
            unsafe { p.write_unaligned(x) }
        }
    }
    #[inline(always)]
    fn add(self, a: f32, b: f32) -> f32 {
        a + b
    }
    #[inline(always)]
    fn sub(self, a: f32, b: f32) -> f32 {
        a - b
    }
    #[inline(always)]
    fn mul(self, a: f32, b: f32) -> f32 {
        a * b
    }
    #[inline(always)]
    fn div(self, a: f32, b: f32) -> f32 {
        a / b
    }
    #[inline(always)]
    fn max(self, a: f32, b: f32) -> f32 {
        if a > b { a } else { b }
    }
    #[inline(always)]
    fn min(self, a: f32, b: f32) -> f32 {
        if a < b { a } else { b }
    }
    #[inline(always)]
    fn fma(self, a: f32, b: f32, c: f32) -> f32 {
        a.mul_add(b, c)
    }
    #[inline(always)]
    fn madd(self, a: f32, b: f32, c: f32) -> f32 {
        a * b + c
    }
    #[inline(always)]
    fn exp(self, x: f32) -> f32 {
        x.exp()
    }
    #[inline(always)]
    fn sum(self, x: f32) -> f32 {
        x
    }
    #[inline(always)]
    fn largest(self, x: f32) -> f32 {
        x
    }
    #[inline(always)]
    fn any_eq(self, a: f32, b: f32) -> bool {
        a == b
    }
    #[inline(always)]
    fn isplat(self, x: i32) -> i32 {
        x
    }
    #[inline(always)]
    unsafe fn iload(self, p: *const i32) -> i32 {
        // SAFETY: the caller's.
        unsafe { p.read_unaligned() }
    }
    #[inline(always)]
    unsafe fn istore(self, p: *mut i32, x: i32) {
        // SAFETY: the caller's.
        unsafe { p.write_unaligned(x) }
    }
    #[inline(always)]
    fn bits(self, x: f32) -> i32 {
        x.to_bits() as i32
    }
    #[inline(always)]
    fn float_of(self, x: i32) -> f32 {
        f32::from_bits(x as u32)
    }
    #[inline(always)]
    fn to_int(self, x: f32) -> i32 {
        x.round_ties_even() as i32
    }
    #[inline(always)]
    fn to_float(self, x: i32) -> f32 {
        x as f32
    }
    #[inline(always)]
    fn iadd(self, a: i32, b: i32) -> i32 {
        a.wrapping_add(b)
    }
    #[inline(always)]
    fn imul(self, a: i32, b: i32) -> i32 {
        a.wrapping_mul(b)
    }
    #[inline(always)]
    fn isub(self, a: i32, b: i32) -> i32 {
        a.wrapping_sub(b)
    }
    #[inline(always)]
    fn imax(self, a: i32, b: i32) -> i32 {
        a.max(b)
    }
    #[inline(always)]
    fn iand(self, a: i32, b: i32) -> i32 {
        a & b
    }
    #[inline(always)]
    fn ior(self, a: i32, b: i32) -> i32 {
        a | b
    }
    #[inline(always)]
    fn shl<const N: i32>(self, a: i32) -> i32 {
        a << N
    }
    #[inline(always)]
    fn shr<const N: i32>(self, a: i32) -> i32 {
        (a as u32 >> N) as i32
    }
    #[inline(always)]
    fn ilargest(self, x: i32) -> i32 {
        x
    }
    #[inline(always)]
    unsafe fn store_bytes(self, p: *mut u8, n: usize, x: i32) {
        if n != 0 {
            // SAFETY: the caller's.
            unsafe { *p = x as u8 }
        }
    }
    #[inline(always)]
    fn dot(self, acc: i32, w: i32, x: i32) -> i32 {
        let products = w.to_le_bytes().into_iter().zip(x.to_le_bytes()).map(|(w, x)| w as i8 as i32 * x as i8 as i32);
        products.fold(acc, i32::wrapping_add)
    }
    #[inline(always)]
    unsafe fn sum_bytes(self, p: *const u8, n: usize) -> i32 {
        // SAFETY: the caller's.
        unsafe { std::slice::from_raw_parts(p, n) }.iter().map(|&x| x as i8 as i32).sum()
    }
    #[inline(always)]
    unsafe fn decode<const E4M3: bool>(self, p: *const u8) -> f32 {
        // SAFETY: the caller's.
        let code = unsafe { *p };
        if E4M3 { float8::e4m3_to_f32(code) } else { float8::e5m2_to_f32(code) }
    }
    #[inline(always)]
    fn call<O: Op>(self, op: O) -> O::Out {
        op.run(self)
    }
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
    #[inline(always)]
    fn prefetch2(self, _: *const u8) {}
}
