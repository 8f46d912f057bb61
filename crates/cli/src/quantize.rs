//! Quantizing a model, from what was asked to a finished checkpoint and its report: `planish quantize` and Python's
//! `quantize` are this.
mod budget;
mod calibration;
mod finite;
mod fused;
mod outcome;
mod prepared;
mod samples;
mod settings;
mod stored;
mod strength;

pub use budget::Budget;
pub use prepared::Prepared;

use crate::machine::{Machine, check_device};
use anyhow::{Context, Result, bail};
use planish_checkpoint::writer::{CheckpointWriter, WriterOptions, recover};
use planish_quant::calibrate::phases::Phases;
use planish_quant::calibrate::run::Outcome;
use planish_quant::recipe::{QuantizeArgs, Recipe, decide};
use planish_quant::report::{BudgetReport, Report};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// What is to be quantized, how, and where it goes.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// Directory, `.gguf` file or hub id.
    pub model: String,
    /// Where the checkpoint goes.
    pub work_dir: PathBuf,
    /// How, as it was said.
    pub recipe: QuantizeArgs,
    /// What the divergence may be.
    pub budget: Option<Budget>,
    /// Continue an unfinished run.
    pub resume: bool,
    /// Replace what is in `work_dir`.
    pub overwrite: bool,
    /// Bytes at which the next shard begins.
    pub max_shard_size: u64,
}

/// What came of it.
pub enum Done {
    /// A checkpoint.
    Made(Box<Made>),
    /// An earlier run had done everything but the last renames, which are done now.
    Completed,
}

/// What a finished run says.
pub struct Made {
    /// As it is saved.
    pub report: Report,
    /// Wall-clock seconds by phase.
    pub phases: Phases,
    /// Wall-clock seconds of all.
    pub seconds: f64,
}

impl Done {
    /// The report as one JSON document.
    pub fn document(&self, work_dir: &Path) -> Result<Value> {
        let mut document = match self {
            // Through the saved text, so that both say the same digits.
            Done::Made(made) => serde_json::from_str(&made.report.to_json())?,
            Done::Completed => report_beside(work_dir).unwrap_or_else(|| json!({})),
        };
        document["work_dir"] = work_dir.display().to_string().into();
        if let Done::Made(made) = self {
            document["seconds"] = made.seconds.into();
            document["phases"] = made.phases.seconds().iter().map(|(name, s)| (name.to_string(), json!(s))).collect();
        }
        Ok(document)
    }
}

/// The report beside a checkpoint, if it has one.
pub fn report_beside(dir: &Path) -> Option<Value> {
    serde_json::from_slice(&std::fs::read(dir.join("planish_report.json")).ok()?).ok()
}

/// The text of a recipe.
pub fn read_recipe(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("--recipe {}", path.display()))
}

/// Decides the recipe, for a device that is there, and refuses what cannot be made before any work.
pub fn decide_recipe(machine: &Machine, args: &QuantizeArgs) -> Result<Recipe> {
    check_device(&machine.device)?;
    let recipe = decide(args)?;
    recipe.check_made()?;
    Ok(recipe)
}

/// Makes the checkpoint.
pub fn quantize(machine: &Machine, order: &Order) -> Result<Done> {
    let start = Instant::now();
    let recipe = decide_recipe(machine, &order.recipe)?;
    let published = match order.overwrite {
        // What cannot be completed is replaced.
        true => recover(&order.work_dir).unwrap_or_default(),
        false => recover(&order.work_dir)?,
    };
    let tokens = order.budget.map_or(samples::HELD_BACK, |_| budget::TOKENS);
    let mut prepared = Prepared::open(machine, &order.model, recipe, tokens)?;
    let mut settings = settings::asked(order, &prepared)?;
    if let Some(published) = published.filter(|_| order.resume)
        && settings::agree(order, &settings, &published)?
    {
        return Ok(Done::Completed);
    }
    let spent = spend(machine, order, &mut prepared)?;
    settings::decided(&mut settings, &prepared);
    let options = WriterOptions {
        max_shard_size: order.max_shard_size,
        overwrite: order.overwrite,
        resume: order.resume,
        settings,
        input: Some(prepared.model.path.clone()),
    };
    let writer = CheckpointWriter::create(&order.work_dir, options)?;
    let (mut writer, outcome) = write(machine, &prepared, writer)?;
    let phases = outcome.phases.clone();
    let mut report = outcome::report(&order.model, &prepared, outcome);
    report.budget = spent;
    let report = outcome::save(&mut writer, &prepared, &prepared.scheme()?, report)?;
    writer.finish()?;
    Ok(Done::Made(Box::new(Made { report, phases, seconds: start.elapsed().as_secs_f64() })))
}

/// Writes the tensors; work that fails stays only where it can be resumed.
fn write(machine: &Machine, prepared: &Prepared, mut to: CheckpointWriter) -> Result<(CheckpointWriter, Outcome)> {
    match prepared.write(machine, &mut to) {
        Ok(outcome) => Ok((to, outcome)),
        Err(error) => {
            to.give_up();
            Err(error)
        }
    }
}

/// Searches what stays in float for a budget, if there is one.
fn spend(machine: &Machine, order: &Order, prepared: &mut Prepared) -> Result<Option<BudgetReport>> {
    let Some(allowed) = order.budget else { return Ok(None) };
    let taken = std::fs::read_dir(&order.work_dir).is_ok_and(|mut entries| entries.next().is_some());
    if taken && !order.overwrite && !order.resume {
        // The writer would say so too, but only after the measurements.
        bail!("{}: expected an empty directory, or --overwrite or --resume, found files", order.work_dir.display());
    }
    budget::check(allowed, prepared)?;
    budget::spend(machine, prepared, allowed).map(Some)
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
