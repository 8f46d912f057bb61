//! One vocabulary of vector operations for all instruction sets, so that an algorithm is written once.
//! A token type stands for a family; it exists only inside [`dispatch`], after the family was found to run here.
use crate::isa::Isa;

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "aarch64")]
mod neon;
mod scalar;

/// Operations on vectors of f32 (`F`) and i32 (`I`). `p` pointers must be valid for the lanes that are moved.
pub(crate) trait Simd: Copy {
    /// Lanes of f32.
    type F: Copy;
    /// Lanes of i32 (or four bytes each).
    type I: Copy;
    /// Lanes of a vector.
    const LANES: usize;
    /// Vectors side by side in one weight panel.
    const VECTORS: usize;
    /// Most rows of a register tile.
    const ROWS: usize;
    /// Neighbouring input channels of a column that lie together in a panel of INT8 weights.
    const DEPTH: usize = 4;
    /// Bytes of so many activations of a token as [`Simd::multiply`] reads them; if these are more, [`Simd::arrange`] makes
    /// them so.
    const GROUP: usize = Self::DEPTH;
    /// Whether [`Simd::dot`] wants weights plus 128 as unsigned bytes.
    const UNSIGNED_WEIGHTS: bool;

    fn splat(self, x: f32) -> Self::F;
    unsafe fn load(self, p: *const f32) -> Self::F;
    unsafe fn store(self, p: *mut f32, x: Self::F);
    /// The first `n` lanes from memory, the others `fill`.
    unsafe fn load_part(self, p: *const f32, n: usize, fill: f32) -> Self::F;
    unsafe fn store_part(self, p: *mut f32, n: usize, x: Self::F);
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `1 / x` for x of at least 1 (or NaN), within a unit in the last place.
    #[inline(always)]
    fn reciprocal(self, x: Self::F) -> Self::F {
        self.div(self.splat(1.0), x)
    }
    /// The larger; `b` if either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// The smaller; `b` if either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a * b + c`, rounded once or twice.
    fn madd(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// As [`crate::exp`] says.
    fn exp(self, x: Self::F) -> Self::F;
    fn sum(self, x: Self::F) -> f32;
    /// The largest lane; NaN lanes may be ignored.
    fn largest(self, x: Self::F) -> f32;
    /// Whether any lane of `a` equals the one of `b`.
    fn any_eq(self, a: Self::F, b: Self::F) -> bool;

    fn isplat(self, x: i32) -> Self::I;
    unsafe fn iload(self, p: *const i32) -> Self::I;
    unsafe fn istore(self, p: *mut i32, x: Self::I);
    fn bits(self, x: Self::F) -> Self::I;
    fn float_of(self, x: Self::I) -> Self::F;
    /// To the nearest integers, ties to even; lanes must be in range.
    fn to_int(self, x: Self::F) -> Self::I;
    fn to_float(self, x: Self::I) -> Self::F;
    fn iadd(self, a: Self::I, b: Self::I) -> Self::I;
    fn isub(self, a: Self::I, b: Self::I) -> Self::I;
    /// The low 32 bits of products.
    fn imul(self, a: Self::I, b: Self::I) -> Self::I;
    fn imax(self, a: Self::I, b: Self::I) -> Self::I;
    fn iand(self, a: Self::I, b: Self::I) -> Self::I;
    fn ior(self, a: Self::I, b: Self::I) -> Self::I;
    fn shl<const N: i32>(self, a: Self::I) -> Self::I;
    /// Shifts zeros in.
    fn shr<const N: i32>(self, a: Self::I) -> Self::I;
    /// The largest lane.
    fn ilargest(self, x: Self::I) -> i32;
    /// Writes the low bytes of the first `n` lanes.
    unsafe fn store_bytes(self, p: *mut u8, n: usize, x: Self::I);

    /// Adds to each lane the exact product of its four weights with the four signed activations in `x`.
    fn dot(self, acc: Self::I, w: Self::I, x: i32) -> Self::I;
    /// Adds to the sums of `R` rows by `V` vectors the exact products of a panel's next [`Simd::DEPTH`] channels at `w`
    /// with the rows' codes at `x`. How sums are spread over `acc` meanwhile is the family's own affair.
    #[inline(always)]
    unsafe fn multiply<const R: usize, const V: usize>(
        self,
        w: *const u8,
        x: [*const u8; R],
        acc: &mut [[Self::I; V]; R],
    ) {
        // SAFETY: the caller's.
        unsafe { four_deep(self, w, x, acc) }
    }
    /// Brings sums of [`Simd::multiply`] in order: rows, then vectors of columns.
    #[inline(always)]
    fn settle<const R: usize, const V: usize>(self, _acc: &mut [[Self::I; V]; R]) {}
    /// Brings `groups` times [`Simd::DEPTH`] signed bytes into the order that [`Simd::multiply`] reads.
    unsafe fn arrange(self, _from: *const u8, _groups: usize, _to: *mut u8) {
        unreachable!("activations are used as they come")
    }
    /// Sum of `n` signed bytes.
    unsafe fn sum_bytes(self, p: *const u8, n: usize) -> i32;
    /// Decodes `LANES` codes of E4M3 (NaN excepted) divided by [`Simd::E4M3_FACTOR`], or of E5M2.
    unsafe fn decode<const E4M3: bool>(self, p: *const u8) -> Self::F;
    /// Power of two that [`Simd::decode`] leaves out of E4M3 values.
    const E4M3_FACTOR: f32;
    /// Asks for a cache line that will be read soon. Any address is allowed.
    fn prefetch(self, p: *const u8);
    /// As [`Simd::prefetch`], into the second level.
    fn prefetch2(self, p: *const u8);
    /// Runs `op` as a function of its own: large kernels compiled into one body take the compiler minutes.
    fn call<O: Op>(self, op: O) -> O::Out;
}

/// [`Simd::multiply`] of columns that are four channels deep, a lane each.
///
/// # Safety
/// As for [`Simd::multiply`].
#[inline(always)]
unsafe fn four_deep<S: Simd, const R: usize, const V: usize>(
    s: S,
    w: *const u8,
    x: [*const u8; R],
    acc: &mut [[S::I; V]; R],
) {
    // SAFETY: the caller's.
    unsafe {
        let mut columns = [s.isplat(0); V];
        for v in 0..V {
            columns[v] = s.iload(w.add(v * S::LANES * 4).cast());
        }
        for r in 0..R {
            let x = x[r].cast::<i32>().read_unaligned();
            for v in 0..V {
                acc[r][v] = s.dot(acc[r][v], columns[v], x);
            }
        }
    }
}

/// Something to run with a family's operations. `run` must be `#[inline(always)]`, as must all it calls.
pub(crate) trait Op {
    /// Result.
    type Out;
    fn run<S: Simd>(self, s: S) -> Self::Out;
}

/// Runs `op` with the operations of `isa`, or plain ones if this machine has not got it.
pub(crate) fn dispatch<O: Op>(isa: Isa, op: O) -> O::Out {
    match isa {
        // SAFETY: `runs_here` found the features (and, for the 256-bit families, `f16c` is looked up too).
        #[cfg(target_arch = "x86_64")]
        Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx if isa.runs_here() => unsafe { avx512::with(op) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::AvxVnni if isa.runs_here() && avx2::has_f16c() => unsafe { avx2::with_vnni(op) },
        // SAFETY: as above.
        #[cfg(target_arch = "x86_64")]
        Isa::Avx2 if isa.runs_here() && avx2::has_f16c() => unsafe { avx2::with(op) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::Neon if isa.runs_here() => unsafe { neon::with(op) },
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        Isa::NeonI8mm if isa.runs_here() => unsafe { neon::with_i8mm(op) },
        _ => op.run(scalar::Scalar),
    }
}

/// Shorthand for methods whose whole body is one expression of intrinsics.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
macro_rules! intrinsics {
    ($(fn $name:ident($($a:ident: $t:ty),*) $(-> $r:ty)? = $e:expr;)*) => {$(
        #[inline(always)]
        fn $name(self, $($a: $t),*) $(-> $r)? {
            // SAFETY: the token exists only where the features do.
            unsafe { $e }
        }
    )*};
}
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use intrinsics;
