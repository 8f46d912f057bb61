//! Register tiles: which compiled kernel takes how many rows, and where its numbers come from and go to.
use super::Block;
use crate::simd::{Op, Simd};

/// One register tile's scales and outputs.
#[derive(Clone, Copy)]
pub(super) struct Target {
    /// Rows in use. Kernels exist for some numbers of rows only; the others repeat the last row and do not store it.
    pub rows: usize,
    /// Columns in use.
    pub columns: usize,
    /// Sums start from zero, else from `partial`.
    pub first: bool,
    /// Sums end as outputs, else in `partial`.
    pub last: bool,
    pub xs: *const f32,
    pub ws: *const f32,
    pub bias: *const f32,
    /// Zero points of the rows; null if all are 0.
    pub zeros: *const i32,
    /// Sums of the columns' weights, where there are zero points.
    pub sums: *const i32,
    pub out: *mut f32,
    /// From row to row of `out`.
    pub ldo: usize,
}

impl Target {
    /// # Safety
    /// Row and column must lie inside the block.
    pub unsafe fn new(b: &Block<'_>, rows: std::ops::Range<usize>, panel: &super::Panel) -> Target {
        // SAFETY: the caller's.
        unsafe {
            Target {
                rows: rows.len(),
                columns: panel.columns,
                first: true,
                last: true,
                xs: b.xs.as_ptr().add(rows.start),
                ws: b.w.ws.as_ptr().add(panel.first),
                bias: b.w.bias.as_ptr().add(panel.first),
                zeros: b.zeros.map_or(std::ptr::null(), |zeros| zeros[rows.start..].as_ptr()),
                sums: b.w.sums.as_ptr().wrapping_add(panel.first),
                out: b.out.wrapping_add(rows.start * b.ldo + panel.first),
                ldo: b.ldo,
            }
        }
    }

    /// Whether all rows and columns of a tile of this size are in use, and nothing but scales and bias comes after the sums.
    #[inline(always)]
    pub fn is_whole<S: Simd, const R: usize, const V: usize>(&self) -> bool {
        self.rows == R && self.columns == V * S::LANES && self.zeros.is_null()
    }

    /// What is left of one vector of integer sums when the zero points' share is taken away.
    ///
    /// # Safety
    /// The pointers must be valid for the tile.
    #[inline(always)]
    pub unsafe fn shift<S: Simd>(&self, s: S, r: usize, c: usize, acc: S::I) -> S::I {
        if self.zeros.is_null() {
            return acc;
        }
        // SAFETY: the caller's. Sums are padded to whole vectors.
        unsafe { s.isub(acc, s.imul(s.isplat(*self.zeros.add(r)), s.iload(self.sums.add(c)))) }
    }

    /// Scales one vector of sums and stores it.
    ///
    /// # Safety
    /// The pointers must be valid for the tile.
    #[inline(always)]
    pub unsafe fn put<S: Simd>(&self, s: S, r: usize, c: usize, acc: S::F) {
        // SAFETY: the caller's. Scales and biases are padded to whole vectors.
        unsafe {
            let y = s.mul(s.mul(acc, s.splat(*self.xs.add(r))), s.load(self.ws.add(c)));
            let y = s.add(y, s.load(self.bias.add(c)));
            let out = self.out.add(r * self.ldo + c);
            if c + S::LANES <= self.columns { s.store(out, y) } else { s.store_part(out, self.columns - c, y) }
        }
    }
}

/// A kernel for `R` rows by `V` vectors.
pub(super) trait Kernel: Copy {
    /// # Safety
    /// The pointers inside must be valid for the tile, of which at most `R` rows are in use.
    unsafe fn run<S: Simd, const R: usize, const V: usize>(self, s: S);
}

#[derive(Clone, Copy)]
struct Sized<K, const R: usize, const V: usize>(K);

impl<K: Kernel, const R: usize, const V: usize> Op for Sized<K, R, V> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        // Other sizes are never called: no code is made for them.
        if R <= S::ROWS && (V == 1 || V == S::VECTORS) {
            // SAFETY: `run` below passes its caller's promise on.
            unsafe { self.0.run::<S, R, V>(s) }
        }
    }
}

/// Runs the kernel of the right size.
///
/// # Safety
/// As for [`Kernel::run`]; `rows` is at most `S::ROWS`.
#[inline(always)]
pub(super) unsafe fn run<S: Simd, K: Kernel>(s: S, kernel: K, rows: usize, width: usize) {
    if width == S::LANES {
        return by_rows::<S, K, 1>(s, kernel, rows);
    }
    match S::VECTORS {
        2 => by_rows::<S, K, 2>(s, kernel, rows),
        3 => by_rows::<S, K, 3>(s, kernel, rows),
        _ => by_rows::<S, K, 4>(s, kernel, rows),
    }
}

#[inline(always)]
fn by_rows<S: Simd, K: Kernel, const V: usize>(s: S, kernel: K, rows: usize) {
    if V != 1 && V != S::VECTORS {
        return;
    }
    match rows {
        1 => s.call(Sized::<K, 1, V>(kernel)),
        2 => s.call(Sized::<K, 2, V>(kernel)),
        3 | 4 => s.call(Sized::<K, 4, V>(kernel)),
        5 | 6 if S::ROWS >= 6 => s.call(Sized::<K, 6, V>(kernel)),
        _ if S::ROWS >= 8 => s.call(Sized::<K, 8, V>(kernel)),
        _ => unreachable!("a tile has at most S::ROWS rows"),
    }
}
