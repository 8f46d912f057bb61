//! `planish_report.json`: what was done to every layer and how much it cost in accuracy and saved in bytes.
//! No time, no machine: the same input, flags and seed give the same bytes.
//! Numbers that could not be measured are `null`; readers must allow new keys.
use crate::clip::Clipped;
use crate::gptq::GptqResult;
use crate::rtn::QuantizedWeight;
use crate::smooth::SmoothingFactors;
use serde::{Deserialize, Serialize};

/// The whole report.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// Version of the program.
    pub version: String,
    /// The model that was quantized, as the user named it.
    pub model: String,
    /// What was decided.
    pub settings: Settings,
    /// The data that the statistics come from.
    pub calibration: Option<Calibration>,
    /// One entry per block, in order.
    pub layers: Vec<LayerReport>,
    /// What `--budget` kept in float.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub budget: Option<BudgetReport>,
    /// Is it still the same model?
    pub self_checks: SelfChecks,
    /// Sizes.
    pub totals: Totals,
    /// Sentences that the user should read.
    pub warnings: Vec<String>,
}

/// What was decided, in the words of the command line.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Settings {
    /// `int8`, `float8_e4m3fn` or `float8_e5m2`.
    pub quant_dtype: String,
    /// `off`, `auto` or the strength.
    pub smooth: String,
    /// `gptq` or `rtn`.
    pub weights: String,
    /// `dynamic` or `static`.
    pub activations: String,
    /// Type of a cache whose scales are stored, `float8_e4m3fn`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kv_scales: Option<String>,
    /// Names kept in float.
    pub ignore: Vec<String>,
    /// Layout of the checkpoint.
    pub format: String,
    /// Seed of the shuffle of the calibration data.
    pub seed: u64,
}

/// The calibration data.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Calibration {
    /// Where it comes from, in one sentence.
    pub source: String,
    /// Sequences.
    pub samples: usize,
    /// Tokens in all.
    pub tokens: usize,
    /// SHA-256 of the token ids.
    pub sha256: String,
}

/// `--budget`: the divergence that was asked for, and what it cost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BudgetReport {
    /// Mean KL divergence asked for, nats.
    pub target: f64,
    /// Measured on the held-back tokens with what was kept.
    pub kl: f64,
    /// Its standard error; both together are at most the target.
    pub standard_error: f64,
    /// Tokens held back.
    pub tokens: usize,
    /// Linears kept in float for it.
    pub kept: Vec<String>,
    /// Linears that became FP8 for it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fp8: Vec<String>,
    /// Bytes that those in float take more than in 8 bits.
    pub bytes: u64,
    /// Every measurement, the first with nothing kept.
    pub attempts: Vec<Attempt>,
}

/// One measurement of a budget.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Attempt {
    /// Mean KL divergence.
    pub kl: f64,
    /// Its standard error.
    pub standard_error: f64,
    /// Bytes that what was kept takes more than in 8 bits.
    pub bytes: u64,
}

/// Smallest, middle and largest of a set of numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Smallest.
    pub min: f32,
    /// Middle; of an even number of them the upper one of the middle two.
    pub median: f32,
    /// Largest.
    pub max: f32,
}

impl Spread {
    /// Of these numbers; zeros for none.
    pub fn of(values: &[f32]) -> Spread {
        let mut sorted = values.to_vec();
        sorted.sort_by(f32::total_cmp);
        match (sorted.first(), sorted.last()) {
            (Some(&min), Some(&max)) => Spread { min, median: sorted[sorted.len() / 2], max },
            _ => Spread::default(),
        }
    }
}

/// One transformer block.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LayerReport {
    /// Name of the block, for example `model.layers.0`.
    pub name: String,
    /// The groups that were smoothed.
    pub smoothing: Vec<GroupReport>,
    /// The linears that were quantized.
    pub linears: Vec<LinearReport>,
    /// Of a mixture: what its experts were calibrated on.
    pub experts: ExpertTokens,
    /// `||original - quantized|| / ||original||` of the hidden states after the block, on the held-back tokens.
    pub state_error: Option<f64>,
}

/// The calibration of a mixture's experts. Empty where there are none, or nothing was to be calibrated.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExpertTokens {
    /// `[e]` calibration tokens that the router gave to each expert.
    pub tokens: Vec<u64>,
    /// Experts that were given too few, and were calibrated on every token instead.
    pub on_all_tokens: Vec<u16>,
}

/// One smoothed group.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupReport {
    /// What absorbs `1/s`.
    pub smooth: String,
    /// The linears that absorb `s`.
    pub balance: Vec<String>,
    /// Smoothing strength; `null` where the search found none better than no smoothing.
    pub alpha: Option<f64>,
    /// What the search found, with `--smooth auto`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub search: Option<SearchReport>,
    /// The factors.
    pub s: Spread,
    /// Absolute maxima of the input channels as they were.
    pub act_absmax_before: Spread,
    /// The same after smoothing.
    pub act_absmax_after: Spread,
    /// Channels that no calibration token used.
    pub dead_channels: Vec<usize>,
    /// Channels that no weight reads.
    pub zero_columns: Vec<usize>,
    /// Channels whose factor was cut.
    pub clamped: Vec<usize>,
}

impl GroupReport {
    /// A group's entry from its factors and the maxima `[k]` of its input before smoothing.
    pub fn new(
        smooth: &str,
        balance: &[&str],
        alpha: Option<f64>,
        act_absmax: &[f32],
        factors: &SmoothingFactors,
    ) -> Self {
        let after: Vec<f32> = act_absmax.iter().zip(&factors.s).map(|(a, s)| a / s).collect();
        GroupReport {
            smooth: smooth.into(),
            balance: balance.iter().map(|b| b.to_string()).collect(),
            alpha,
            search: None,
            s: Spread::of(&factors.s),
            act_absmax_before: Spread::of(act_absmax),
            act_absmax_after: Spread::of(&after),
            dead_channels: factors.dead_channels.clone(),
            zero_columns: factors.zero_columns.clone(),
            clamped: factors.clamped.clone(),
        }
    }
}

/// The search of one group's factors. Errors are means over sampled tokens and the group's linears of
/// `||y - yq||² / ||y||²`, activations and weights in 8 bits.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SearchReport {
    /// Without smoothing.
    pub unsmoothed: f64,
    /// With the factors that were chosen.
    pub error: f64,
    /// How far the factors are from the strength's to those refined channel by channel, 0 to 1.
    pub refined: f64,
    /// Strengths that were tried, and the error of each.
    pub tried: Vec<(f64, f64)>,
}

/// One quantized linear.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct LinearReport {
    /// Full name without `.weight`.
    pub name: String,
    /// `[n, k]`: output and input channels.
    pub shape: [usize; 2],
    /// Element type of weights and activations.
    pub scheme: String,
    /// `gptq` or `rtn`.
    pub algorithm: String,
    /// `||Y - Yq|| / ||Y||` on calibration tokens, with quantized activations.
    pub output_error: Option<f64>,
    /// `||W - Wq|| / ||W||` after smoothing.
    pub weight_error: Option<f64>,
    /// `tr((W - Wq) G (W - Wq)ᵀ)` with the input's Gram matrix `G`.
    pub proxy_loss: Option<f64>,
    /// The same of round-to-nearest.
    pub rtn_proxy_loss: Option<f64>,
    /// Rows of zeros.
    pub zero_rows: Vec<usize>,
    /// Rows that kept round-to-nearest because it is better there.
    pub rtn_rows: usize,
    /// Rows whose scale is below that of their largest weight, where scales were searched.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clipped_rows: Option<usize>,
    /// Input channels that no calibration token used.
    pub dead_columns: Vec<usize>,
    /// Damping of GPTQ.
    pub damping: Option<f64>,
    /// GPTQ was asked for but could not be used.
    pub fallback: bool,
}

impl LinearReport {
    /// The entry of a linear that was rounded to nearest; `w` `[n, k]` is what was rounded.
    pub fn rtn(name: &str, w: &[f32], q: &QuantizedWeight) -> LinearReport {
        LinearReport::rounded(name, q, q.relative_error(w))
    }

    /// The same with its weight error.
    pub fn rounded(name: &str, q: &QuantizedWeight, weight_error: f64) -> LinearReport {
        LinearReport {
            name: name.into(),
            shape: [q.n, q.k],
            scheme: crate::recipe::dtype_name(q.kind).into(),
            algorithm: "rtn".into(),
            weight_error: Some(weight_error),
            zero_rows: q.zero_rows.clone(),
            ..LinearReport::default()
        }
    }

    /// The entry of a linear that was rounded to nearest on searched scales.
    pub fn clipped(name: &str, w: &[f32], result: &Clipped) -> LinearReport {
        LinearReport {
            proxy_loss: Some(result.loss),
            rtn_proxy_loss: Some(result.full_loss),
            clipped_rows: Some(result.rows),
            ..LinearReport::rtn(name, w, &result.weight)
        }
    }

    /// The entry of a linear that went through GPTQ; `w` `[n, k]` is what was solved.
    pub fn gptq(name: &str, w: &[f32], result: &GptqResult) -> LinearReport {
        LinearReport::solved(name, result, result.weight.relative_error(w))
    }

    /// The same with its weight error.
    pub fn solved(name: &str, result: &GptqResult, weight_error: f64) -> LinearReport {
        LinearReport {
            algorithm: if result.fell_back_to_rtn { "rtn" } else { "gptq" }.into(),
            proxy_loss: result.proxy_loss,
            rtn_proxy_loss: result.rtn_proxy_loss,
            rtn_rows: result.rtn_rows,
            dead_columns: result.dead_columns.clone(),
            damping: result.damping_used,
            fallback: result.fell_back_to_rtn,
            ..LinearReport::rounded(name, &result.weight, weight_error)
        }
    }
}

/// Checks against the original model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct SelfChecks {
    /// Mean KL divergence, in nats, of the smoothed model before it is quantized.
    pub smoothing_kl: Option<f64>,
    /// Above this the smoothing is not an identity, and the work is refused.
    pub smoothing_kl_threshold: f64,
    /// Mean KL divergence of the quantized model on tokens that were held back from the calibration.
    pub quantized_kl_mean: Option<f64>,
    /// Its maximum over the tokens.
    pub quantized_kl_max: Option<f64>,
    /// Part of those tokens for which both models have the same first choice.
    pub top1_agreement: Option<f64>,
    /// Tokens held back.
    pub tokens: usize,
}

/// What it saved.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    /// Bytes of the original tensors.
    pub bytes_before: u64,
    /// Bytes of the tensors written.
    pub bytes_after: u64,
}

impl Report {
    /// The text of `planish_report.json`.
    pub fn to_json(&self) -> String {
        // Serializing plain structs into a string cannot fail.
        serde_json::to_string_pretty(self).unwrap_or_default() + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{gptq, rtn, smooth};
    use planish_tensor::Q8;

    #[test]
    fn entries_come_from_results() {
        let w = [1.0, -2.0, 0.5, 4.0, 0.0, 0.0];
        let gram = [2.0, 0.0, 1.0, 2.0];
        let solved = gptq::quantize(Q8::Int8, &w, 3, &gram, 2, &Default::default()).unwrap();
        let entry = LinearReport::gptq("a.q_proj", &w, &solved);
        assert_eq!((entry.shape, entry.algorithm.as_str(), entry.damping), ([3, 2], "gptq", Some(0.01)));
        assert_eq!(entry.zero_rows, [2]);
        assert!(entry.weight_error.unwrap() > 0.0 && entry.proxy_loss <= entry.rtn_proxy_loss);
        let nothing = gptq::quantize(Q8::E4M3, &w, 3, &[0.0; 4], 2, &Default::default()).unwrap();
        let entry = LinearReport::gptq("a.q_proj", &w, &nothing);
        assert_eq!((entry.algorithm.as_str(), entry.fallback, entry.proxy_loss), ("rtn", true, None));
        assert_eq!(entry.scheme, "float8_e4m3fn");
        let plain = LinearReport::rtn("b", &w, &rtn::quantize_rows(Q8::Int8, &w, 3, 2).unwrap());
        assert!(!plain.fallback && plain.damping.is_none());
        let factors = smooth::smoothing_factors(&[16.0, 0.0, 1.0], &[1.0, 1.0, 1.0], 0.5).unwrap();
        let group = GroupReport::new("norm", &["q", "k"], Some(0.5), &[16.0, 0.0, 1.0], &factors);
        assert_eq!(group.act_absmax_before, Spread { min: 0.0, median: 1.0, max: 16.0 });
        assert_eq!(group.act_absmax_after, Spread { min: 0.0, median: 1.0, max: 4.0 });
        assert_eq!((group.dead_channels.as_slice(), group.s.max), (&[1][..], 4.0));
        assert_eq!(Spread::of(&[]), Spread::default());
    }

    #[test]
    fn json_reads_back() {
        let mut report = Report { version: "1.2.3".into(), ..Report::default() };
        report.self_checks.smoothing_kl = Some(3e-9);
        report.layers.push(LayerReport { linears: vec![LinearReport::default()], ..LayerReport::default() });
        let text = report.to_json();
        assert!(text.contains("\"proxy_loss\": null") && text.contains("\"smoothing_kl\": 3e-9"), "{text}");
        assert_eq!(serde_json::from_str::<Report>(&text).unwrap(), report);
        let older: Report = serde_json::from_str("{\"version\": \"0\", \"from_the_future\": 1}").unwrap();
        assert_eq!(older.version, "0");
    }
}
