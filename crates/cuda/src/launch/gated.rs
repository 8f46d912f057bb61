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

/// Threads of a block that streams rows, beside those that fetch; pieces on their way, and of a row.
const STREAMING: usize = 992;
const STAGES: usize = 6;
const MOST_TURNS: usize = 8;

/// How rows are taken; the codes are the same.
#[derive(Debug, PartialEq)]
enum Way {
    /// A row for a cluster of blocks with this many chunks of four columns each: few rows, which would leave most of
    /// the device idle.
    Spread(usize),
    /// A block for each multiprocessor, which fetches pieces of this many columns ahead: wide rows, of which one alone
    /// would fill a multiprocessor.
    Stream(usize),
    /// A row for a block.
    Alone,
}

fn way(cuda: &Cuda, rows: usize, f: usize) -> Way {
    let chunks = f / 4;
    let (part, turns) = (chunks.div_ceil(CLUSTER), chunks.div_ceil(STREAMING));
    match cuda.arch() >= 90 && f % 4 == 0 {
        true if f >= 2048 && part <= 1024 && CLUSTER * rows <= cuda.info().sm_count as usize => Way::Spread(part),
        true if f >= 8192 && turns <= MOST_TURNS => Way::Stream(4 * chunks.div_ceil(turns).next_multiple_of(32)),
        true if f > 16384 && part <= 1024 => Way::Spread(part),
        _ => Way::Alone,
    }
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
    let (rows, act) = (gate_up.rows, name_of(act));
    match way(cuda, rows, f) {
        Way::Spread(part) => {
            let grid = Grid::of(CLUSTER * rows, part.next_multiple_of(32));
            let name = format!("gated_quantize_{act}_spread");
            cuda.launch("gated", &name, grid, params![address(gate_up), f, part, kind, codes, scales])
        }
        Way::Stream(width) => {
            let grid = Grid::of(rows.min(cuda.info().sm_count as usize), width / 4 + 32);
            let grid = grid.with_shared(STAGES * 8 * width, STAGES * 8 * 4 * STREAMING);
            let name = format!("gated_quantize_{act}_stream");
            cuda.launch("gated", &name, grid, params![address(gate_up), rows, f, width, kind, codes, scales])
        }
        Way::Alone => {
            let (suffix, grid) = spread(rows, f);
            let name = format!("gated_quantize_{act}_{suffix}");
            cuda.launch("gated", &name, grid, params![address(gate_up), f, kind, codes, scales])
        }
    }
}
