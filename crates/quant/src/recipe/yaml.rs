//! `recipe.yaml` in llm-compressor's schema: `<name>_stage` -> `<name>_modifiers` -> modifiers -> fields.
use super::modifiers::{Modifiers, preset, weight_modifier};
use super::{Activations, Pattern, Recipe, Smooth, WeightMethod, dtype_name, smooth_name};
use crate::error::{Error, Result};
use planish_tensor::Q8;
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
                    return Err(Error::Recipe(format!("{name}.{inner} is not supported; `…_modifiers` is")));
                }
            }
        } else if name != "args" {
            return Err(Error::Recipe(format!("{name} is not supported; `…_stage` and `…_modifiers` are")));
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
            line(1, format!("targets: {}", list(&recipe.targets)));
            line(1, format!("scheme: {scheme}"));
        }
        None => group(recipe).into_iter().for_each(|text| line(1, text)),
    }
    line(1, format!("ignore: {}", list(&recipe.ignore)));
    if recipe.weights == WeightMethod::Gptq {
        line(1, format!("block_size: {}", recipe.block_size));
        line(1, format!("dampening_frac: {}", number(&recipe.damping.to_string())));
        line(1, format!("actorder: {}", if recipe.act_order { "static" } else { "null" }));
    }
    out
}

/// A scheme without a preset, spelled out.
fn group(recipe: &Recipe) -> Vec<String> {
    let kind = match recipe.dtype {
        Q8::Int8 => "int",
        Q8::E4M3 => "float",
        Q8::E5M2 => dtype_name(Q8::E5M2),
    };
    let (strategy, dynamic) = match recipe.activations {
        Activations::Dynamic => ("token", true),
        Activations::Static => ("tensor", false),
    };
    let args = |strategy: &str, dynamic: bool| {
        format!("{{num_bits: 8, type: {kind}, symmetric: true, strategy: {strategy}, dynamic: {dynamic}}}")
    };
    vec![
        "config_groups:".into(),
        "  group_0:".into(),
        format!("    targets: {}", list(&recipe.targets)),
        format!("    weights: {}", args("channel", false)),
        format!("    input_activations: {}", args(strategy, dynamic)),
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
