//! The two self-checks: after smoothing the float model is the same function; and how far the quantized one is off.
use super::fold::FloatBlock;
use super::hidden::{Hidden, Lane};
use super::observe::read;
use super::solve::Solved;
use crate::error::{Error, Result};
use planish_model::{Ends, Input, Plan};
use planish_tensor::{Backend, DType, FloatMath, LinearPart, Tensor, host::encode_f32};
use std::collections::BTreeMap;

/// Largest KL divergence that smoothing may cause (nats, mean over the held-back tokens).
pub const SMOOTHING_KL_LIMIT: f64 = 1e-5;
/// Largest relative change of a hidden state that smoothing may cause in one block.
const SMOOTHING_STATE_LIMIT: f64 = 1e-2;
/// Rows of logits computed at once.
pub const ROWS: usize = 64;

/// Distance of two models on the held-back tokens.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Divergence {
    /// Mean KL(original || other), nats.
    pub mean: f64,
    /// Standard error of the mean, tokens taken as independent.
    pub error: f64,
    /// Largest.
    pub max: f64,
    /// Share of positions with the same likeliest token.
    pub top1: f64,
}

/// KL divergence between two streams of hidden states, each behind its end of a model.
pub fn divergence<B: Backend>(
    lane: &mut Lane<'_, B>,
    ends: [&Ends<B>; 2],
    original: &Hidden,
    other: &Hidden,
    h: usize,
) -> Result<Divergence> {
    Ok(divergences(lane, ends, original, &[other], h)?.remove(0))
}

/// The same of several streams.
pub fn divergences<B: Backend>(
    lane: &mut Lane<'_, B>,
    ends: [&Ends<B>; 2],
    original: &Hidden,
    others: &[&Hidden],
    h: usize,
) -> Result<Vec<Divergence>> {
    let mut sums = vec![Divergence::default(); others.len()];
    let rows = (original.values.len() / h) as f64;
    for (at, a) in original.values.chunks(ROWS * h).enumerate() {
        ends[0].log_probs_of(lane.backend, FloatMath::F32, a, &mut lane.ws)?;
        let p = read(lane.backend, &lane.ws.logits)?;
        for (sum, other) in sums.iter_mut().zip(others) {
            let b = &other.values[at * ROWS * h..][..a.len()];
            ends[1].log_probs_of(lane.backend, FloatMath::F32, b, &mut lane.ws)?;
            let (q, v) = (read(lane.backend, &lane.ws.logits)?, lane.ws.logits.cols);
            for (p, q) in p.chunks_exact(v).zip(q.chunks_exact(v)) {
                let kl = kl(p, q);
                sum.mean += kl / rows;
                sum.error += kl * kl / rows;
                sum.max = if kl.is_nan() { f64::NAN } else { sum.max.max(kl) };
                sum.top1 += (likeliest(p) == likeliest(q)) as usize as f64 / rows;
            }
        }
    }
    // Until here `error` is the mean of the squares.
    sums.iter_mut().for_each(|d| d.error = ((d.error - d.mean * d.mean).max(0.0) / (rows - 1.0).max(1.0)).sqrt());
    Ok(sums)
}

/// KL(p || q) of two rows of log-probabilities, nats.
fn kl(p: &[f32], q: &[f32]) -> f64 {
    p.iter().zip(q).map(|(&p, &q)| (p as f64).exp() * (p as f64 - q as f64)).sum()
}

fn likeliest(row: &[f32]) -> usize {
    (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best })
}

/// Fails, naming the layer, if smoothing changed a block's output.
pub fn same_states(layer: usize, original: &Hidden, smoothed: &Hidden) -> Result<()> {
    let found = relative_error(&original.values, &smoothed.values);
    if found <= SMOOTHING_STATE_LIMIT {
        return Ok(());
    }
    let place = format!("relative change of the hidden states after layer {layer}");
    Err(Error::NotTheSame { place, limit: SMOOTHING_STATE_LIMIT, found })
}

/// Fails if the smoothed model's distributions are not the original's.
pub fn same_function(d: &Divergence) -> Result<()> {
    if d.mean <= SMOOTHING_KL_LIMIT {
        return Ok(());
    }
    let place = "mean KL divergence on the held-back batch".into();
    Err(Error::NotTheSame { place, limit: SMOOTHING_KL_LIMIT, found: d.mean })
}

/// `||a - b|| / ||a||`.
pub fn relative_error(a: &[f32], b: &[f32]) -> f64 {
    let (mut lost, mut total) = (0.0f64, 0.0f64);
    for (&a, &b) in a.iter().zip(b) {
        lost += f64::from(a - b).powi(2);
        total += f64::from(a).powi(2);
    }
    if total == 0.0 { lost.sqrt() } else { (lost / total).sqrt() }
}

/// Mean over tokens `[h]` of `||a - b||² / ||a||²`: each counts alike, be it massive or not.
pub fn token_error(a: &[f32], b: &[f32], h: usize) -> f64 {
    let (a, b) = (a.chunks_exact(h), b.chunks_exact(h));
    let tokens = a.len().max(1) as f64;
    a.zip(b).map(|(a, b)| relative_error(a, b).powi(2)).sum::<f64>() / tokens
}

/// Relative output error of each quantized linear on recorded inputs: float product against W8A8 product. None of an
/// expert that no token was given to.
pub fn output_errors<B: Backend>(
    backend: &B,
    plan: &Plan,
    float: &FloatBlock<'_, B>,
    solved: &[Solved],
    inputs: &BTreeMap<Input, Vec<f32>>,
) -> Result<Vec<Option<f64>>> {
    let mut errors = Vec::with_capacity(solved.len());
    // Linears of one input stand side by side.
    for group in solved.chunk_by(|a, b| a.role.input() == b.role.input()) {
        let input = group[0].role.input();
        let (k, act) = (plan.input_width(input), backend.activation_dtype());
        let Some(x) = inputs.get(&input) else {
            errors.extend(group.iter().map(|_| None));
            continue;
        };
        let mut on_device = backend.alloc(act, x.len() / k, k)?;
        backend.upload(&encode_f32(act, x)?, &mut on_device)?;
        for s in group {
            let float = float.packed(backend, plan, &[s.role])?;
            errors.push(Some(output_error(backend, &on_device, float, &s.part)?));
        }
    }
    Ok(errors)
}

/// Relative error of one product of `x` against the same with a float weight.
pub(super) fn output_error<B: Backend>(backend: &B, x: &Tensor<B>, float: B::Linear, q8: &LinearPart) -> Result<f64> {
    let (n, t, k) = (q8.weight.shape()[0], x.rows, x.cols);
    let mut out = backend.alloc(DType::F32, t, n)?;
    backend.gemm_float(x, &float, FloatMath::F32, &mut out)?;
    drop(float);
    let y = read(backend, &out)?;
    let packed = backend.load_linear(std::slice::from_ref(q8))?;
    let shape = backend.linear_shape(&packed);
    let mut rows = backend.alloc_q8_for(shape.q8.expect("8-bit weight"), &[shape.grid], t, k)?;
    backend.quantize_rows(x, &mut rows)?;
    backend.gemm_w8a8(&rows, &packed, &mut out)?;
    Ok(relative_error(&y, &read(backend, &out)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kl_of_equal_and_unequal_rows() {
        let p = [0.5f32.ln(), 0.5f32.ln()];
        let q = [0.25f32.ln(), 0.75f32.ln()];
        assert_eq!(kl(&p, &p), 0.0);
        let expected = 0.5 * (0.5f64 / 0.25).ln() + 0.5 * (0.5f64 / 0.75).ln();
        assert!((kl(&p, &q) - expected).abs() < 1e-7);
    }

    #[test]
    fn errors_are_relative() {
        assert!((relative_error(&[3.0, 4.0], &[3.0, 3.5]) - 0.1).abs() < 1e-12);
        let d = Divergence { mean: 2e-5, ..Divergence::default() };
        assert!(same_function(&d).unwrap_err().to_string().contains("2e-5"));
        assert!(same_function(&Divergence { mean: f64::NAN, ..d }).is_err());
    }
}
