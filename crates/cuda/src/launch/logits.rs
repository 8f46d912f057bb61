//! What is done to logits: `kernels/logits.cu`.
use super::rows::floats;
use super::{Grid, address, params};
use crate::Cuda;
use crate::driver::check;
use cudarc::driver::sys;
use planish_tensor::{Result, Tensor};
use std::ffi::c_void;

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
    let best = cuda.scratch("argmax", ranks + 4 * rows)?;
    let out = best + ranks as u64;
    let grid = Grid::of(rows * parts, THREADS);
    cuda.launch("logits", "argmax_parts", grid, params![address(logits), v, parts, best])?;
    let grid = Grid::of(rows.div_ceil(THREADS / 32), THREADS);
    cuda.launch("logits", "argmax_rows", grid, params![best, rows, parts, out])?;
    let (to, bytes) = (found.as_mut_ptr().cast::<c_void>(), 4 * rows);
    // SAFETY: both have room for `rows` words, and the wait follows before `found` is given back.
    check(unsafe { sys::cuMemcpyDtoHAsync_v2(to, out, bytes, cuda.context.stream) }, "copy from the device")?;
    cuda.context.sync()?;
    Ok(found)
}

pub(crate) fn log_softmax(cuda: &Cuda, logits: &mut Tensor<Cuda>) -> Result<()> {
    floats("log_softmax", &[logits])?;
    let (rows, v) = (logits.rows, logits.cols);
    let parts = v.div_ceil(PART);
    let grid = Grid::of(rows * parts, THREADS);
    let each = rows * parts;
    let sums = cuda.scratch("log_softmax", 12 * each)?;
    let tops = sums + 8 * each as u64;
    let logits = address(logits);
    cuda.launch("logits", "softmax_parts", grid, params![logits, v, parts, tops, sums])?;
    cuda.launch("logits", "softmax_apply", grid, params![logits, v, parts, tops, sums])
}
