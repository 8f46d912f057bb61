//! Gates and their codes: `kernels/gated.cu`.
use super::quantize_rows::{check, spread};
use super::rows::floats;
use super::{Grid, address, params};
use crate::Cuda;
use planish_tensor::layout::require;
use planish_tensor::{Activation, Q8Rows, Result, Tensor};

/// Threads of a block where no row is kept.
const THREADS: usize = 256;

/// Blocks of a cluster that shares a row: `BLOCKS` of the kernels.
const CLUSTER: usize = 8;

/// Whether rows are shared: few of them, which would leave most of the device idle, and such wide ones that a block
/// would fill a multiprocessor alone. The codes are the same.
fn clusters(rows: usize, f: usize) -> bool {
    let fits = f % 4 == 0 && f.div_ceil(4 * CLUSTER) <= 1024;
    if let Ok(v) = std::env::var("SPREAD") {
        return fits && v == "1";
    }
    fits && (f > 16384 || (f >= 2048 && rows <= 256))
}

fn name_of(act: Activation) -> &'static str {
    match act {
        Activation::Silu => "silu",
        Activation::GeluTanh => "gelu",
    }
}

pub(crate) fn gated(cuda: &Cuda, gate_up: &Tensor<Cuda>, act: Activation, out: &mut Tensor<Cuda>) -> Result<()> {
    require("gated", gate_up.cols == 2 * out.cols && gate_up.rows == out.rows)?;
    floats("gated", &[gate_up, out])?;
    let parts = out.cols.div_ceil(4 * THREADS);
    let grid = Grid::of(out.rows * parts, THREADS);
    let name = format!("gated_{}", name_of(act));
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
    let (codes, scales) = (address(&out.codes), address(&out.scales));
    if cuda.arch() >= 90 && clusters(gate_up.rows, f) {
        let part = (f / 4).div_ceil(CLUSTER);
        let grid = Grid::of(CLUSTER * gate_up.rows, part.next_multiple_of(32));
        let name = format!("gated_quantize_{}_spread", name_of(act));
        return cuda.launch("gated", &name, grid, params![address(gate_up), f, part, kind, codes, scales]);
    }
    let (suffix, grid) = spread(gate_up.rows, f);
    let name = format!("gated_quantize_{}_{suffix}", name_of(act));
    cuda.launch("gated", &name, grid, params![address(gate_up), f, kind, codes, scales])
}
