//! Gate and up projections, multiplied and quantized a few rows at a time: what the products give is read again while it
//! lies in the second-level cache of the thread that wrote it, and never travels further.
use super::{BLOCK_ROWS, Block, PackedQ8, Q8Slice, multiply, part};
use crate::rowwise::{Q8SliceMut, Units, gated_quantize};
use crate::threads::Threads;
use crate::vector::Shared;
use planish_tensor::{Activation, Q8};
use std::sync::Mutex;

/// Bytes of products that a thread keeps between.
const BETWEEN: usize = 5 << 17;
/// Rows are taken by so many: the product's tiles are as high.
const STEP: usize = 8;

/// As `gemm_w8a8` into `between[t, 2f]` and `gated_quantize` from there, bit for bit, if there are rows enough to take
/// them block by block; what then lies between is of no use. Otherwise false, and nothing is done.
pub fn gemm_gated_quantize(
    threads: &Threads,
    x: Q8Slice<'_>,
    w: &PackedQ8,
    act: Activation,
    to: Units,
    between: &mut [f32],
    out: &mut Q8SliceMut<'_>,
) -> bool {
    let (t, f) = (x.xs.len(), w.n / 2);
    assert_eq!(x.codes.len(), t * w.k, "codes of {t} tokens of width {}", w.k);
    assert!(between.len() == t * w.n && w.n == 2 * f, "{t} tokens of gate and up");
    assert!(out.codes.len() == t * f && out.xs.len() == t, "{t} quantized tokens of width {f}");
    let rows = (BETWEEN / (4 * w.n.max(1)) / STEP * STEP).min(BLOCK_ROWS);
    // Weights are read anew for each block.
    if rows < 4 * STEP || t < rows * threads.count() || (w.kind == Q8::Int8 && w.layout.kp != w.k) {
        return false;
    }
    let steps = t.div_ceil(STEP);
    let blocks = steps.div_ceil(rows / STEP).next_multiple_of(threads.count());
    let alone = Threads::new(1);
    let places = Mutex::new((0..threads.count()).collect::<Vec<usize>>());
    let (between, codes, to_xs) =
        (Shared(between.as_mut_ptr()), Shared(out.codes.as_mut_ptr()), Shared(out.xs.as_mut_ptr()));
    threads.run(blocks, |i| {
        let steps = part(steps, blocks, i);
        let (first, end) = (steps.start * STEP, (steps.end * STEP).min(t));
        let count = end - first;
        let place = places.lock().unwrap_or_else(|e| e.into_inner()).pop().expect("a place for each thread");
        // SAFETY: a place is one task's at a time, and its rows lie inside; each block of results is one task's.
        unsafe {
            let (between, from) = (between.at(place * rows * w.n), x.codes.as_ptr().add(first * w.k));
            let (xs, panels) = (&x.xs[first..end], 0..w.panels());
            multiply(Block { w, x: from, ldx: w.k, xs, zeros: None, panels, out: between, ldo: w.n });
            let out = Q8SliceMut {
                codes: std::slice::from_raw_parts_mut(codes.at(first * f), count * f),
                xs: std::slice::from_raw_parts_mut(to_xs.at(first), count),
            };
            gated_quantize(&alone, w.isa, to, std::slice::from_raw_parts(between, count * w.n), f, act, out);
        }
        places.lock().unwrap_or_else(|e| e.into_inner()).push(place);
    });
    true
}
