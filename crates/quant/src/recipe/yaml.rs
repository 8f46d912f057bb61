//! `recipe.yaml` in llm-compressor's schema: `<name>_stage` -> `<name>_modifiers` -> modifiers -> fields.
use super::modifiers::{Modifiers, preset, weight_modifier};
use super::{Pattern, Recipe, RecipeGroup, Smooth, WeightMethod, smooth_name};
use crate::error::{Error, Result};
use planish_checkpoint::nearest::nearest;
use planish_checkpoint::scheme::{ActQuant, ActUnit, QuantType, ScaleType, WeightStrategy};
use serde_json::{Map, Value};

/// Understands the text of a recipe; JSON is YAML too.
pub(super) fn read(text: &str) -> Result<Modifiers> {
    // llm-compressor itself writes pairs with a tag that its own reader refuses. They are lists.
    let text = text.replace("!!python/tuple", "");
    let root: Value = serde_saphyr::from_str(&text).map_err(|e| Error::Recipe(format!("not valid YAML: {e}")))?;
    let root = root.as_object().ok_or_else(|| Error::Recipe("expected stages or modifiers at the top".into()))?;
    let mut found = Vec::new();
    for (name, value) in root {
        if name.ends_with("_modifiers") {
            found.push(object(name, value)?);
        } else if name.ends_with("_stage") || name == "stage" {
            for (inner, value) in object(name, value)? {
                if inner.ends_with("_modifiers") {
                    found.push(object(inner, value)?);
                } else if inner != "args" && inner != "run_type" {
                    return Err(Error::Recipe(format!("{name}.{}", misnamed(inner, &["…_modifiers"]))));
                }
            }
        } else if name != "args" {
            return Err(Error::Recipe(misnamed(name, &["…_stage", "…_modifiers"])));
        }
    }
    let mut all = Map::new();
    for (name, fields) in found.into_iter().flatten() {
        if all.insert(name.clone(), fields.clone()).is_some() {
            return Err(Error::Recipe(format!("{name} appears twice")));
        }
    }
    Modifiers::read(&all)
}

/// A key whose last part is nearly one of these gets it named.
fn misnamed(name: &str, endings: &[&str]) -> String {
    let (start, end) = name.rsplit_once('_').unwrap_or(("", name));
    let known: Vec<&str> = endings.iter().map(|e| e.trim_start_matches("…_")).collect();
    match nearest(end, &known) {
        Some(near) if !start.is_empty() => format!("{name} is not known; did you mean {start}_{near}?"),
        _ => {
            format!("{name} is not supported; {} {}", endings.join(" and "), if known.len() > 1 { "are" } else { "is" })
        }
    }
}

fn object<'a>(name: &str, value: &'a Value) -> Result<&'a Map<String, Value>> {
    value.as_object().ok_or_else(|| Error::Recipe(format!("{name}: expected a mapping, found {value}")))
}

/// Writes what was decided about the model. Calibration and layout are no part of the schema.
pub(super) fn write(recipe: &Recipe) -> String {
    let mut out = String::from("default_stage:\n  default_modifiers:\n");
    let mut line = |indent: usize, text: String| {
        out.push_str(&" ".repeat(4 + 2 * indent));
        out.push_str(&text);
        out.push('\n');
    };
    if recipe.smooth != Smooth::Off {
        line(0, "SmoothQuantModifier:".into());
        line(1, format!("smoothing_strength: {}", number(&smooth_name(recipe.smooth))));
        if let Some(mappings) = &recipe.mappings {
            line(1, "mappings:".into());
            for m in mappings {
                line(1, format!("- [{}, {}]", list(&m.balance), quoted(m.smooth.text())));
            }
        }
        line(1, format!("ignore: {}", list(&recipe.smooth_ignore)));
    }
    line(0, format!("{}:", weight_modifier(recipe.weights)));
    match preset(recipe) {
        Some(scheme) => {
            line(1, format!("targets: {}", list(&recipe.groups[0].targets)));
            line(1, format!("scheme: {scheme}"));
        }
        None => {
            line(1, "config_groups:".into());
            for (i, group) in recipe.groups.iter().enumerate() {
                line(2, format!("group_{i}:"));
                spelled_out(group).into_iter().for_each(|text| line(3, text));
            }
        }
    }
    line(1, format!("ignore: {}", list(&recipe.ignore)));
    if recipe.clip {
        line(1, "weight_observer: memoryless_mse".into());
    }
    if recipe.kv_cache.is_some() {
        line(1, format!("kv_cache_scheme: {}", super::kv::SAID));
    }
    if recipe.weights == WeightMethod::Gptq {
        line(1, format!("block_size: {}", recipe.block_size));
        line(1, format!("dampening_frac: {}", number(&recipe.damping.to_string())));
        line(1, format!("actorder: {}", if recipe.act_order { "static" } else { "null" }));
    }
    out
}

/// A group in compressed-tensors' words.
fn spelled_out(group: &RecipeGroup) -> Vec<String> {
    let scheme = &group.scheme;
    let kind = match scheme.weights.dtype {
        QuantType::Int8 => "int",
        QuantType::Fp8E4M3 => "float",
        QuantType::Fp8E5M2 => "float8_e5m2",
    };
    let args = |strategy: &str, symmetric: bool, dynamic: bool, more: String| {
        format!("{{num_bits: 8, type: {kind}, symmetric: {symmetric}, strategy: {strategy}, dynamic: {dynamic}{more}}}")
    };
    let exponents = if scheme.weights.scale == ScaleType::Exponent { ", scale_dtype: torch.uint8" } else { "" };
    let (strategy, more) = match scheme.weights.strategy {
        WeightStrategy::Channel => ("channel", String::new()),
        WeightStrategy::Tensor => ("tensor", String::new()),
        WeightStrategy::Block { rows, columns } => ("block", format!(", block_structure: [{rows}, {columns}]")),
        WeightStrategy::Group(size) => ("group", format!(", group_size: {size}")),
    };
    let weights = args(strategy, true, false, more + exponents);
    let inputs = match scheme.activations {
        ActQuant::None => "null".into(),
        ActQuant::Static { symmetric } => args("tensor", symmetric, false, String::new()),
        ActQuant::Dynamic { unit: ActUnit::Token, symmetric } => args("token", symmetric, true, String::new()),
        ActQuant::Dynamic { unit: ActUnit::Tensor, symmetric } => args("tensor", symmetric, true, String::new()),
        ActQuant::Dynamic { unit: ActUnit::Group(size), symmetric } => {
            args("group", symmetric, true, format!(", group_size: {size}"))
        }
    };
    vec![
        format!("targets: {}", list(&group.targets)),
        format!("weights: {weights}"),
        format!("input_activations: {inputs}"),
    ]
}

/// A whole number gets a point, so that it is read as the float that the field is.
fn number(text: &str) -> String {
    if text.bytes().all(|b| b.is_ascii_digit()) { format!("{text}.0") } else { text.into() }
}

fn list(patterns: &[Pattern]) -> String {
    let names: Vec<_> = patterns.iter().map(|p| quoted(p.text())).collect();
    format!("[{}]", names.join(", "))
}

/// Plain where YAML allows it, single-quoted otherwise.
fn quoted(text: &str) -> String {
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "._-".contains(c));
    if plain { text.into() } else { format!("'{}'", text.replace('\'', "''")) }
}
