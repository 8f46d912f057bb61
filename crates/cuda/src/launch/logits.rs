//! What is done to logits: `kernels/logits.cu`.
use super::rows::floats;
use super::{Grid, address, params};
use crate::Cuda;
use planish_tensor::{Result, Tensor};

/// Threads of a block, and columns that it takes: `THREADS` and `PART` of the kernels.
const THREADS: usize = 256;
const PART: usize = 16 * THREADS;

pub(crate) fn argmax(cuda: &Cuda, logits: &Tensor<Cuda>) -> Result<Vec<u32>> {
    floats("argmax", &[logits])?;
    let (rows, v) = (logits.rows, logits.cols);
    let parts = v.div_ceil(PART);
    let mut found = vec![0u32; rows];
    if rows == 0 {
        return Ok(found);
    }
    let ranks = 8 * rows * parts;
    cuda.scratch.lend(&cuda.context, ranks + 4 * rows, |room| {
        let (best, out) = (room.address(), room.address() + ranks as u64);
        let logits = address(logits);
        cuda.launch("logits", "argmax_parts", Grid::of(rows * parts, THREADS), params![logits, v, parts, best])?;
        let grid = Grid::of(rows.div_ceil(THREADS / 32), THREADS);
        cuda.launch("logits", "argmax_rows", grid, params![best, rows, parts, out])?;
        room.read(ranks, bytemuck::cast_slice_mut(&mut found))
    })?;
    Ok(found)
}

pub(crate) fn log_softmax(cuda: &Cuda, logits: &mut Tensor<Cuda>) -> Result<()> {
    floats("log_softmax", &[logits])?;
    let (rows, v) = (logits.rows, logits.cols);
    let parts = v.div_ceil(PART);
    let grid = Grid::of(rows * parts, THREADS);
    let each = rows * parts;
    cuda.scratch.lend(&cuda.context, 12 * each, |room| {
        let (sums, tops) = (room.address(), room.address() + 8 * each as u64);
        let logits = address(logits);
        cuda.launch("logits", "softmax_parts", grid, params![logits, v, parts, tops, sums])?;
        cuda.launch("logits", "softmax_apply", grid, params![logits, v, parts, tops, sums])
    })
}
