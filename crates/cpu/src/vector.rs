//! A vector of f32 as the float kernels see it, so that one kernel text serves every instruction set.
//! Kernels are `#[inline(always)]` generics, compiled for a family where [`Vector::enter`] calls them.
// Families without vectors use `Shared` alone, and only some have bf16 dot products.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]

/// Something to compile with a family's instructions.
pub(crate) trait Work {
    /// Does it. Implementations are `#[inline(always)]`.
    ///
    /// # Safety
    /// Only [`Vector::enter`] calls this, on a machine that has the family's instructions;
    /// the maker of the value answers for its pointers.
    unsafe fn run(self);
}

/// A register of [`Vector::LANES`] floats. All operations round once, as the scalar ones do.
///
/// # Safety
/// Every method needs the family's instructions; pointers must be valid for the lanes they touch.
#[allow(clippy::missing_safety_doc)] // stated above, once for all methods
pub(crate) trait Vector: Copy {
    /// Floats in a register.
    const LANES: usize;
    /// Rows of a product tile three registers wide.
    const ROWS: usize;
    /// Rows of an attention tile four registers wide.
    const QUERIES: usize;

    /// Runs `work` compiled for this family.
    unsafe fn enter<W: Work>(work: W);
    unsafe fn splat(x: f32) -> Self;
    unsafe fn load(from: *const f32) -> Self;
    unsafe fn store(self, to: *mut f32);
    /// Loads the first `lanes` floats; the others are 0.
    unsafe fn load_part(from: *const f32, lanes: usize) -> Self;
    /// Asks for the cache line of `at`, which may be anywhere.
    unsafe fn prefetch(at: *const u32);
    /// Stores the first `lanes` floats.
    unsafe fn store_part(self, to: *mut f32, lanes: usize);
    unsafe fn add(self, y: Self) -> Self;
    unsafe fn sub(self, y: Self) -> Self;
    unsafe fn mul(self, y: Self) -> Self;
    unsafe fn div(self, y: Self) -> Self;
    /// `self * y + z`, rounded once.
    unsafe fn fma(self, y: Self, z: Self) -> Self;
    /// The larger; `y` if either is NaN.
    unsafe fn max(self, y: Self) -> Self;
    /// `self >= limit ? yes : no` by lane; a NaN takes `no`.
    unsafe fn select_ge(self, limit: Self, yes: Self, no: Self) -> Self;
    unsafe fn abs(self) -> Self;
    /// The magnitude of `self` with the sign of `sign`.
    unsafe fn with_sign(self, sign: Self) -> Self;
    /// exp of each lane, as in [`crate::exp`].
    unsafe fn exp(self) -> Self;
    /// The first lane.
    unsafe fn first(self) -> f32;
    /// Sum of the lanes, halves first: lane i + lane i + LANES / 2, and so on.
    unsafe fn sum(self) -> f32;
    unsafe fn largest(self) -> f32;
    /// Loads pairs of bf16: the low halves and the high halves, widened.
    unsafe fn load_pairs(from: *const u32) -> (Self, Self);
    /// Writes lane i of register j (of LANES), read at `rows[j] + column`, to `to[i * pitch + j]`.
    unsafe fn transpose(rows: *const *const f32, column: usize, to: *mut f32, pitch: usize);
}

/// A family with bf16 dot products.
///
/// # Safety
/// As for [`Vector`].
#[allow(clippy::missing_safety_doc)] // stated above
pub(crate) trait DotVector: Vector {
    /// Runs `work` compiled for this family with bf16 dot products.
    unsafe fn enter_dot<W: Work>(work: W);
    /// Rounds 2 * LANES floats to bf16, in pairs of neighbours.
    unsafe fn round_pairs(from: *const f32) -> Self;
    /// Rounds to bf16, in pairs (self in the low halves, high in the high halves).
    unsafe fn join_pairs(self, high: Self) -> Self;
    /// `self + x.low * w.low + x.high * w.high` for the bf16 pair `x` and the pairs in `w`.
    unsafe fn dot_pairs(self, x: u32, w: Self) -> Self;
}

/// Memory that tasks write at disjoint places.
#[derive(Clone, Copy)]
pub(crate) struct Shared<T>(pub *mut T);

// SAFETY: users write disjoint elements only, and read none that another task writes.
unsafe impl<T: Send> Send for Shared<T> {}
// SAFETY: as above.
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// The address of element `i`. A method, so that closures capture the whole.
    #[inline(always)]
    pub fn at(self, i: usize) -> *mut T {
        self.0.wrapping_add(i)
    }
}

/// Unsafe methods whose whole body rests on the trait's contract.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! methods {
    ($(fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)? $body:block)*) => {$(
        #[inline(always)]
        unsafe fn $name($($arg: $ty),*) $(-> $ret)? {
            // SAFETY: the caller keeps the contract of `Vector`.
            unsafe { $body }
        }
    )*};
}

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
#[cfg(target_arch = "aarch64")]
pub(crate) use neon::Neon;
#[cfg(target_arch = "x86_64")]
pub(crate) use {avx2::Avx2, avx512::Avx512};
