//! What is done to logits.
use super::{Fold, Magnitude, RowsMut, fold4, for_vectors, row_count, split};
use crate::isa::Isa;
use crate::simd::{Op, Simd, dispatch};
use crate::threads::Threads;
use planish_tensor::{Judged, Target};
use std::ops::Range;

/// `logits[r, v]` become natural-log probabilities, by row. A row with NaN becomes NaN.
pub fn log_softmax(threads: &Threads, isa: Isa, logits: &mut [f32], v: usize) {
    let r = row_count(logits.len(), v);
    let logits = RowsMut::new(logits, r, v);
    split(threads, r, 2 * v, |rows| dispatch(isa, LogSoftmax { rows, logits: &logits }));
}

/// Calls `with` with each row of `logits[r, v]` and its number.
pub fn each_row(threads: &Threads, logits: &mut [f32], v: usize, with: &(dyn Fn(usize, &mut [f32]) + Sync)) {
    let r = row_count(logits.len(), v);
    let logits = RowsMut::new(logits, r, v);
    // SAFETY: each row is one task's.
    threads.run(r, |r| with(r, unsafe { logits.row(r) }));
}

/// Index of the largest of each row of `logits[r, v]` (the first of equals); `u32::MAX` for a row with NaN.
pub fn argmax(threads: &Threads, isa: Isa, logits: &[f32], v: usize) -> Vec<u32> {
    let r = row_count(logits.len(), v);
    let mut out = vec![0; r];
    let indices = RowsMut::new(&mut out, r, 1);
    split(threads, r, v, |rows| {
        for r in rows {
            // SAFETY: each row is in one range.
            unsafe { indices.row(r)[0] = dispatch(isa, Argmax(&logits[r * v..][..v])) };
        }
    });
    out
}

/// What rows of `logits[r, v]` say of single tokens; the targets ascend by row. The rows are only read.
pub fn judge(threads: &Threads, isa: Isa, logits: &[f32], v: usize, targets: &[Target]) -> Vec<Judged> {
    let r = row_count(logits.len(), v);
    let mut out = vec![Judged { log_prob: 0.0, greedy: false }; targets.len()];
    let places = RowsMut::new(&mut out, targets.len(), 1);
    split(threads, r, 2 * v, |rows| {
        let first = targets.partition_point(|t| (t.row as usize) < rows.start);
        let mut shape = None;
        for (i, target) in targets.iter().enumerate().skip(first).take_while(|(_, t)| (t.row as usize) < rows.end) {
            let row = &logits[target.row as usize * v..][..v];
            let of_row = match shape {
                Some((row, of_row)) if row == target.row => of_row,
                _ => dispatch(isa, Summary(row)),
            };
            shape = Some((target.row, of_row));
            let log_prob = row[target.token as usize] - of_row.top - of_row.log_sum;
            // SAFETY: each target is in one range of rows.
            unsafe { places.row(i)[0] = Judged { log_prob, greedy: of_row.likeliest == target.token } };
        }
    });
    out
}

/// What all of a row's log-probabilities need.
#[derive(Clone, Copy)]
struct OfRow {
    top: f32,
    log_sum: f32,
    likeliest: u32,
}

/// Sums up a row.
struct Summary<'a>(&'a [f32]);

impl Op for Summary<'_> {
    type Out = OfRow;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> OfRow {
        let top = largest(s, self.0);
        OfRow { top, log_sum: log_sum(s, self.0, top), likeliest: Argmax(self.0).run(s) }
    }
}

struct LogSoftmax<'a> {
    rows: Range<usize>,
    logits: &'a RowsMut<'a, f32>,
}

/// Exponentials that are added in f32 before they join the sum in f64.
const BLOCK: usize = 4096;

impl Op for LogSoftmax<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        for r in self.rows.clone() {
            // SAFETY: each row is in one range.
            let row = unsafe { self.logits.row(r) };
            let largest = largest(s, row);
            let top = s.splat(largest);
            let shift = s.splat(log_sum(s, row, largest));
            let p = row.as_mut_ptr();
            // SAFETY: vectors lie inside the row.
            unsafe {
                for_vectors!(
                    S,
                    row.len(),
                    |i| {
                        s.store(p.add(i), s.sub(s.sub(s.load(p.add(i)), top), shift));
                    },
                    |i, n| {
                        let x = s.load_part(p.add(i), n, 0.0);
                        s.store_part(p.add(i), n, s.sub(s.sub(x, top), shift));
                    }
                );
            }
        }
    }
}

struct Argmax<'a>(&'a [f32]);

impl Op for Argmax<'_> {
    type Out = u32;
    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> u32 {
        let row = self.0;
        // As integers, the magnitudes of NaN are above that of infinity.
        let highest = fold4(s, Magnitude, row);
        if f32::from_bits(s.ilargest(highest) as u32).is_nan() {
            return u32::MAX;
        }
        let top = largest(s, row);
        let tops = s.splat(top);
        let mut i = 0;
        // SAFETY: the vector lies inside the row.
        while i + S::LANES <= row.len() && !s.any_eq(unsafe { s.load(row.as_ptr().add(i)) }, tops) {
            i += S::LANES;
        }
        row[i..].iter().position(|&x| x == top).map_or(u32::MAX, |at| (i + at) as u32)
    }
}

/// Natural logarithm of the sum of exp(x - top).
#[inline(always)]
fn log_sum<S: Simd>(s: S, row: &[f32], top: f32) -> f32 {
    let mut sum = 0f64;
    for block in row.chunks(BLOCK) {
        sum += s.sum(fold4(s, Exponentials { top }, block)) as f64;
    }
    sum.ln() as f32
}

/// The sum of exp(x - top).
#[derive(Clone, Copy)]
struct Exponentials {
    top: f32,
}

impl<S: Simd> Fold<S> for Exponentials {
    type A = S::F;
    const FILL: f32 = f32::NEG_INFINITY;
    #[inline(always)]
    fn start(self, s: S) -> S::F {
        s.splat(0.0)
    }
    #[inline(always)]
    fn step(self, s: S, acc: S::F, x: S::F) -> S::F {
        s.add(acc, s.exp(s.sub(x, s.splat(self.top))))
    }
    #[inline(always)]
    fn join(self, s: S, a: S::F, b: S::F) -> S::F {
        s.add(a, b)
    }
}

/// The largest, NaN left out.
#[derive(Clone, Copy)]
struct Largest;

impl<S: Simd> Fold<S> for Largest {
    type A = S::F;
    const FILL: f32 = f32::NEG_INFINITY;
    #[inline(always)]
    fn start(self, s: S) -> S::F {
        s.splat(f32::NEG_INFINITY)
    }
    #[inline(always)]
    fn step(self, s: S, acc: S::F, x: S::F) -> S::F {
        s.max(x, acc)
    }
    #[inline(always)]
    fn join(self, s: S, a: S::F, b: S::F) -> S::F {
        s.max(a, b)
    }
}

/// The largest of a row, NaN left out.
#[inline(always)]
fn largest<S: Simd>(s: S, row: &[f32]) -> f32 {
    s.largest(fold4(s, Largest, row))
}
