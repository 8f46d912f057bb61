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
    read_words(cuda, out, &mut found)?;
    Ok(found)
}

/// Reads words from work space, after all queued work.
pub(crate) fn read_words(cuda: &Cuda, from: u64, to: &mut [u32]) -> Result<()> {
    let (address, bytes) = (to.as_mut_ptr().cast::<c_void>(), 4 * to.len());
    // SAFETY: the caller has asked for work space of this size, and the wait follows before `to` is given back.
    check(unsafe { sys::cuMemcpyDtoHAsync_v2(address, from, bytes, cuda.context.stream) }, "copy from the device")?;
    cuda.context.sync()
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

pub(crate) fn softcap(cuda: &Cuda, x: &mut Tensor<Cuda>, cap: f32) -> Result<()> {
    floats("softcap", &[x])?;
    let grid = Grid::of((x.rows * x.cols).div_ceil(THREADS).min(65_536), THREADS);
    cuda.launch("logits", "softcap", grid, params![address(x), x.rows, x.cols, cap])
}
