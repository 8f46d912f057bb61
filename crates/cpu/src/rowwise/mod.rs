//! Operations on rows: norms, activations, quantization, and what is done to logits. All sums are in f32.
//! Threads share out the rows; a row's arithmetic does not depend on that, nor on the other rows.
use crate::simd::Simd;
use crate::threads::Threads;
use std::marker::PhantomData;
use std::ops::Range;

mod gated;
mod logits;
mod norm;
mod quantize;

pub use gated::{gated, gated_quantize};
pub use logits::{argmax, log_softmax};
pub use norm::{add, add_rms_norm, add_rms_norm_quantize, rms_norm};
pub use quantize::{Q8SliceMut, quantize_rows};

/// Elements that are not worth waking a thread for.
const INLINE_ELEMENTS: usize = 1 << 15;

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

/// Folds four vectors side by side, so that an operation need not wait for the one before.
/// `step` takes an accumulator and a vector; missing elements are `fill`. Ends with `join` of accumulators.
#[inline(always)]
fn fold4<S: Simd, A: Copy>(
    s: S,
    row: &[f32],
    fill: f32,
    start: A,
    step: impl Fn(A, S::F) -> A,
    join: impl Fn(A, A) -> A,
) -> A {
    let mut acc = [start; 4];
    let whole = row.len() / (4 * S::LANES) * (4 * S::LANES);
    let mut i = 0;
    // SAFETY: all lanes loaded are inside the row.
    unsafe {
        while i < whole {
            for u in 0..4 {
                acc[u] = step(acc[u], s.load(row.as_ptr().add(i + u * S::LANES)));
            }
            i += 4 * S::LANES;
        }
        let mut u = 0;
        while i + S::LANES <= row.len() {
            acc[u & 3] = step(acc[u & 3], s.load(row.as_ptr().add(i)));
            i += S::LANES;
            u += 1;
        }
        if i < row.len() {
            acc[3] = step(acc[3], s.load_part(row.as_ptr().add(i), row.len() - i, fill));
        }
    }
    join(join(acc[0], acc[1]), join(acc[2], acc[3]))
}

#[cfg(test)]
mod tests;
