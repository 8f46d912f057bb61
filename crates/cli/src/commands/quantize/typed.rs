//! From what was typed to what is done: the flags that say how a model is quantized, and what they mean for each linear.
use anyhow::{Context, Result};
use clap::Args;
use planish::Model;
use planish_model::{Absorber, Input};
use planish_quant::calibrate::fold::{absorber_name, reader_names, smoothed_readers};
use planish_quant::calibrate::solve::Algorithm;
use planish_quant::calibrate::strength::Strength;
use planish_quant::gptq::GptqOptions;
use planish_quant::recipe::{QuantizeArgs, Recipe, Smooth, WeightMethod, decide};
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

/// Decides the recipe, and refuses what cannot be made before any work.
pub fn decide_recipe(flags: &RecipeFlags) -> Result<Recipe> {
    let text = match &flags.recipe {
        Some(path) => Some(std::fs::read_to_string(path).with_context(|| format!("--recipe {}", path.display()))?),
        None => None,
    };
    let c = &flags.calibration;
    let recipe = decide(&QuantizeArgs {
        quant_dtype: flags.quant_dtype.clone(),
        scheme: flags.scheme.clone(),
        lm_head: flags.lm_head.clone(),
        smooth: flags.smooth.clone(),
        weights: flags.weights.clone(),
        activations: flags.activations.clone(),
        clip: flags.clip.clone(),
        kv_scales: flags.kv_scales.clone(),
        ignore: flags.ignore.clone(),
        format: flags.format.clone(),
        calib_dataset: c.calib_dataset.clone(),
        calib_samples: c.calib_samples,
        calib_seqlen: c.calib_seqlen,
        seed: c.seed,
        recipe: text,
    })?;
    recipe.check_made()?;
    Ok(recipe)
}

/// Smoothing between two linears (v to o, up to down) is no stronger than this, the paper's own default. Their
/// channels have no gain that grows outliers: a few tokens make the maxima, and a strength that suits norms would
/// stretch the weights for those tokens' sake (docs/accuracy.md has the figures).
const LINEAR_PAIR_ALPHA: f64 = 0.5;

/// How strongly a layer's input is smoothed. Experts are smoothed only where a recipe's mappings name them: one norm
/// would have to serve the router and all experts, which costs more than it saves.
pub fn strength(model: &Model, recipe: &Recipe, layer: usize, input: Input) -> Option<Strength> {
    let of_mixture = matches!(input, Input::MlpNorm | Input::MlpInner(_)) && model.plan.mixture(layer).is_some();
    if of_mixture && recipe.mappings.is_none() {
        return None;
    }
    let absorber = model.plan.absorber(input)?;
    let strength = match (recipe.smooth, absorber) {
        (Smooth::Off, _) => return None,
        (Smooth::Auto, _) => Strength::Search,
        (Smooth::Alpha(alpha), Absorber::Rows(_)) => Strength::Alpha(alpha.min(LINEAR_PAIR_ALPHA)),
        (Smooth::Alpha(alpha), Absorber::Norm(_)) => Strength::Alpha(alpha),
    };
    let mut readers = smoothed_readers(&model.plan, layer, input);
    readers.retain(|role| !role.steers());
    let readers = reader_names(&model.plan, layer, &readers);
    let readers: Vec<&str> = readers.iter().map(String::as_str).collect();
    recipe.smooths(&absorber_name(&model.plan, layer, absorber), &readers).then_some(strength)
}

/// How weights become codes.
pub fn algorithm(recipe: &Recipe, threads: usize) -> Algorithm {
    match recipe.weights {
        WeightMethod::Rtn if recipe.clip => Algorithm::Clipped(threads),
        WeightMethod::Rtn => Algorithm::Rtn,
        WeightMethod::Gptq => Algorithm::Gptq(GptqOptions {
            damping: recipe.damping,
            act_order: recipe.act_order,
            search_scales: recipe.clip,
            threads,
            ..GptqOptions::default()
        }),
    }
}
