//! Gates and their codes: `kernels/gated.cu`.
use super::activate::name_of;
use super::gemm_w8a8::{gemm_w8a8, gemm_w8a8_gated, joins};
use super::grids::is_usual;
use super::quantize_rows::{Rows, check, quantize_rows, takes_bf16};
use super::rows::floats;
use super::{Grid, address, params};
use crate::{Cuda, Linear};
use planish_tensor::layout::require;
use planish_tensor::{Activation, DType, Q8, Q8Rows, Result, Tensor};

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

/// Gates and their codes from the product of gate and up, which joins the usual ones as it stores them.
pub(crate) fn gemm_gated_quantize(
    cuda: &Cuda,
    x: &Q8Rows<Cuda>,
    w: &Linear,
    act: Activation,
    gate_up: &mut Tensor<Cuda>,
    inner: &mut Tensor<Cuda>,
    out: &mut Q8Rows<Cuda>,
) -> Result<()> {
    if !(w.interleaved && joins(act) && is_usual(w.grid)) {
        gemm_w8a8(cuda, x, w, gate_up)?;
        return gated_quantize(cuda, gate_up, act, inner, out);
    }
    let wide = inner.dtype;
    if matches!(w.q8, Some(Q8::E4M3 | Q8::E5M2)) && takes_bf16(cuda, out) {
        inner.dtype = DType::BF16;
    }
    let done = gemm_w8a8_gated(cuda, x, w, act, inner).and_then(|()| quantize_rows(cuda, inner, out));
    inner.dtype = wide;
    done
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
    let rows = Rows { x: address(gate_up), size: 4, rows: gate_up.rows, f, operands: 2, codes };
    rows.quantize(cuda, "gated", &format!("gated_quantize_{}", name_of(act)), out)
}
