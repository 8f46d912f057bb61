//! Look-ups of rows, and sums: `kernels/rows.cu`.
use super::{Grid, address, params, sample};
use crate::driver::check;
use crate::{Cuda, DeviceBatch};
use cudarc::driver::sys;
use planish_tensor::layout::require;
use planish_tensor::{DType, Error, Result, Tensor};

/// Threads of a block here.
const THREADS: usize = 256;

pub(crate) fn embed(
    cuda: &Cuda,
    table: &Tensor<Cuda>,
    batch: &DeviceBatch,
    scale: f32,
    out: &mut Tensor<Cuda>,
) -> Result<()> {
    require("embed", out.cols == table.cols && out.rows == batch.t)?;
    look_up(cuda, table, Ids { at: batch.tokens(), chosen: sample::chosen(cuda)? }, scale, out)
}

pub(crate) fn gather_rows(cuda: &Cuda, x: &Tensor<Cuda>, batch: &DeviceBatch, out: &mut Tensor<Cuda>) -> Result<()> {
    require("gather_rows", out.cols == x.cols && out.rows == batch.rows && x.rows >= batch.t)?;
    look_up(cuda, x, Ids { at: batch.logit_rows(), chosen: 0 }, 1.0, out)
}

/// Numbers of rows on the device, and where those lie that were chosen ahead and are only named; or 0.
struct Ids {
    at: u64,
    chosen: u64,
}

/// `out[i] = table[ids[i]] * scale`; NaN where the table has no such row, as the host cannot know the ids.
fn look_up(cuda: &Cuda, table: &Tensor<Cuda>, ids: Ids, scale: f32, out: &mut Tensor<Cuda>) -> Result<()> {
    let name = match table.dtype {
        DType::F32 => "look_up_f32",
        DType::F16 => "look_up_f16",
        DType::BF16 => "look_up_bf16",
        other => return Err(Error::dtype(format!("a table to look up in: expected floats, found {other}"))),
    };
    floats("a look-up's output", &[out])?;
    let parts = table.cols.div_ceil(4 * THREADS);
    let grid = Grid::of(out.rows * parts, THREADS);
    cuda.launch(
        "rows",
        name,
        grid,
        params![address(table), table.rows, table.cols, ids.at, ids.chosen, scale, parts, address(out)],
    )
}

/// `x[t] += table[positions[t] + offset]`.
pub(crate) fn add_positions(
    cuda: &Cuda,
    table: &Tensor<Cuda>,
    batch: &DeviceBatch,
    offset: usize,
    x: &mut Tensor<Cuda>,
) -> Result<()> {
    require("add_positions", x.cols == table.cols && x.rows == batch.t)?;
    floats("add_positions", &[x])?;
    let name = match table.dtype {
        DType::F32 => "add_positions_f32",
        DType::F16 => "add_positions_f16",
        DType::BF16 => "add_positions_bf16",
        other => return Err(Error::dtype(format!("a table of positions: expected floats, found {other}"))),
    };
    let parts = table.cols.div_ceil(4 * THREADS);
    let parameters = params![address(table), table.rows, table.cols, batch.positions(), offset, parts, address(x)];
    cuda.launch("rows", name, Grid::of(x.rows * parts, THREADS), parameters)
}

pub(crate) fn add(cuda: &Cuda, x: &mut Tensor<Cuda>, y: &Tensor<Cuda>) -> Result<()> {
    require("add", x.cols == y.cols && x.rows == y.rows)?;
    floats("add", &[x, y])?;
    let grid = Grid::of((x.rows * x.cols).div_ceil(16 * THREADS), THREADS);
    cuda.launch("rows", "add_rows", grid, params![address(x), address(y), x.rows, x.cols])
}

impl Cuda {
    /// Copies a tensor to one of the same size: what bandwidths are compared with.
    pub fn copy(&self, from: &Tensor<Cuda>, to: &mut Tensor<Cuda>) -> Result<()> {
        let bytes = from.rows * from.cols * from.dtype.size();
        require("copy", bytes == to.rows * to.cols * to.dtype.size())?;
        self.context.enter()?;
        // SAFETY: both are of this size, and live as long as the caller keeps them, as for every operation.
        let result = unsafe { sys::cuMemcpyDtoDAsync_v2(address(to), address(from), bytes, self.context.stream) };
        check(result, "copy inside the device")
    }
}

/// Fails unless all are F32.
pub(crate) fn floats(operation: &str, tensors: &[&Tensor<Cuda>]) -> Result<()> {
    match tensors.iter().find(|t| t.dtype != DType::F32) {
        None => Ok(()),
        Some(other) => Err(Error::dtype(format!("{operation}: expected F32, found {}", other.dtype))),
    }
}
