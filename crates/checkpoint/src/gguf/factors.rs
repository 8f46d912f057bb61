//! Rotary frequency scaling: the metadata's kinds, and Llama 3's, which a GGUF keeps only as its result, the tensor
//! `rope_freqs.weight` of one divisor per frequency.
use super::error::{GgufError, Result};
use super::metadata::Metadata;
use serde_json::{Value, json};
use std::f64::consts::PI;

const LOW_FREQ_FACTOR: f64 = 1.0;
const HIGH_FREQ_FACTOR: f64 = 4.0;
const ORIGINAL_LENGTH: f64 = 8192.0;
/// Converters compute the divisors in f32; a wrong formula is off by far more.
const TOLERANCE: f64 = 1e-3;

/// The `rope_scaling` of a config, or null. `divisors` are the values of `rope_freqs.weight`, if there.
pub(super) fn rope_scaling(meta: &Metadata, arch: &str, theta: f64, divisors: Option<&[f32]>) -> Result<Value> {
    let declared = declared_scaling(meta, arch)?;
    match divisors {
        Some(d) if d.iter().any(|&x| x != 1.0) => {
            if declared.is_null() {
                return llama3(theta, d);
            }
            let reason = "expected one kind of rotary scaling, found these divisors and rope.scaling.type too";
            Err(GgufError::unsupported("rope_freqs.weight", reason))
        }
        _ => Ok(declared),
    }
}

/// Scaling written in the metadata.
fn declared_scaling(meta: &Metadata, arch: &str) -> Result<Value> {
    let key = |name: &str| format!("{arch}.rope.scaling.{name}");
    let legacy = meta.real(&format!("{arch}.rope.scale_linear"))?.filter(|&f| f != 1.0);
    let kind = meta.text(&key("type"))?.unwrap_or(if legacy.is_some() { "linear" } else { "none" });
    if kind == "none" {
        return Ok(Value::Null);
    }
    let factor = meta.real(&key("factor"))?.or(legacy);
    let factor = factor.ok_or_else(|| GgufError::MissingKey { key: key("factor"), expected: "a real number" })?;
    let mut out = json!({"rope_type": kind, "factor": factor});
    match kind {
        "linear" => {}
        "yarn" => {
            if let Some(n) = meta.integer(&key("original_context_length"))? {
                out["original_max_position_embeddings"] = n.into();
            }
            for (from, to) in [("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")] {
                if let Some(x) = meta.real(&key(from))? {
                    out[to] = x.into();
                }
            }
        }
        other => {
            let reason = format!("rotary scaling '{other}' is not read from GGUF; supported: none, linear, yarn");
            return Err(GgufError::unsupported(key("type"), reason));
        }
    }
    Ok(out)
}

/// Recognises Llama 3's divisors: the largest is the factor, and the others must follow from it.
fn llama3(theta: f64, divisors: &[f32]) -> Result<Value> {
    let factor = divisors.iter().fold(0f64, |m, &x| m.max(x.into()));
    let n = divisors.len();
    let matches = factor.is_finite()
        && (0..n).all(|i| {
            let expected = llama3_divisor(theta, factor, i as f64 / n as f64);
            (f64::from(divisors[i]) - expected).abs() <= TOLERANCE * expected
        });
    if !matches {
        let reason = "expected the divisors of Llama 3's rotary scaling (low 1, high 4, original length 8192)";
        return Err(GgufError::unsupported("rope_freqs.weight", format!("{reason}, found others")));
    }
    Ok(json!({
        "rope_type": "llama3",
        "factor": factor,
        "low_freq_factor": LOW_FREQ_FACTOR,
        "high_freq_factor": HIGH_FREQ_FACTOR,
        "original_max_position_embeddings": ORIGINAL_LENGTH as u64,
    }))
}

/// Divisor of the frequency `theta^-position` (Llama 3.1 model card: wavelengths longer than the original context are
/// stretched by `factor`, those shorter than a quarter of it kept, the rest interpolated).
fn llama3_divisor(theta: f64, factor: f64, position: f64) -> f64 {
    let wavelength = 2.0 * PI * theta.powf(position);
    if wavelength < ORIGINAL_LENGTH / HIGH_FREQ_FACTOR {
        1.0
    } else if wavelength > ORIGINAL_LENGTH / LOW_FREQ_FACTOR {
        factor
    } else {
        let smooth = (ORIGINAL_LENGTH / wavelength - LOW_FREQ_FACTOR) / (HIGH_FREQ_FACTOR - LOW_FREQ_FACTOR);
        1.0 / ((1.0 - smooth) / factor + smooth)
    }
}
