//! From logits to the next token, on the host. The same logits, parameters, position and seed give the same token, on
//! every machine: nothing here depends on the thread count, on SIMD width or on the system's mathematics library.
//!
//! Order, with where each rule is from:
//! 1. the grammar's mask and banned ids: logit to -inf (vLLM's `allowed_token_ids` and `min_tokens`);
//! 2. repetition penalty on tokens of prompt and output: positive logits are divided, others multiplied (CTRL, Keskar
//!    et al. 2019, as in Hugging Face);
//! 3. frequency and presence penalty on tokens of the output (OpenAI's API reference: `logit -= count * frequency +
//!    (count > 0) * presence`);
//! 4. logit bias (OpenAI: added to the logits before sampling; like llama.cpp's own bias after nothing else could undo
//!    it. vLLM adds it before the penalties; the two differ only for a biased token that is also penalized);
//! 5. temperature; below 1e-5 the likeliest token is taken (vLLM's `_SAMPLING_EPS`), the smallest id of equals;
//! 6. top-k, then top-p of what top-k kept, then min-p relative to the likeliest (Hugging Face's order; vLLM does min-p
//!    first, which matters only to top-p's mass). Equals are ranked by id.
//!
//! One draw then walks what is left by id. Cutting is finding a threshold, so nothing is sorted but the few tokens next
//! to it.
mod cut;
mod history;
mod ranks;
#[cfg(test)]
mod reference;
mod weights;

pub use history::History;

use crate::grammar::{Mask, mask};
use crate::request::{Sampling, TokenLogprobs};
use planish_tensor::SampleRow;
use weights::Weights;

/// Below this temperature the likeliest token is taken.
const COLDEST: f32 = 1e-5;

/// Why no token was chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoChoice {
    /// A logit is NaN or +inf: the model or its quantization is broken.
    NotANumber,
    /// Mask, bans and the model's own -inf together leave no token.
    NothingAllowed,
}

/// The next token after `history`. `logits[v]` are used as scratch space and mean nothing afterwards.
///
/// `banned` ids (such as stop ids before `min_new_tokens`) and those outside `mask` are never chosen; the mask is as
/// wide as the logits or narrower (what it does not cover is not allowed). Ids beyond `v` are ignored.
pub fn choose(
    logits: &mut [f32],
    sampling: &Sampling,
    history: &History,
    banned: &[u32],
    mask: Option<&Mask>,
) -> Result<u32, NoChoice> {
    choose_as(logits, &row(sampling, history, history.position(), banned, mask))
}

/// As [`choose`], with everything but the logits in `row`.
pub fn choose_as(logits: &mut [f32], row: &SampleRow) -> Result<u32, NoChoice> {
    if weights::any_not_a_number(logits) {
        return Err(NoChoice::NotANumber);
    }
    if let Some(words) = &row.mask {
        mask::apply(words, logits);
    }
    for &id in &row.banned {
        change(logits, id, |_| f32::NEG_INFINITY);
    }
    penalize(logits, row);
    let tops = weights::block_tops(logits);
    let max = weights::largest(&tops);
    if max == f32::NEG_INFINITY {
        return Err(NoChoice::NothingAllowed);
    }
    if row.temperature < COLDEST {
        return Ok(weights::first_of(logits, &tops, max));
    }
    let weights = Weights::of(logits, max, row.temperature);
    let cutoff = cut::cutoff(&weights, row);
    Ok(weights.draw(cutoff, row.point))
}

/// What [`choose`] is to do, in words that a device understands: [`planish_tensor::Backend::sample`] gives the same token.
/// `position` is that of the token to be chosen.
pub fn row(sampling: &Sampling, history: &History, position: usize, banned: &[u32], mask: Option<&Mask>) -> SampleRow {
    SampleRow {
        temperature: if sampling.temperature < COLDEST { 0.0 } else { sampling.temperature },
        top_k: sampling.top_k,
        top_p: sampling.top_p,
        min_p: sampling.min_p,
        point: uniform(sampling.seed, position as u64),
        repetition_penalty: sampling.repetition_penalty,
        frequency_penalty: sampling.frequency_penalty,
        presence_penalty: sampling.presence_penalty,
        seen: if sampling.penalizes() { history.seen().collect() } else { Vec::new() },
        bias: sampling.logit_bias.clone(),
        banned: banned.to_vec(),
        mask: mask.map(|mask| mask.words().to_vec()),
    }
}

/// Log-probabilities of a chosen token and of the `top` likeliest, of the model's own distribution: temperature 1,
/// before mask and penalties. `logits[v]` must be those of the model.
pub fn logprobs(logits: &[f32], chosen: u32, top: usize) -> TokenLogprobs {
    let max = weights::largest(&weights::block_tops(logits));
    let log_sum = weights::sum_of_exp(logits, max).ln();
    let log_prob = |x: f32| ((x - max) as f64 - log_sum) as f32;
    let of = |id: u32| logits.get(id as usize).map_or(f32::NEG_INFINITY, |&x| log_prob(x));
    let top = ranks::likeliest(logits, top).into_iter().map(|id| (id, of(id))).collect();
    TokenLogprobs { chosen: of(chosen), top }
}

fn penalize(logits: &mut [f32], row: &SampleRow) {
    let repetition = row.repetition_penalty;
    if repetition != 1.0 {
        for &(id, _) in &row.seen {
            change(logits, id, |x| if x > 0.0 { x / repetition } else { x * repetition });
        }
    }
    let (frequency, presence) = (row.frequency_penalty, row.presence_penalty);
    if frequency != 0.0 || presence != 0.0 {
        for &(id, count) in row.seen.iter().filter(|seen| seen.1 > 0) {
            change(logits, id, |x| x - (count as f32 * frequency + presence));
        }
    }
    for &(id, bias) in &row.bias {
        change(logits, id, |x| x + bias);
    }
}

/// Replaces one logit; what was forbidden stays so, and nothing grows to +inf or becomes NaN.
fn change(logits: &mut [f32], id: u32, f: impl Fn(f32) -> f32) {
    if let Some(x) = logits.get_mut(id as usize).filter(|x| **x > f32::NEG_INFINITY) {
        let changed = f(*x);
        *x = if changed.is_nan() { f32::NEG_INFINITY } else { changed.min(f32::MAX) };
    }
}

/// A number in [0, 1) from a seed and a position (SplitMix64; Steele, Lea and Flood 2014), so that a request's draws
/// depend on nothing else.
fn uniform(seed: u64, position: u64) -> f64 {
    let mut z = seed.wrapping_add(position.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests;
