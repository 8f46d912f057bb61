//! The flags that say how a model is quantized.
use anyhow::Result;
use clap::Args;
use planish::quantize::read_recipe;
use planish_quant::recipe::QuantizeArgs;
use std::path::PathBuf;

/// How a model is quantized.
#[derive(Args, Clone, Default)]
pub struct RecipeFlags {
    /// int8, fp8 (= float8_e4m3fn), float8_e4m3fn or float8_e5m2 [default: int8]
    #[arg(long)]
    pub quant_dtype: Option<String>,
    /// One of llm-compressor's presets: W8A8, FP8, FP8_DYNAMIC or FP8_BLOCK (blocks of 128 x 128)
    #[arg(long)]
    pub scheme: Option<String>,
    /// The output projection: float, int8 or fp8; in 8 bits it is stored apart from a tied embedding [default: float]
    #[arg(long)]
    pub lm_head: Option<String>,
    /// SmoothQuant's strength from 0 to 1, auto to search it for each group, or off [default: 0.8 for int8, off for fp8]
    #[arg(long)]
    pub smooth: Option<String>,
    /// gptq or rtn [default: gptq for int8, rtn for fp8]
    #[arg(long)]
    pub weights: Option<String>,
    /// dynamic (per token), or static (one scale for each input, from the calibration) [default: dynamic]
    #[arg(long)]
    pub activations: Option<String>,
    /// Look for each row's best scale below that of its largest weight: on or off [default: off]
    #[arg(long)]
    pub clip: Option<String>,
    /// Store scales of keys and values for a cache of this type, from the calibration: fp8 or off [default: off]
    #[arg(long)]
    pub kv_scales: Option<String>,
    /// A recipe in llm-compressor's schema; other flags must agree with it
    #[arg(long)]
    pub recipe: Option<PathBuf>,
    #[command(flatten)]
    pub calibration: CalibrationFlags,
    /// Linears to keep in float beside lm_head: names, or re: and a regular expression (repeatable)
    #[arg(long)]
    pub ignore: Vec<String>,
    /// compressed-tensors or lmdeploy [default: compressed-tensors]
    #[arg(long)]
    pub format: Option<String>,
}

/// What calibration reads.
#[derive(Args, Clone, Default)]
pub struct CalibrationFlags {
    /// jsonl, json, parquet, csv or txt file, or a data set of the hub as owner/name, owner/name:split or
    /// owner/name:config/split [default: a small sample inside the program]
    #[arg(long)]
    pub calib_dataset: Option<String>,
    /// Sequences [default: 512]
    #[arg(long)]
    pub calib_samples: Option<usize>,
    /// Tokens of a sequence [default: 2048]
    #[arg(long)]
    pub calib_seqlen: Option<usize>,
    /// Seed of the shuffle [default: 42]
    #[arg(long)]
    pub seed: Option<u64>,
}

impl RecipeFlags {
    /// What they say; the recipe is read here.
    pub fn args(&self) -> Result<QuantizeArgs> {
        let c = &self.calibration;
        Ok(QuantizeArgs {
            quant_dtype: self.quant_dtype.clone(),
            scheme: self.scheme.clone(),
            lm_head: self.lm_head.clone(),
            smooth: self.smooth.clone(),
            weights: self.weights.clone(),
            activations: self.activations.clone(),
            clip: self.clip.clone(),
            kv_scales: self.kv_scales.clone(),
            ignore: self.ignore.clone(),
            format: self.format.clone(),
            calib_dataset: c.calib_dataset.clone(),
            calib_samples: c.calib_samples,
            calib_seqlen: c.calib_seqlen,
            seed: c.seed,
            recipe: self.recipe.as_deref().map(read_recipe).transpose()?,
        })
    }
}
