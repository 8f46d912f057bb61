//! Nonlinearities without a gate: `kernels/activate.cu`.
use super::rows::floats;
use super::{Grid, address, params};
use crate::Cuda;
use planish_tensor::layout::require;
use planish_tensor::{Activation, Result, Tensor};

/// Threads of a block, and the most blocks; each goes over the elements in strides.
const THREADS: usize = 256;
const MOST_BLOCKS: usize = 65_536;

/// A nonlinearity's name in the kernels.
pub(super) fn name_of(act: Activation) -> &'static str {
    match act {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu",
        Activation::Gelu => "gelu_erf",
        Activation::Relu => "relu",
    }
}

pub(crate) fn activate(cuda: &Cuda, x: &Tensor<Cuda>, act: Activation, out: &mut Tensor<Cuda>) -> Result<()> {
    require("activate", x.rows == out.rows && x.cols == out.cols)?;
    floats("activate", &[x, out])?;
    let grid = Grid::of((x.rows * x.cols).div_ceil(THREADS).min(MOST_BLOCKS), THREADS);
    let name = format!("activate_{}", name_of(act));
    cuda.launch("activate", &name, grid, params![address(x), x.rows, x.cols, address(out)])
}
