//! `planish quantize` (and `planish lite smooth_quant`): an 8-bit checkpoint that is proved to be the same model.
mod budget;
mod calibration;
mod outcome;
mod prepared;
mod samples;
mod stored;
mod typed;

pub use outcome::report_beside;
pub use prepared::Prepared;
pub use typed::RecipeFlags;

use crate::Global;
use anyhow::{Result, bail};
use clap::Args;
use planish::Model;
use planish_checkpoint::writer::{CheckpointWriter, WriterOptions, recover};
use planish_quant::recipe::Recipe;
use planish_quant::samples::Samples;
use sha2::{Digest, Sha256};
use std::path::PathBuf;
use std::time::Instant;
use typed::CalibrationFlags;

/// Flags of the command.
#[derive(Args)]
pub struct Flags {
    /// Directory, .gguf file or hub id
    model: String,
    /// Where the checkpoint goes
    #[arg(long)]
    work_dir: PathBuf,
    #[command(flatten)]
    recipe: RecipeFlags,
    /// Keep the most sensitive linears in float until the divergence on held-back tokens is at most this: KL=0.01; with
    /// KL=0.01,fp8 those that lose less in FP8 go there first (such a checkpoint needs a device that runs both)
    #[arg(long, value_name = "KL=X[,fp8]", value_parser = budget::parse)]
    budget: Option<budget::Budget>,
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
        recipe: RecipeFlags {
            quant_dtype: Some(flags.quant_dtype.clone()),
            calibration: flags.calibration.clone(),
            ..RecipeFlags::default()
        },
        budget: None,
        resume: false,
        overwrite: false,
        max_shard_size: 5_000_000_000,
    };
    run(global, &flags)
}

/// Runs the command.
pub fn run(global: &Global, flags: &Flags) -> Result<()> {
    let start = Instant::now();
    let recipe = Prepared::decide(global, &flags.recipe)?;
    if recover(&flags.work_dir).unwrap_or(false) && flags.resume {
        return outcome::say_complete(global, &flags.work_dir);
    }
    let tokens = flags.budget.map_or(samples::HELD_BACK, |_| budget::TOKENS);
    let mut prepared = Prepared::open(global, &flags.model, recipe, tokens)?;
    let taken = std::fs::read_dir(&flags.work_dir).is_ok_and(|mut entries| entries.next().is_some());
    if flags.budget.is_some() && taken && !flags.overwrite && !flags.resume {
        // The writer would say so too, but only after the measurements.
        bail!("{}: expected an empty directory, or --overwrite or --resume, found files", flags.work_dir.display());
    }
    flags.budget.map_or(Ok(()), |allowed| budget::check(allowed, &prepared))?;
    let spent = flags.budget.map(|allowed| budget::spend(global, &mut prepared, allowed)).transpose()?;
    let (model, recipe, samples) = (&prepared.model, &prepared.recipe, &prepared.samples);
    let scheme = prepared.scheme()?;
    let options = WriterOptions {
        max_shard_size: flags.max_shard_size,
        overwrite: flags.overwrite,
        resume: flags.resume,
        settings: settings_digest(model, recipe, samples),
        input: Some(model.path.clone()),
    };
    let mut writer = CheckpointWriter::create(&flags.work_dir, options)?;
    let outcome = prepared.write(global, &mut writer)?;
    let phases = outcome.phases.clone();
    let mut report = outcome::report(&flags.model, model, recipe, samples, prepared.held_back.len(), outcome);
    report.budget = spent;
    let report = outcome::save(&mut writer, &prepared, &scheme, report)?;
    writer.finish()?;
    outcome::summarize(global, flags, &report, start.elapsed().as_secs_f64(), &phases)
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
