//! `planish quantize` (and `planish lite smooth_quant`): an 8-bit checkpoint that is proved to be the same model.
mod outcome;
mod samples;

pub use outcome::report_beside;

use super::{bar, check_device, finite};
use crate::Global;
use anyhow::{Context, Result, bail};
use clap::Args;
use planish::Model;
use planish_checkpoint::scheme::{
    ActQuant, Group, LinearScheme, QuantFormat, QuantType, ScaleType, Scheme, WeightQuant, WeightStrategy,
};
use planish_checkpoint::writer::{CheckpointWriter, WriterOptions, recover};
use planish_devices::{Opening, Work, cores, with_device};
use planish_model::{Absorber, Input, Role};
use planish_quant::calibrate::fold::{absorber_name, reader_names, smoothed_readers};
use planish_quant::calibrate::run::{Job, Outcome, Progress, quantize};
use planish_quant::calibrate::save::Layout;
use planish_quant::calibrate::solve::Algorithm;
use planish_quant::gptq::GptqOptions;
use planish_quant::recipe::{Activations, Format, QuantizeArgs, Recipe, Smooth, WeightMethod, decide};
use planish_quant::samples::Samples;
use planish_tensor::{Backend, DType, Q8};
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use std::time::Instant;

/// Flags of the command.
#[derive(Args)]
pub struct Flags {
    /// Directory, .gguf file or hub id
    model: String,
    /// Where the checkpoint goes
    #[arg(long)]
    work_dir: PathBuf,
    /// int8, fp8 (= float8_e4m3fn), float8_e4m3fn or float8_e5m2 [default: int8]
    #[arg(long)]
    quant_dtype: Option<String>,
    /// SmoothQuant's strength from 0 to 1, or off [default: 0.8 for int8, off for fp8]
    #[arg(long)]
    smooth: Option<String>,
    /// gptq or rtn [default: gptq for int8, rtn for fp8]
    #[arg(long)]
    weights: Option<String>,
    /// dynamic (per token), or static (one scale for each input, from the calibration) [default: dynamic]
    #[arg(long)]
    activations: Option<String>,
    /// A recipe in llm-compressor's schema; other flags must agree with it
    #[arg(long)]
    recipe: Option<PathBuf>,
    #[command(flatten)]
    calibration: CalibrationFlags,
    /// Linears to keep in float: names, or re: and a regular expression (repeatable) [default: lm_head]
    #[arg(long)]
    ignore: Vec<String>,
    /// compressed-tensors or lmdeploy [default: compressed-tensors]
    #[arg(long)]
    format: Option<String>,
    /// Continue an unfinished run
    #[arg(long)]
    resume: bool,
    /// Replace what is in --work-dir
    #[arg(long)]
    overwrite: bool,
    /// Size at which the next shard begins, such as 5GB
    #[arg(long, default_value = "5GB", value_parser = parse_size)]
    max_shard_size: u64,
}

/// What calibration reads.
#[derive(Args, Clone)]
struct CalibrationFlags {
    /// jsonl, json or txt file [default: a small sample inside the program]
    #[arg(long)]
    calib_dataset: Option<String>,
    /// Sequences [default: 512]
    #[arg(long)]
    calib_samples: Option<usize>,
    /// Tokens of a sequence [default: 2048]
    #[arg(long)]
    calib_seqlen: Option<usize>,
    /// Seed of the shuffle [default: 42]
    #[arg(long)]
    seed: Option<u64>,
}

/// LMDeploy's flags.
#[derive(Args)]
pub struct LiteFlags {
    /// Directory, .gguf file or hub id
    model: String,
    /// Where the checkpoint goes
    #[arg(long, default_value = "./work_dir")]
    work_dir: PathBuf,
    /// int8, fp8 (= float8_e4m3fn), float8_e4m3fn or float8_e5m2
    #[arg(long, default_value = "int8")]
    quant_dtype: String,
    #[command(flatten)]
    calibration: CalibrationFlags,
    /// Accepted; samples run in chunks of a fixed size
    #[arg(long)]
    batch_size: Option<usize>,
    /// Accepted; the strength is --smooth of `planish quantize`
    #[arg(long)]
    search_scale: bool,
}

/// Runs `planish lite smooth_quant`.
pub fn run_lite(global: &Global, flags: &LiteFlags) -> Result<()> {
    if global.talks() {
        for (given, name) in [(flags.batch_size.is_some(), "--batch-size"), (flags.search_scale, "--search-scale")] {
            if given {
                eprintln!("note: {name} is accepted for LMDeploy's sake and changes nothing");
            }
        }
    }
    let flags = Flags {
        model: flags.model.clone(),
        work_dir: flags.work_dir.clone(),
        quant_dtype: Some(flags.quant_dtype.clone()),
        smooth: None,
        weights: None,
        activations: None,
        recipe: None,
        calibration: flags.calibration.clone(),
        ignore: Vec::new(),
        format: None,
        resume: false,
        overwrite: false,
        max_shard_size: 5_000_000_000,
    };
    run(global, &flags)
}

/// Runs the command.
pub fn run(global: &Global, flags: &Flags) -> Result<()> {
    let start = Instant::now();
    check_device(&global.device)?;
    let recipe = decide_recipe(flags)?;
    if recover(&flags.work_dir).unwrap_or(false) && flags.resume {
        return outcome::say_complete(global, &flags.work_dir);
    }
    let model = Model::open(&flags.model)?;
    if model.scheme.is_some() {
        bail!("{}: expected a float model, found one that is quantized already", model.path.display());
    }
    let (samples, held_back) = samples::load_samples(&model, &recipe)?;
    let quantized = |layer: usize, role: Role| !role.steers() && recipe.quantizes(&model.plan.linear_name(layer, role));
    let format = match recipe.format {
        Format::CompressedTensors => QuantFormat::CompressedTensors,
        Format::Lmdeploy => QuantFormat::LmDeploy,
    };
    let scheme = scheme_of(&model, &recipe, format, &quantized)?;
    let mut writer = CheckpointWriter::create(
        &flags.work_dir,
        WriterOptions {
            max_shard_size: flags.max_shard_size,
            overwrite: flags.overwrite,
            resume: flags.resume,
            settings: settings_digest(&model, &recipe, &samples),
            input: Some(model.path.clone()),
        },
    )?;
    let progress_bar = bar(global.talks(), model.plan.layers as u64, "quantizing");
    let alpha = |layer, input| strength(&model, &recipe, layer, input);
    let float_dtype = model.tensors.tensor(model.plan.arch.names.embed)?.dtype();
    let stored = model.plan.stored_by(scheme.clone());
    let job = Job {
        plan: &model.plan,
        stored: &stored,
        source: model.tensors.as_ref(),
        samples: &samples.ids,
        held_back: &held_back,
        kind: recipe.dtype,
        alpha: &alpha,
        algorithm: algorithm(&recipe, global.threads.unwrap_or_else(cores)),
        quantized: &quantized,
        layout: Layout { scale_name: scheme.scale_name(), scale_dtype: DType::F32, float_dtype },
        keys: None,
    };
    let mut progress = |p: Progress| progress_bar.set_position((p.layer as f64 + p.part) as u64);
    let work = Quantize { job: &job, writer: &mut writer, progress: &mut progress };
    let opening = Opening { threads: global.threads, ..Opening::default() };
    let outcome = with_device(&global.device, opening, work)?.map_err(|e| finite::explain(&model, e))?;
    progress_bar.finish_and_clear();
    finite::check(&model, outcome.quantized.mean)?;
    let phases = outcome.phases.clone();
    let report = outcome::report(flags, &model, &recipe, &samples, held_back.len(), outcome);
    let report = outcome::save(&mut writer, &model, &recipe, &scheme, report)?;
    writer.finish()?;
    outcome::summarize(global, flags, &report, start.elapsed().as_secs_f64(), &phases)
}

struct Quantize<'a, 'b> {
    job: &'a Job<'b>,
    writer: &'a mut CheckpointWriter,
    progress: &'a mut dyn FnMut(Progress),
}

impl Work for Quantize<'_, '_> {
    type Output = planish_quant::Result<Outcome>;
    fn run<B: Backend>(self, backend: B) -> Self::Output {
        quantize(&backend, self.job, self.writer, self.progress)
    }
}

fn decide_recipe(flags: &Flags) -> Result<Recipe> {
    let text = match &flags.recipe {
        Some(path) => Some(std::fs::read_to_string(path).with_context(|| format!("--recipe {}", path.display()))?),
        None => None,
    };
    let c = &flags.calibration;
    let recipe = decide(&QuantizeArgs {
        quant_dtype: flags.quant_dtype.clone(),
        smooth: flags.smooth.clone(),
        weights: flags.weights.clone(),
        activations: flags.activations.clone(),
        ignore: flags.ignore.clone(),
        format: flags.format.clone(),
        calib_dataset: c.calib_dataset.clone(),
        calib_samples: c.calib_samples,
        calib_seqlen: c.calib_seqlen,
        seed: c.seed,
        recipe: text,
    })?;
    if recipe.smooth == Smooth::Auto {
        bail!("--smooth: expected a number from 0 to 1 or off, found auto, which this version does not search yet");
    }
    if recipe.dtype == Q8::E5M2 && recipe.format == Format::CompressedTensors {
        bail!("--quant-dtype float8_e5m2: compressed-tensors has no E5M2 weights; give --format lmdeploy");
    }
    Ok(recipe)
}

/// Smoothing between two linears (v to o, up to down) is no stronger than this, the paper's own default. Their
/// channels have no gain that grows outliers: a few tokens make the maxima, and a strength that suits norms would
/// stretch the weights for those tokens' sake (docs/accuracy.md has the figures).
const LINEAR_PAIR_ALPHA: f64 = 0.5;

/// Experts are smoothed only where a recipe's mappings name them: one norm would have to serve the router and all
/// experts, which costs more than it saves.
fn strength(model: &Model, recipe: &Recipe, layer: usize, input: Input) -> Option<f64> {
    let Smooth::Alpha(alpha) = recipe.smooth else { return None };
    let of_mixture = matches!(input, Input::MlpNorm | Input::MlpInner(_)) && model.plan.mixture(layer).is_some();
    if of_mixture && recipe.mappings.is_none() {
        return None;
    }
    let absorber = model.plan.absorber(input)?;
    let alpha = match absorber {
        Absorber::Rows(_) => alpha.min(LINEAR_PAIR_ALPHA),
        Absorber::Norm(_) => alpha,
    };
    let mut readers = smoothed_readers(&model.plan, layer, input);
    readers.retain(|role| !role.steers());
    let readers = reader_names(&model.plan, layer, &readers);
    let readers: Vec<&str> = readers.iter().map(String::as_str).collect();
    recipe.smooths(&absorber_name(&model.plan, layer, absorber), &readers).then_some(alpha)
}

fn algorithm(recipe: &Recipe, threads: usize) -> Algorithm {
    match recipe.weights {
        WeightMethod::Rtn => Algorithm::Rtn,
        WeightMethod::Gptq => Algorithm::Gptq(GptqOptions {
            damping: recipe.damping,
            act_order: recipe.act_order,
            threads,
            ..GptqOptions::default()
        }),
    }
}

/// The scheme as saved: every linear but those that stay in float, by name.
fn scheme_of(
    model: &Model,
    recipe: &Recipe,
    format: QuantFormat,
    quantized: &dyn Fn(usize, Role) -> bool,
) -> Result<Scheme> {
    let mut ignore = vec![model.plan.arch.names.head.to_owned()];
    for layer in 0..model.plan.layers {
        let mut kept = model.plan.roles(layer);
        kept.retain(|&role| !quantized(layer, role));
        ignore.extend(reader_names(&model.plan, layer, &kept));
    }
    let dtype = match recipe.dtype {
        Q8::Int8 => QuantType::Int8,
        Q8::E4M3 => QuantType::Fp8E4M3,
        Q8::E5M2 => QuantType::Fp8E5M2,
    };
    let act_order = recipe.weights == WeightMethod::Gptq && recipe.act_order;
    if recipe.activations == Activations::Dynamic {
        return Ok(Scheme::w8a8(format, dtype, act_order, ignore)?);
    }
    let weights = WeightQuant { dtype, strategy: WeightStrategy::Channel, scale: ScaleType::Float, act_order };
    let scheme = LinearScheme { weights, activations: ActQuant::Static { symmetric: true } };
    Ok(Scheme::new(format, vec![Group { targets: vec!["Linear".into()], scheme }], ignore)?)
}

/// What must be equal for a run to be continued.
fn settings_digest(model: &Model, recipe: &Recipe, samples: &Samples) -> String {
    let mut hasher = Sha256::new();
    hasher.update(serde_json::to_vec(model.config.fields()).unwrap_or_default());
    hasher.update(model.bytes.to_le_bytes());
    hasher.update(recipe.to_yaml());
    hasher.update(format!("{:?} {:?}", recipe.format, recipe.seed));
    hasher.update(&samples.sha256);
    hasher.finalize().iter().map(|b| format!("{b:02x}")).collect()
}

/// `5GB` as bytes.
pub fn parse_size(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 1,
        "KB" => 1000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        _ => return Err("expected a size such as 500MB or 5GB".into()),
    };
    let number: u64 = digits.parse().map_err(|_| "expected a size such as 500MB or 5GB".to_owned())?;
    number.checked_mul(unit).filter(|&n| n > 0).ok_or_else(|| "expected a size such as 500MB or 5GB".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        assert_eq!(parse_size("5GB"), Ok(5_000_000_000));
        assert_eq!(parse_size("12"), Ok(12));
        assert!(parse_size("5XB").is_err() && parse_size("GB").is_err() && parse_size("0").is_err());
        assert!(parse_size("99999999999999GB").is_err());
    }
}
