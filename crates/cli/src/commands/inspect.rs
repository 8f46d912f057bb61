//! `planish inspect`: what a model is made of.
use super::{human, print, print_json};
use crate::Global;
use anyhow::{Result, bail};
use clap::Args;
use planish::Model;
use planish_model::Plan;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;

/// Flags of the command.
#[derive(Args)]
pub struct Flags {
    /// Directory, .gguf file or hub id
    model: String,
    /// Read every byte and compare it with planish_digests.json
    #[arg(long)]
    verify: bool,
    /// List every tensor
    #[arg(long)]
    tensors: bool,
}

/// Runs the command.
pub fn run(global: &Global, flags: &Flags) -> Result<()> {
    let model = Model::open(&flags.model, global.talks());
    let model = model.map_err(|e| if flags.verify { damage(&flags.model, e) } else { e })?;
    let plan = &model.plan;
    let mut types: BTreeMap<String, (usize, u64)> = BTreeMap::new();
    let (mut tensors, mut parameters) = (Vec::new(), 0);
    for name in model.tensors.names() {
        let tensor = model.tensors.tensor(&name)?;
        let entry = types.entry(tensor.dtype().to_string()).or_default();
        entry.0 += 1;
        entry.1 += tensor.bytes().len() as u64;
        // Scales say how others are stored.
        if !name.ends_with("scale") && !name.ends_with("zero_point") {
            parameters += tensor.shape().iter().map(|&n| n as u64).product::<u64>();
        }
        tensors.push(json!({"name": name, "dtype": tensor.dtype().name(), "shape": tensor.shape()}));
    }
    let scheme = model.scheme.as_ref().map(|s| s.to_json());
    let problems = if flags.verify { Some(verify(&model)?) } else { None };
    let mut document = json!({
        "path": model.path.display().to_string(),
        "architecture": plan.arch.name,
        "layers": plan.layers, "hidden": plan.hidden, "heads": plan.nq, "kv_heads": plan.nkv, "head_dim": plan.d,
        "ffn": plan.ffn, "vocab": plan.vocab, "max_positions": plan.max_positions, "tied_head": plan.tied,
        "experts": experts(plan),
        "parameters": parameters,
        "active_parameters": parameters.saturating_sub(idle_weights(plan)),
        "bytes": model.bytes,
        "types": types.iter().map(|(t, (n, b))| (t.clone(), json!({"tensors": n, "bytes": b}))).collect::<serde_json::Map<_, _>>(),
        "quantization_config": scheme,
    });
    if flags.tensors {
        document["tensors"] = tensors.into();
    }
    if let Some(problems) = &problems {
        document["verified"] = problems.is_empty().into();
        document["problems"] = problems.clone().into();
    }
    if global.json {
        print_json(&document)?;
    } else {
        print(&table(&document, flags))?;
    }
    match problems {
        Some(problems) if !problems.is_empty() => bail!("{}", problems.join("; ")),
        _ => Ok(()),
    }
}

/// The mixture of a model, if it has one.
fn experts(plan: &Plan) -> Value {
    plan.experts.as_ref().map_or(Value::Null, |e| {
        json!({
            "count": e.routing.experts, "per_token": e.routing.chosen, "ffn": e.width, "shared_ffn": e.shared_width,
            "normalized": e.routing.normalize, "layers": e.layers.iter().filter(|mixture| **mixture).count(),
        })
    })
}

/// Weights of experts that one token does not read.
fn idle_weights(plan: &Plan) -> u64 {
    let idle = |layer| {
        let (all, active) = plan.block_weights(layer);
        (all - active) as u64
    };
    (0..plan.layers).map(idle).sum()
}

/// A model that does not open may be one that was damaged: the digests know the file.
fn damage(dir: &str, error: anyhow::Error) -> anyhow::Error {
    match planish_checkpoint::digests::verify(Path::new(dir)) {
        Ok(problems) if !problems.is_empty() => {
            let problems: Vec<String> = problems.iter().map(|p| p.to_string()).collect();
            error.context(problems.join("; "))
        }
        _ => error,
    }
}

fn verify(model: &Model) -> Result<Vec<String>> {
    if !model.path.is_dir() {
        bail!("{}: --verify needs a directory with planish_digests.json", model.path.display());
    }
    let problems = planish_checkpoint::digests::verify(&model.path)?;
    Ok(problems.iter().map(|p| p.to_string()).collect())
}

fn table(d: &Value, flags: &Flags) -> String {
    let mut text = format!(
        "{}\n  architecture  {} ({} layers, hidden {}, ffn {}, {} heads, {} kv heads of {})\n  vocabulary    {}{}\n",
        d["path"].as_str().unwrap_or_default(),
        d["architecture"].as_str().unwrap_or_default(),
        d["layers"],
        d["hidden"],
        d["ffn"],
        d["heads"],
        d["kv_heads"],
        d["head_dim"],
        d["vocab"],
        if d["tied_head"] == true { ", tied head" } else { "" },
    );
    if let Some(e) = d["experts"].as_object() {
        let shared = e["shared_ffn"].as_u64().map_or(String::new(), |f| format!(", and a shared one of ffn {f}"));
        let (layers, per_token) = (&e["layers"], &e["per_token"]);
        text += &format!(
            "  experts       {} of ffn {} in {layers} layers, {per_token} for each token",
            e["count"], e["ffn"]
        );
        text += &format!("{shared}\n");
    }
    let (all, active) = (d["parameters"].as_u64().unwrap_or(0), d["active_parameters"].as_u64().unwrap_or(0));
    text += &format!("  parameters    {}", millions(all));
    text += &if all == active { "\n".to_owned() } else { format!(", {} of them for each token\n", millions(active)) };
    text += &format!("  size          {}\n", human(d["bytes"].as_u64().unwrap_or(0)));
    for (name, t) in d["types"].as_object().into_iter().flatten() {
        text += &format!("  {name:12}  {} tensors, {}\n", t["tensors"], human(t["bytes"].as_u64().unwrap_or(0)));
    }
    text += &match d["quantization_config"].as_object() {
        Some(q) => {
            let kv = q.get("kv_cache_scheme").is_some_and(|kv| !kv.is_null());
            let kv = if kv { ", with scales of keys and values" } else { "" };
            format!("  quantized     {}, {}{kv}\n", q["quant_method"], q.get("format").unwrap_or(&q["quant_method"]))
        }
        None => "  quantized     no\n".to_owned(),
    };
    for t in d["tensors"].as_array().into_iter().flatten().filter(|_| flags.tensors) {
        text += &format!("  {} {} {}\n", t["name"].as_str().unwrap_or_default(), t["dtype"], t["shape"]);
    }
    if d["verified"] == true {
        text += "  digests       all bytes as written\n";
    }
    text
}

/// A count of parameters for people.
fn millions(n: u64) -> String {
    match n {
        0..1_000_000 => n.to_string(),
        1_000_000..1_000_000_000 => format!("{:.1} M", n as f64 / 1e6),
        _ => format!("{:.2} B", n as f64 / 1e9),
    }
}
