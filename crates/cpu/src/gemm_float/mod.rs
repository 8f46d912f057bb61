//! `out[t, n] = x[t, k] · w[n, k]ᵀ + bias` for float weights.
//! In f32, every output is one chain of fused multiply-adds over the channels in ascending order, then the bias:
//! the same bits on every family, for any number of rows and threads. In bf16, the chain is over pairs of channels.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod engine;
mod pack;
mod scalar;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
pub(crate) mod tile;

pub use pack::PackedFloat;
pub use scalar::gemm_float_scalar;

use crate::threads::Threads;
use planish_tensor::FloatMath;

/// Columns of a panel: three registers of the widest family.
pub(crate) const PANEL: usize = 48;
/// Multiply-adds below which waking other threads costs more than it saves.
const INLINE: usize = 1 << 17;

/// Multiplies `x` `[t, k]` into `out` `[t, n]`. [`FloatMath::Bf16`] is used where the weight is BF16 and the family
/// has bf16 dot products; all else is computed as [`FloatMath::F32`].
pub fn gemm_float(threads: &Threads, x: &[f32], w: &PackedFloat, math: FloatMath, out: &mut [f32]) {
    let t = x.len() / w.k;
    assert_eq!((x.len(), out.len()), (t * w.k, t * w.n), "gemm_float: x [t, {}], out [t, {}]", w.k, w.n);
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    if engine::run(threads, x, w, math, out) {
        return;
    }
    let _ = math;
    gemm_float_scalar(threads, x, w, out);
}

#[cfg(test)]
pub(crate) mod tests;
