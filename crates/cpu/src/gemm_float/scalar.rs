//! The definition of the f32 product, in plain loops over the packed weight.
use super::{INLINE, PANEL, PackedFloat};
use crate::threads::Threads;
use crate::vector::Shared;
use planish_tensor::DType;

/// As [`super::gemm_float`] with [`planish_tensor::FloatMath::F32`], for any family's weight.
pub fn gemm_float_scalar(threads: &Threads, x: &[f32], w: &PackedFloat, out: &mut [f32]) {
    let (n, k) = (w.n, w.k);
    let t = x.len() / k;
    assert_eq!((x.len(), out.len()), (t * k, t * n), "gemm_float: x [t, {k}], out [t, {n}]");
    let to = Shared(out.as_mut_ptr());
    let panel = |p: usize| {
        for row in 0..t {
            for column in p * PANEL..n.min(p * PANEL + PANEL) {
                let y = (0..k).fold(0.0f32, |y, i| x[row * k + i].mul_add(weight(w, column, i), y));
                let y = w.bias.as_ref().map_or(y, |b| y + b[column]);
                // SAFETY: each task has its own columns of `out`, which is [t, n].
                unsafe { *to.at(row * n + column) = y };
            }
        }
    };
    let panels = n.div_ceil(PANEL);
    if t * n * k < INLINE { (0..panels).for_each(panel) } else { threads.run(panels, panel) }
}

/// Weight of output channel `column` and input channel `i`.
fn weight(w: &PackedFloat, column: usize, i: usize) -> f32 {
    let p = column / PANEL;
    let step = if w.dtype == DType::BF16 { i / 2 } else { i };
    let at = 4 * (p * PANEL * w.steps() + step * PANEL + column % PANEL);
    let b = &w.data.bytes()[at..at + 4];
    let word = u32::from_ne_bytes([b[0], b[1], b[2], b[3]]);
    match (w.dtype, i % 2) {
        (DType::BF16, 0) => f32::from_bits(word << 16),
        (DType::BF16, _) => f32::from_bits(word & 0xffff_0000),
        _ => f32::from_bits(word),
    }
}
