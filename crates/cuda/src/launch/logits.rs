//! What is done to logits: `kernels/logits.cu`.
use super::rows::floats;
use super::{Grid, address, params};
use crate::Cuda;
use crate::driver::check;
use cudarc::driver::sys;
use planish_tensor::layout::require;
use planish_tensor::{Judged, Result, Target, Tensor};
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

/// Queues the copy of words to work space. The driver has taken them when this returns.
pub(crate) fn write_words(cuda: &Cuda, words: &[u32], to: u64) -> Result<()> {
    cuda.context.enter()?;
    let (from, bytes) = (words.as_ptr().cast::<c_void>(), 4 * words.len());
    // SAFETY: the destination has room, as asked for; the source is pageable, so it is staged before the call returns.
    check(unsafe { sys::cuMemcpyHtoDAsync_v2(to, from, bytes, cuda.context.stream) }, "copy to the device")
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

pub(crate) fn judge(cuda: &Cuda, logits: &Tensor<Cuda>, targets: &[Target]) -> Result<Vec<Judged>> {
    floats("judge", &[logits])?;
    let fits = |t: &Target| (t.row as usize) < logits.rows && (t.token as usize) < logits.cols;
    require("judge", targets.iter().all(fits) && targets.is_sorted_by_key(|t| t.row))?;
    if targets.is_empty() {
        return Ok(Vec::new());
    }
    let mut rows: Vec<u32> = targets.iter().map(|t| t.row).collect();
    rows.dedup();
    let (v, count) = (logits.cols, targets.len());
    let parts = v.div_ceil(PART);
    let each = rows.len() * parts;
    // Ranks, sums, answers and targets of eight bytes; maxima and rows of four.
    let best = cuda.scratch("judge", 16 * (each + count) + 4 * (each + rows.len()))?;
    let sums = best + 8 * each as u64;
    let out = sums + 8 * each as u64;
    let asked = out + 8 * count as u64;
    let rows_at = asked + 8 * count as u64;
    let tops = rows_at + 4 * rows.len() as u64;
    let place = |t: &Target| rows.partition_point(|&row| row < t.row) as u32;
    let mut words: Vec<u32> = targets.iter().flat_map(|t| [place(t), t.token]).collect();
    words.extend(&rows);
    write_words(cuda, &words, asked)?;
    let logits = address(logits);
    let grid = Grid::of(each, THREADS);
    cuda.launch("logits", "judge_parts", grid, params![logits, v, parts, rows_at, best, tops, sums])?;
    let grid = Grid::of(count.div_ceil(THREADS / 32), THREADS);
    let params = params![logits, v, parts, rows_at, best, tops, sums, asked, count, out];
    cuda.launch("logits", "judge_targets", grid, params)?;
    let mut found = vec![0u32; 2 * count];
    read_words(cuda, out, &mut found)?;
    let judged = |pair: &[u32]| Judged { log_prob: f32::from_bits(pair[0]), greedy: pair[1] != 0 };
    Ok(found.chunks_exact(2).map(judged).collect())
}

pub(crate) fn softcap(cuda: &Cuda, x: &mut Tensor<Cuda>, cap: f32) -> Result<()> {
    floats("softcap", &[x])?;
    let grid = Grid::of((x.rows * x.cols).div_ceil(THREADS).min(65_536), THREADS);
    cuda.launch("logits", "softcap", grid, params![address(x), x.rows, x.cols, cap])
}
