//! Operations on rows: norms, activations, quantization, and what is done to logits. All sums are in f32.
//! Threads share out the rows; a row's arithmetic does not depend on that, nor on the other rows.
use crate::simd::Simd;
use crate::threads::Threads;
use std::marker::PhantomData;
use std::ops::Range;

mod activation;
mod gated;
mod layer_norm;
mod logits;
mod mixture;
mod norm;
mod quantize;
mod shifted;

pub use activation::{activate, softcap};
pub use gated::{gated, gated_quantize};
pub use layer_norm::layer_norm;
pub use logits::{argmax, each_row, judge, log_softmax};
pub use mixture::{add_gated, combine, route, select_rows};
pub use norm::{add, add_rms_norm, add_rms_norm_quantize, rms_norm, rms_norm_stretches};
pub use quantize::{Q8SliceMut, Units, quantize_on, quantize_rows, quantize_weight};

/// Elements that are not worth waking a thread for.
const INLINE_ELEMENTS: usize = 1 << 12;

/// Calls `run` with ranges that cover the rows; each row counts as `width` elements.
fn split(threads: &Threads, rows: usize, width: usize, run: impl Fn(Range<usize>) + Sync) {
    let elements = rows * width;
    let tasks = (elements / INLINE_ELEMENTS).clamp(1, 4 * threads.count()).min(rows.max(1));
    if threads.count() == 1 || tasks == 1 {
        return run(0..rows);
    }
    threads.run(tasks, |i| run(rows * i / tasks..rows * (i + 1) / tasks));
}

/// Rows that tasks write, each row by one task.
struct RowsMut<'a, T> {
    first: *mut T,
    rows: usize,
    width: usize,
    slice: PhantomData<&'a mut [T]>,
}

// SAFETY: a row is reached through `row` alone, whose caller promises to be its only user.
unsafe impl<T: Send> Sync for RowsMut<'_, T> {}

impl<'a, T> RowsMut<'a, T> {
    fn new(slice: &'a mut [T], rows: usize, width: usize) -> Self {
        assert_eq!(slice.len(), rows * width, "{rows} rows of width {width}");
        Self { first: slice.as_mut_ptr(), rows, width, slice: PhantomData }
    }

    /// # Safety
    /// No two live results may be of the same row.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    unsafe fn row(&self, row: usize) -> &mut [T] {
        assert!(row < self.rows);
        // SAFETY: inside the slice, and the caller promises that it is used once.
        unsafe { std::slice::from_raw_parts_mut(self.first.add(row * self.width), self.width) }
    }
}

/// Number of rows of `len` elements.
fn row_count(len: usize, width: usize) -> usize {
    if width == 0 {
        return 0;
    }
    assert_eq!(len % width, 0, "whole rows of width {width}");
    len / width
}

/// Vectors `step` at a time: `$body` runs with the index of each whole vector, then `$tail` with the index and number
/// of the elements left over (if any).
macro_rules! for_vectors {
    ($s:ty, $len:expr, |$i:ident| $body:block, |$j:ident, $n:ident| $tail:block) => {
        let len: usize = $len;
        let whole = len / <$s>::LANES * <$s>::LANES;
        let mut i = 0;
        while i < whole {
            let $i = i;
            $body
            i += <$s>::LANES;
        }
        if whole < len {
            let ($j, $n) = (whole, len - whole);
            $tail
        }
    };
}
use for_vectors;

/// How [`fold4`] takes in a row. (Not closures: those may stay calls, with all vectors in memory.)
trait Fold<S: Simd>: Copy {
    /// A vector of partial results.
    type A: Copy;
    /// Stands for the elements that a row's last vector lacks.
    const FILL: f32;
    fn start(self, s: S) -> Self::A;
    fn step(self, s: S, acc: Self::A, x: S::F) -> Self::A;
    fn join(self, s: S, a: Self::A, b: Self::A) -> Self::A;
}

/// Folds four vectors side by side, so that an operation need not wait for the one before.
#[inline(always)]
fn fold4<S: Simd, T: Fold<S>>(s: S, fold: T, row: &[f32]) -> T::A {
    let mut acc = [fold.start(s); 4];
    let (p, len) = (row.as_ptr(), row.len());
    let mut i = 0;
    // SAFETY: all lanes loaded are inside the row.
    unsafe {
        while i + 4 * S::LANES <= len {
            for u in 0..4 {
                acc[u] = fold.step(s, acc[u], s.load(p.add(i + u * S::LANES)));
            }
            i += 4 * S::LANES;
        }
        for u in 0..3 {
            if i + S::LANES <= len {
                acc[u] = fold.step(s, acc[u], s.load(p.add(i)));
                i += S::LANES;
            }
        }
        if i < len {
            acc[3] = fold.step(s, acc[3], s.load_part(p.add(i), len - i, T::FILL));
        }
    }
    fold.join(s, fold.join(s, acc[0], acc[1]), fold.join(s, acc[2], acc[3]))
}

/// Bits of the largest magnitude. As integers, magnitudes order as they do as numbers, and infinity and NaN are larger
/// than all others.
#[derive(Clone, Copy)]
struct Magnitude;

impl<S: Simd> Fold<S> for Magnitude {
    type A = S::I;
    const FILL: f32 = 0.0;
    #[inline(always)]
    fn start(self, s: S) -> S::I {
        s.isplat(0)
    }
    #[inline(always)]
    fn step(self, s: S, acc: S::I, x: S::F) -> S::I {
        s.imax(acc, s.iand(s.bits(x), s.isplat(0x7FFF_FFFF)))
    }
    #[inline(always)]
    fn join(self, s: S, a: S::I, b: S::I) -> S::I {
        s.imax(a, b)
    }
}

#[cfg(test)]
mod tests;
