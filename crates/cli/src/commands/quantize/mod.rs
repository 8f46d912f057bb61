//! `planish quantize` (and `planish lite smooth_quant`): an 8-bit checkpoint that is proved to be the same model.
mod flags;

pub use flags::RecipeFlags;

use super::{human, print, print_json, usage};
use crate::Global;
use anyhow::Result;
use clap::Args;
use flags::CalibrationFlags;
use planish::notice::say;
use planish::quantize::{Budget, Done, Made, Order, parse_size, quantize};
use serde_json::json;
use std::path::{Path, PathBuf};

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
    #[arg(long, value_name = "KL=X[,fp8]", value_parser = Budget::parse)]
    budget: Option<Budget>,
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
                say(format_args!("note: {name} is accepted for LMDeploy's sake and changes nothing"));
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
    let order = Order {
        model: flags.model.clone(),
        work_dir: flags.work_dir.clone(),
        recipe: flags.recipe.args()?,
        budget: flags.budget,
        resume: flags.resume,
        overwrite: flags.overwrite,
        max_shard_size: flags.max_shard_size,
    };
    let (done, dir) = (quantize(&global.machine(), &order)?, &flags.work_dir);
    match &done {
        _ if global.json => document(&done, dir),
        Done::Made(made) => print(&summary(made, dir)),
        Done::Completed => print(&format!("{}: the unfinished run was complete and is now in place\n", dir.display())),
    }
}

fn document(done: &Done, dir: &Path) -> Result<()> {
    let mut document = done.document(dir)?;
    if let Done::Made(_) = done {
        document["cpu_seconds"] = json!(usage::cpu_seconds());
        document["peak_memory_bytes"] = json!(usage::peak_memory());
    }
    print_json(&document)
}

fn summary(made: &Made, dir: &Path) -> String {
    let report = &made.report;
    let (checks, totals) = (&report.self_checks, &report.totals);
    let kl = |x: Option<f64>| x.map_or("not measured".to_owned(), |x| format!("{x:.2e}"));
    let mut text = format!(
        "{}: {} -> {}\n  smoothed model   KL {} (limit {:.0e}) on {} held-back tokens\n  quantized model  KL {}, same first choice {:.2} %\n",
        dir.display(),
        human(totals.bytes_before),
        human(totals.bytes_after),
        kl(checks.smoothing_kl),
        checks.smoothing_kl_threshold,
        checks.tokens,
        kl(checks.quantized_kl_mean),
        100.0 * checks.top1_agreement.unwrap_or(0.0),
    );
    if let Some(b) = &report.budget {
        text += &format!(
            "  budget           KL {:.2e} ± {:.1e} of {:.2e} on {} held-back tokens; {} linears in FP8, {} in float, {} more\n",
            b.kl,
            b.standard_error,
            b.target,
            b.tokens,
            b.fp8.len(),
            b.kept.len(),
            human(b.bytes)
        );
    }
    let (cpu, memory) = (usage::cpu_seconds().unwrap_or(0.0), usage::peak_memory().unwrap_or(0));
    text += &format!("  {:.1} s, {cpu:.1} CPU seconds, {} at most\n", made.seconds, human(memory));
    for warning in report.warnings.iter().take(10) {
        text += &format!("  note: {warning}\n");
    }
    text
}
