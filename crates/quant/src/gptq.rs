//! GPTQ (Frantar et al., 2022, arXiv 2210.17323): columns are rounded one after another, and the columns that are
//! still to come make up for the error, weighted by the Gram matrix of the input.
//! Scales come from the original rows; columns with the largest diagonal go first ("static" activation order).
mod device;
mod factor;
mod rows;

pub use device::{DeviceFactor, solve_on};
pub use factor::Factor;

use crate::error::{Result, check_len};
use crate::rtn::{self, QuantizedWeight};
use planish_tensor::Q8;
use std::sync::Mutex;

/// Rows that are solved together. Fixed, so that the result does not depend on the number of threads.
const CHUNK_ROWS: usize = 128;

/// Settings of [`Factor::new`] and [`solve`].
#[derive(Clone, Debug, PartialEq)]
pub struct GptqOptions {
    /// What is added to the diagonal, as a part of its mean; above 0, at most 1.
    pub damping: f64,
    /// Columns with the largest diagonal first.
    pub act_order: bool,
    /// Before the solve, look for a smaller scale of each row with a smaller diagonal loss (not in llm-compressor).
    pub search_scales: bool,
    /// After the solve, set each row's scale to the best one for its codes (not in llm-compressor).
    pub refit_scales: bool,
    /// Where round-to-nearest has the smaller loss, keep its row (not in llm-compressor).
    pub keep_better_rows: bool,
    /// Threads; the result is the same for every number.
    pub threads: usize,
}

impl Default for GptqOptions {
    fn default() -> Self {
        GptqOptions {
            damping: 0.01,
            act_order: true,
            search_scales: false,
            refit_scales: false,
            keep_better_rows: true,
            threads: 1,
        }
    }
}

/// A linear solved by GPTQ.
#[derive(Clone, Debug, PartialEq)]
pub struct GptqResult {
    /// Codes and scales.
    pub weight: QuantizedWeight,
    /// `tr((W - Wq) G (W - Wq)ᵀ)` with the Gram matrix as given.
    /// With `keep_better_rows` never above [`GptqResult::rtn_proxy_loss`].
    /// `None` when the Gram matrix could not be factorized.
    pub proxy_loss: Option<f64>,
    /// The same of round-to-nearest.
    pub rtn_proxy_loss: Option<f64>,
    /// Damping with which the factorization succeeded.
    pub damping_used: Option<f64>,
    /// The Gram matrix could not be factorized (or no token came by): the codes are those of round-to-nearest.
    pub fell_back_to_rtn: bool,
    /// Rows that keep round-to-nearest because its loss is smaller there.
    pub rtn_rows: usize,
    /// Input channels that were zero in every token.
    pub dead_columns: Vec<usize>,
}

/// Factorizes and solves in one call. Linears that read the same input should share a [`Factor`] instead.
///
/// `w` is `[n, k]`; `gram` is `[k, k]`, `Σ x xᵀ` times any positive number, of which the lower triangle is read.
///
/// # Errors
/// Those of [`Factor::new`] and [`solve`].
pub fn quantize(kind: Q8, w: &[f32], n: usize, gram: &[f32], k: usize, options: &GptqOptions) -> Result<GptqResult> {
    solve(&Factor::new(gram, k, options)?, kind, w, n, options)
}

/// Quantizes the weight `[n, k]` of one linear whose input has this factor.
///
/// # Errors
/// `w` has not `n * k` elements, or one of them is NaN or infinite.
pub fn solve(factor: &Factor, kind: Q8, w: &[f32], n: usize, options: &GptqOptions) -> Result<GptqResult> {
    let k = factor.k;
    check_len("weight", w.len(), &[n, k])?;
    let damping_used = factor.damping_used();
    let mut result = GptqResult {
        weight: QuantizedWeight { kind, n, k, codes: vec![], scales: vec![], zero_rows: vec![] },
        proxy_loss: None,
        rtn_proxy_loss: None,
        damping_used,
        fell_back_to_rtn: damping_used.is_none(),
        rtn_rows: 0,
        dead_columns: factor.dead_columns().to_vec(),
    };
    if result.fell_back_to_rtn {
        result.weight = rtn::quantize_rows(kind, w, n, k)?;
        return Ok(result);
    }
    (result.weight.scales, result.weight.zero_rows) = rtn::row_scales(kind, w, n, k)?;
    result.weight.codes = vec![0; w.len()];
    let losses = solve_chunks(factor, w, &mut result.weight, options);
    result.proxy_loss = Some(losses.iter().map(|l| l.gptq).sum());
    result.rtn_proxy_loss = Some(losses.iter().map(|l| l.rtn).sum());
    result.rtn_rows = losses.iter().map(|l| l.rtn_rows).sum();
    Ok(result)
}

/// Shares the chunks out among the threads; the losses come back in the order of the chunks.
fn solve_chunks(factor: &Factor, w: &[f32], out: &mut QuantizedWeight, options: &GptqOptions) -> Vec<rows::ChunkLoss> {
    let (kind, k) = (out.kind, out.k);
    let chunks =
        w.chunks(CHUNK_ROWS * k).zip(out.codes.chunks_mut(CHUNK_ROWS * k)).zip(out.scales.chunks_mut(CHUNK_ROWS));
    let count = chunks.len();
    let chunks = Mutex::new(chunks.enumerate());
    let worker = || {
        let mut done = Vec::new();
        loop {
            let next = chunks.lock().unwrap_or_else(|e| e.into_inner()).next();
            let Some((i, ((w, codes), scales))) = next else { return done };
            done.push((i, rows::solve(factor, rows::Chunk { kind, w, scales, codes }, options)));
        }
    };
    let mut losses = std::thread::scope(|scope| {
        let others: Vec<_> = (1..options.threads.min(count)).map(|_| scope.spawn(worker)).collect();
        let mut losses = worker();
        for other in others {
            losses.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        losses
    });
    losses.sort_by_key(|(i, _)| *i);
    losses.into_iter().map(|(_, loss)| loss).collect()
}

#[cfg(test)]
mod tests;
