//! `config_groups` of a recipe: compressed-tensors' `QuantizationArgs`, every key checked.
use super::modifiers::{bad, patterns};
use super::{Pattern, RecipeGroup};
use crate::error::{Error, Result};
use planish_checkpoint::nearest::unknown;
use planish_checkpoint::scheme::{ActQuant, ActUnit, LinearScheme, QuantType, ScaleType, WeightQuant, WeightStrategy};
use serde_json::{Map, Value};

const GROUP: [&str; 5] = ["targets", "weights", "input_activations", "output_activations", "format"];
const ARGUMENTS: [&str; 12] = [
    "actorder",
    "block_structure",
    "dynamic",
    "group_size",
    "num_bits",
    "observer",
    "observer_kwargs",
    "scale_dtype",
    "strategy",
    "symmetric",
    "type",
    "zp_dtype",
];
const STRATEGIES: [&str; 6] = ["tensor", "channel", "token", "group", "block", "tensor_group"];

/// One `QuantizationArgs`, decided.
pub(super) struct Arguments {
    pub dtype: QuantType,
    pub strategy: String,
    pub group_size: Option<usize>,
    pub block: Option<[usize; 2]>,
    pub symmetric: bool,
    pub dynamic: bool,
    /// A look for better scales than those of the largest magnitude.
    pub clips: bool,
    pub exponents: bool,
}

/// Reads `config_groups`; `default` are the modifier's own targets.
pub(super) fn groups(place: &str, value: &Value, default: &[Pattern]) -> Result<(Vec<RecipeGroup>, bool)> {
    let map = value.as_object().filter(|m| !m.is_empty()).ok_or_else(|| bad(place, "groups by name", value))?;
    let (mut out, mut clips) = (Vec::new(), false);
    for (name, group) in map {
        // A preset's name may stand for a group, with its targets.
        let place = format!("{place}.{name}");
        if let Some(scheme) = super::modifiers::preset_named(name) {
            out.push(RecipeGroup { targets: patterns(&place, group)?, scheme });
            continue;
        }
        let group = group.as_object().ok_or_else(|| bad(&place, "a mapping of fields", group))?;
        let (read, clip) = one_group(&place, group, default)?;
        clips |= clip;
        out.push(read);
    }
    Ok((out, clips))
}

fn one_group(place: &str, group: &Map<String, Value>, default: &[Pattern]) -> Result<(RecipeGroup, bool)> {
    if let Some(field) = group.keys().find(|k| !GROUP.contains(&k.as_str())) {
        return Err(Error::Recipe(format!("{place}: {}", unknown("field", field, &GROUP))));
    }
    let said = |name: &str| group.get(name).filter(|v| !v.is_null());
    if let Some(output) = said("output_activations") {
        return Err(bad(&format!("{place}.output_activations"), "null (outputs stay in float)", output));
    }
    let targets = said("targets").map(|v| patterns(&format!("{place}.targets"), v)).transpose()?;
    let weights_at = format!("{place}.weights");
    let weights =
        said("weights").ok_or_else(|| Error::Recipe(format!("{weights_at}: expected 8-bit weights, found none")))?;
    let weights = arguments(&weights_at, weights, "channel")?;
    let inputs_at = format!("{place}.input_activations");
    let inputs = said("input_activations").ok_or_else(|| {
        let problem = "expected 8-bit activations, found none; weight-only schemes are not made here";
        Error::Recipe(format!("{inputs_at}: {problem}"))
    })?;
    let inputs = arguments(&inputs_at, inputs, "tensor")?;
    if inputs.dtype != weights.dtype {
        return Err(Error::Recipe(format!("{inputs_at}.type: expected that of the weights, found another")));
    }
    let scheme =
        LinearScheme { weights: of_weights(&weights_at, &weights)?, activations: of_inputs(&inputs_at, &inputs)? };
    Ok((RecipeGroup { targets: targets.unwrap_or_else(|| default.to_vec()), scheme }, weights.clips))
}

fn of_weights(place: &str, a: &Arguments) -> Result<WeightQuant> {
    let refuse =
        |expected: &str, found: &str| Err(Error::Recipe(format!("{place}: expected {expected}, found {found}")));
    if !a.symmetric || a.dynamic {
        return refuse(
            "symmetric weights with stored scales",
            if a.dynamic { "dynamic: true" } else { "symmetric: false" },
        );
    }
    let strategy = match (a.strategy.as_str(), a.group_size, a.block) {
        ("channel", ..) => WeightStrategy::Channel,
        ("tensor", ..) => WeightStrategy::Tensor,
        ("group", Some(size), _) => WeightStrategy::Group(size),
        ("block", _, Some([rows, columns])) => WeightStrategy::Block { rows, columns },
        ("group", ..) => return refuse("group_size", "none"),
        ("block", ..) => return refuse("block_structure", "none"),
        (other, ..) => return refuse("strategy channel, tensor, group or block", other),
    };
    let scale = if a.exponents { ScaleType::Exponent } else { ScaleType::Float };
    Ok(WeightQuant { dtype: a.dtype, strategy, scale, act_order: false })
}

fn of_inputs(place: &str, a: &Arguments) -> Result<ActQuant> {
    let symmetric = a.symmetric;
    match (a.strategy.as_str(), a.dynamic, a.group_size) {
        ("token", true, _) => Ok(ActQuant::Dynamic { unit: ActUnit::Token, symmetric }),
        ("tensor", true, _) => Ok(ActQuant::Dynamic { unit: ActUnit::Tensor, symmetric }),
        ("tensor", false, _) => Ok(ActQuant::Static { symmetric }),
        ("group", true, Some(size)) => Ok(ActQuant::Dynamic { unit: ActUnit::Group(size), symmetric }),
        ("token", false, _) => Err(Error::Recipe(format!("{place}: strategy token is dynamic; found dynamic: false"))),
        (other, ..) => {
            let expected = "strategy token or tensor, or group (dynamic, with group_size)";
            Err(Error::Recipe(format!("{place}: expected {expected}, found {other}")))
        }
    }
}

/// Understands one `QuantizationArgs`; `inferred` is the strategy where none is said.
pub(super) fn arguments(place: &str, value: &Value, inferred: &str) -> Result<Arguments> {
    let map = value.as_object().ok_or_else(|| bad(place, "a mapping of fields", value))?;
    if let Some(key) = map.keys().find(|k| !ARGUMENTS.contains(&k.as_str())) {
        return Err(Error::Recipe(format!("{place}: {}", unknown("field", key, &ARGUMENTS))));
    }
    let said = |name: &str| map.get(name).filter(|v| !v.is_null());
    let at = |name: &str| format!("{place}.{name}");
    let flag = |name: &str, default: bool| match said(name) {
        None => Ok(default),
        Some(Value::Bool(b)) => Ok(*b),
        Some(other) => Err(bad(&at(name), "true or false", other)),
    };
    match said("num_bits").map_or(Some(8), Value::as_u64) {
        Some(8) => {}
        _ => return Err(bad(&at("num_bits"), "8", &map["num_bits"])),
    }
    let dtype = match said("type").map_or(Some("int"), Value::as_str) {
        Some("int") => QuantType::Int8,
        Some("float") => QuantType::Fp8E4M3,
        Some("float8_e5m2") => QuantType::Fp8E5M2,
        _ => return Err(bad(&at("type"), "int, float or float8_e5m2", &map["type"])),
    };
    let size = said("group_size").filter(|v| **v != -1);
    let group_size = size.map(|v| count(&at("group_size"), v)).transpose()?;
    let inferred = if group_size.is_some() { "group" } else { inferred };
    let strategy = said("strategy").map_or(Some(inferred), Value::as_str).unwrap_or_default();
    if !STRATEGIES.contains(&strategy) {
        let strategy = map["strategy"].to_string();
        return Err(Error::Recipe(format!(
            "{place}: {}",
            unknown("strategy", strategy.trim_matches('"'), &STRATEGIES)
        )));
    }
    Ok(Arguments {
        dtype,
        strategy: strategy.into(),
        group_size,
        block: said("block_structure").map(|v| block(&at("block_structure"), v)).transpose()?,
        symmetric: flag("symmetric", true)?,
        dynamic: flag("dynamic", false)?,
        clips: said("observer").map(|v| clips(&at("observer"), v)).transpose()?.unwrap_or(false),
        exponents: said("scale_dtype").is_some_and(|v| v.as_str().is_some_and(|t| t.ends_with("uint8"))),
    })
}

/// Observers that take the largest magnitude, and those that look for a better scale.
pub(super) fn clips(place: &str, value: &Value) -> Result<bool> {
    const PLAIN: [&str; 3] = ["memoryless_minmax", "static_minmax", "minmax"];
    const SEARCH: [&str; 3] = ["memoryless_mse", "mse", "imatrix_mse"];
    match value.as_str() {
        Some(name) if PLAIN.contains(&name) => Ok(false),
        Some(name) if SEARCH.contains(&name) => Ok(true),
        Some(name) => Err(Error::Recipe(format!("{place}: {}", unknown("observer", name, &[PLAIN, SEARCH].concat())))),
        None => Err(bad(place, "the name of an observer", value)),
    }
}

fn count(place: &str, value: &Value) -> Result<usize> {
    let number = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| *n > 0);
    number.ok_or_else(|| bad(place, "a number above 0", value))
}

/// `[rows, columns]`, or the older `"rowsxcolumns"`.
fn block(place: &str, value: &Value) -> Result<[usize; 2]> {
    let sides: Vec<Value> = match value {
        Value::Array(sides) => sides.clone(),
        Value::String(text) => {
            text.split('x').map(|side| side.parse::<u64>().map_or(Value::Null, Value::from)).collect()
        }
        _ => Vec::new(),
    };
    match &sides[..] {
        [rows, columns] => Ok([count(place, rows)?, count(place, columns)?]),
        _ => Err(bad(place, "[rows, columns]", value)),
    }
}
