//! What was done to each block: kept across a resumed run, and the body of the report.
use serde::{Deserialize, Serialize};

/// One block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LayerOutcome {
    /// Number of the block, from 0.
    pub layer: usize,
    /// What smoothing did to each input.
    pub smoothing: Vec<SmoothingOutcome>,
    /// Each quantized linear.
    pub linears: Vec<LinearOutcome>,
    /// `||original - quantized|| / ||original||` of the hidden states after this block, on the held-back batch.
    pub state_error: f64,
}

/// Smoothing of one input.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct SmoothingOutcome {
    /// Which input.
    pub input: String,
    /// Strength.
    pub alpha: f64,
    /// Smallest, median and largest factor.
    pub factors: [f32; 3],
    /// Largest activation magnitude before.
    pub absmax_before: f32,
    /// Median of the channels' magnitudes before.
    pub median_before: f32,
    /// Largest activation magnitude after.
    pub absmax_after: f32,
    /// Median of the channels' magnitudes after.
    pub median_after: f32,
    /// Channels that no token excited.
    pub dead_channels: usize,
}

/// One quantized linear.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinearOutcome {
    /// Module name.
    pub name: String,
    /// Output and input channels.
    pub shape: [usize; 2],
    /// `gptq` or `rtn`.
    pub algorithm: String,
    /// Relative error of its outputs on the held-back batch, activations quantized too.
    pub output_error: f64,
    /// Relative error of its weights.
    pub weight_error: f64,
    /// GPTQ's loss.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub proxy_loss: Option<f64>,
    /// The loss that round-to-nearest would have had.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rtn_proxy_loss: Option<f64>,
    /// Damping that GPTQ needed.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub damping: Option<f64>,
    /// GPTQ could not factorize the Gram matrix, and round-to-nearest took over.
    pub fell_back_to_rtn: bool,
    /// Output channels whose weights are all zero.
    pub zero_rows: usize,
    /// Input channels that no token excited.
    pub dead_columns: usize,
}
