//! Gates and their codes: `kernels/gated.cu`.
use super::activate::name_of;
use super::gemm_w8a8::joins;
use super::grids::is_usual;
use super::quantize_rows::{Rows, check, quantize_rows};
use super::rows::floats;
use super::{Grid, address, params};
use crate::Cuda;
use planish_tensor::layout::require;
use planish_tensor::{Activation, Q8Rows, Result, Tensor};

/// Threads of a block where no row is kept.
const THREADS: usize = 256;

pub(crate) fn gated(cuda: &Cuda, gate_up: &Tensor<Cuda>, act: Activation, out: &mut Tensor<Cuda>) -> Result<()> {
    require("gated", gate_up.cols == 2 * out.cols && gate_up.rows == out.rows)?;
    floats("gated", &[gate_up, out])?;
    let parts = out.cols.div_ceil(4 * THREADS);
    let grid = Grid::of(out.rows * parts, THREADS);
    let name = format!("gated_{}", name_of(act));
    cuda.launch("gated", &name, grid, params![address(gate_up), out.cols, parts, address(out)])
}

/// The usual gates by one kernel, the others through `scratch[t, f]`.
pub(crate) fn gated_quantize(
    cuda: &Cuda,
    gate_up: &Tensor<Cuda>,
    act: Activation,
    scratch: &mut Tensor<Cuda>,
    out: &mut Q8Rows<Cuda>,
) -> Result<()> {
    if !(joins(act) && is_usual(out.grid)) {
        gated(cuda, gate_up, act, scratch)?;
        return quantize_rows(cuda, scratch, out);
    }
    let f = out.codes.cols;
    require("gated_quantize", gate_up.cols == 2 * f)?;
    floats("gated_quantize", &[gate_up])?;
    let codes = check(cuda, "gated_quantize", gate_up.rows, f, out)?;
    let rows = Rows { x: address(gate_up), rows: gate_up.rows, f, operands: 2, codes };
    rows.quantize(cuda, "gated", &format!("gated_quantize_{}", name_of(act)), out)
}
