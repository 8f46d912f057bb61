//! Gates and their codes: `kernels/gated.cu`.
use super::quantize_rows::{Rows, check};
use super::rows::floats;
use super::{Grid, address, params};
use crate::Cuda;
use crate::support::no_kernel;
use planish_tensor::layout::require;
use planish_tensor::{Activation, Q8Rows, Result, Tensor};

/// Threads of a block where no row is kept.
const THREADS: usize = 256;

fn name_of(act: Activation) -> Result<&'static str> {
    match act {
        Activation::Silu => Ok("silu"),
        Activation::GeluTanh => Ok("gelu"),
        Activation::Gelu | Activation::Relu => Err(no_kernel(&format!("gates with {act:?}"))),
    }
}

pub(crate) fn gated(cuda: &Cuda, gate_up: &Tensor<Cuda>, act: Activation, out: &mut Tensor<Cuda>) -> Result<()> {
    require("gated", gate_up.cols == 2 * out.cols && gate_up.rows == out.rows)?;
    floats("gated", &[gate_up, out])?;
    let parts = out.cols.div_ceil(4 * THREADS);
    let grid = Grid::of(out.rows * parts, THREADS);
    let name = format!("gated_{}", name_of(act)?);
    cuda.launch("gated", &name, grid, params![address(gate_up), out.cols, parts, address(out)])
}

pub(crate) fn gated_quantize(
    cuda: &Cuda,
    gate_up: &Tensor<Cuda>,
    act: Activation,
    out: &mut Q8Rows<Cuda>,
) -> Result<()> {
    let f = out.codes.cols;
    require("gated_quantize", gate_up.cols == 2 * f)?;
    floats("gated_quantize", &[gate_up])?;
    let kind = check(cuda, "gated_quantize", gate_up.rows, f, out)?;
    let rows = Rows { x: address(gate_up), rows: gate_up.rows, f, operands: 2, kind };
    rows.quantize(cuda, "gated", &format!("gated_quantize_{}", name_of(act)?), out)
}
