//! `planish sensitivity`: each layer's share of the damage that quantizing does.
use super::quantize::RecipeFlags;
use super::{check_place, print, print_json};
use crate::Global;
use anyhow::{Context, Result, bail};
use clap::Args;
use planish::quantize::{Prepared, decide_recipe};
use planish_quant::calibrate::probe::LayerShare;
use planish_quant::html::{Shares, render_shares};
use planish_quant::recipe::dtype_name;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Width of the longest bar.
const BAR: f64 = 32.0;

/// Flags of the command.
#[derive(Args)]
pub struct Flags {
    /// Directory, .gguf file or hub id
    model: String,
    #[command(flatten)]
    recipe: RecipeFlags,
    /// Held-back tokens to measure on
    #[arg(long, default_value_t = 256)]
    tokens: usize,
    /// Write a page with a picture
    #[arg(long)]
    html: Option<PathBuf>,
}

/// Runs the command.
pub fn run(global: &Global, flags: &Flags) -> Result<()> {
    if flags.tokens == 0 {
        bail!("--tokens: expected a number above 0, found 0");
    }
    check_place("--html", flags.html.as_ref())?;
    let machine = global.machine();
    let recipe = decide_recipe(&machine, &flags.recipe.args()?)?;
    let prepared = Prepared::open(&machine, &flags.model, recipe, flags.tokens)?;
    let layers = prepared.shares(&machine, flags.tokens)?;
    if layers.is_empty() {
        bail!("--ignore: expected linears that are quantized, found that all stay in float");
    }
    let dtype = dtype_name(prepared.recipe.dtype());
    if let Some(path) = &flags.html {
        let shares = Shares { model: &flags.model, dtype, tokens: prepared.held_back.len(), layers: &layers };
        std::fs::write(path, render_shares(&shares)).with_context(|| format!("--html {}", path.display()))?;
    }
    match global.json {
        true => print_json(&document(flags, &prepared, &layers)),
        false => print(&table(&layers, prepared.held_back.len())),
    }
}

fn document(flags: &Flags, prepared: &Prepared, layers: &[LayerShare]) -> Value {
    let all = sum(layers);
    let layer = |l: &LayerShare| {
        let groups = l
            .groups
            .iter()
            .map(|g| json!({"linears": g.linears, "weights": g.weights, "kl": g.kl, "share": g.kl / all}));
        let d = &l.divergence;
        json!({"name": l.name, "kl": d.mean, "kl_stderr": d.error, "share": d.mean / all, "top1_agreement": d.top1,
            "groups": groups.collect::<Vec<_>>()})
    };
    json!({
        "model": flags.model,
        "quant_dtype": dtype_name(prepared.recipe.dtype()),
        "recipe": prepared.recipe.to_yaml(),
        "calibration": prepared.samples.description,
        "tokens": prepared.held_back.len(),
        "kl_sum": all,
        "layers": layers.iter().map(layer).collect::<Vec<_>>(),
    })
}

fn sum(layers: &[LayerShare]) -> f64 {
    layers.iter().map(|l| l.divergence.mean).sum()
}

fn table(layers: &[LayerShare], tokens: usize) -> String {
    let (all, most) = (sum(layers), layers.iter().map(|l| l.divergence.mean).fold(f64::MIN_POSITIVE, f64::max));
    let width = layers.iter().map(|l| l.name.len()).max().unwrap_or(0);
    let mut out = format!("KL divergence when one layer alone is quantized, mean over {tokens} held-back tokens\n");
    for l in layers {
        let kl = l.divergence.mean;
        let bar = "█".repeat((BAR * kl / most).round().max(0.0) as usize);
        let worst = l.groups.iter().max_by(|a, b| a.kl.total_cmp(&b.kl));
        let worst = worst.map_or(String::new(), |g| {
            let names: Vec<_> = g.linears.iter().map(|n| n.rsplit('.').next().unwrap_or(n)).collect();
            format!("{} {:.0} %", names.join("+"), 100.0 * g.kl / kl)
        });
        out += &format!("{:width$}  {kl:.2e}  {:5.1} %  {bar:<32}  {worst}\n", l.name, 100.0 * kl / all);
    }
    out + &format!("{:width$}  {all:.2e}  (sum; all layers together may cost more or less)\n", "")
}
