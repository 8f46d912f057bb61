//! What is done to logits: `kernels/logits.cu`.
use super::rows::floats;
use super::{Grid, address, params};
use crate::Cuda;
use crate::driver::check;
use cudarc::driver::sys;
use planish_tensor::layout::{require_asked, require_targets};
use planish_tensor::{Asked, Judged, Likely, Result, Target, Tensor};
use std::ffi::c_void;

/// Threads of a block, and columns that it takes: `THREADS` and `PART` of the kernels.
const THREADS: usize = 256;
const PART: usize = 16 * THREADS;

/// Most of the likeliest tokens beside one, and keys that a block puts in order: `MOST` and `THREADS * KEYS` of the kernels.
const MOST: usize = 64;
const KEYS: usize = 16 * THREADS;
/// Bytes of work space for the parts' likeliest tokens.
const ROOM: usize = 16 << 20;

pub(crate) fn argmax(cuda: &Cuda, logits: &Tensor<Cuda>) -> Result<Vec<u32>> {
    floats("argmax", &[logits])?;
    let mut found = vec![0u32; logits.rows];
    if !found.is_empty() {
        let out = cuda.scratch("likeliest tokens", 4 * found.len())?;
        queue_argmax(cuda, logits, out)?;
        read_words(cuda, out, &mut found)?;
    }
    Ok(found)
}

/// Queues the search for the likeliest token of each row.
pub(super) fn queue_argmax(cuda: &Cuda, logits: &Tensor<Cuda>, out: u64) -> Result<()> {
    let (rows, v) = (logits.rows, logits.cols);
    let parts = v.div_ceil(PART);
    let best = cuda.scratch("argmax", 8 * rows * parts)?;
    let grid = Grid::of(rows * parts, THREADS);
    cuda.launch("logits", "argmax_parts", grid, params![address(logits), v, parts, best])?;
    let grid = Grid::of(rows.div_ceil(THREADS / 32), THREADS);
    cuda.launch("logits", "argmax_rows", grid, params![best, rows, parts, out])
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
    require_targets(logits, targets)?;
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

pub(crate) fn likely(cuda: &Cuda, logits: &Tensor<Cuda>, asked: &[Asked]) -> Result<Vec<Option<Likely>>> {
    floats("likely", &[logits])?;
    require_asked(logits, asked)?;
    let parts = logits.cols.div_ceil(PART);
    let runs = |a: &Asked| a.top <= MOST && a.top * parts <= KEYS;
    let here: Vec<usize> = (0..asked.len()).filter(|&i| runs(&asked[i])).collect();
    let most = here.iter().map(|&i| asked[i].top).max().unwrap_or(0);
    let at_once = (ROOM / (parts * (8 * most + 12))).max(1);
    let mut found = vec![None; asked.len()];
    for few in here.chunks(at_once) {
        let those: Vec<Asked> = few.iter().map(|&i| asked[i]).collect();
        let answers = likely_at_once(cuda, logits, &those, most)?;
        few.iter().zip(answers).for_each(|(&i, answer)| found[i] = Some(answer));
    }
    Ok(found)
}

/// `most`: the longest list asked for, or longer.
fn likely_at_once(cuda: &Cuda, logits: &Tensor<Cuda>, asked: &[Asked], most: usize) -> Result<Vec<Likely>> {
    let (v, n) = (logits.cols, asked.len());
    let parts = v.div_ceil(PART);
    let (each, answer) = (n * parts, 1 + 2 * most);
    // Keys and sums of eight bytes; words asked and answered, and maxima, of four.
    let keys = cuda.scratch("likely", 8 * each * (most + 1) + 4 * (n * (3 + answer) + each))?;
    let sums = keys + 8 * (each * most) as u64;
    let asked_at = sums + 8 * each as u64;
    let out = asked_at + 12 * n as u64;
    let tops = out + 4 * (n * answer) as u64;
    let words: Vec<u32> = asked.iter().flat_map(|a| [a.row, a.token, a.top as u32]).collect();
    write_words(cuda, &words, asked_at)?;
    let (logits, grid) = (address(logits), Grid::of(each, THREADS));
    cuda.launch("logits", "likely_parts", grid, params![logits, v, parts, asked_at, most, keys, tops, sums])?;
    let params = params![logits, v, parts, asked_at, most, keys, tops, sums, out];
    cuda.launch("logits", "likely_rows", Grid::of(n, THREADS), params)?;
    let mut found = vec![0u32; n * answer];
    read_words(cuda, out, &mut found)?;
    let told = found.chunks_exact(answer).zip(asked);
    Ok(told.map(|(words, asked)| read_likely(words, asked.top)).collect())
}

/// What the kernel tells of a row: a log-probability, then pairs of an id and its own, `u32::MAX` where there are no more.
fn read_likely(words: &[u32], top: usize) -> Likely {
    let pairs = words[1..].chunks_exact(2).take(top).take_while(|pair| pair[0] != u32::MAX);
    let top = pairs.map(|pair| (pair[0], f32::from_bits(pair[1]))).collect();
    Likely { log_prob: f32::from_bits(words[0]), top }
}

pub(crate) fn softcap(cuda: &Cuda, x: &mut Tensor<Cuda>, cap: f32) -> Result<()> {
    floats("softcap", &[x])?;
    let grid = Grid::of((x.rows * x.cols).div_ceil(THREADS).min(65_536), THREADS);
    cuda.launch("logits", "softcap", grid, params![address(x), x.rows, x.cols, cap])
}
