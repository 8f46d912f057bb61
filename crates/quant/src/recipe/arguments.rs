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
    /// Whether GPTQ goes by importance, where it is said.
    pub act_order: Option<bool>,
}

/// What `config_groups` say: how linears are stored, and what all of them agree on.
pub(super) struct Groups {
    pub groups: Vec<RecipeGroup>,
    pub clips: bool,
    pub act_order: Option<bool>,
}

/// Reads `config_groups`; `default` are the modifier's own targets.
pub(super) fn groups(place: &str, value: &Value, default: &[Pattern]) -> Result<Groups> {
    let map = value.as_object().filter(|m| !m.is_empty()).ok_or_else(|| bad(place, "groups by name", value))?;
    let (mut groups, mut clips, mut orders) = (Vec::new(), Vec::new(), Vec::new());
    for (name, group) in map {
        // A preset's name may stand for a group, with its targets.
        let place = format!("{place}.{name}");
        if let Some(scheme) = super::modifiers::preset_named(name) {
            groups.push(RecipeGroup { targets: patterns(&place, group)?, scheme });
            clips.push(false);
            continue;
        }
        let group = group.as_object().ok_or_else(|| bad(&place, "a mapping of fields", group))?;
        let (read, weights) = one_group(&place, group, default)?;
        groups.push(read);
        clips.push(weights.clips);
        orders.extend(weights.act_order);
    }
    let one = |field: &str, values: &[bool]| match values.iter().all(|v| Some(v) == values.first()) {
        true => Ok(values.first().copied()),
        false => Err(Error::Recipe(format!("{place}.*.weights.{field}: expected one for all groups, found several"))),
    };
    Ok(Groups { groups, clips: one("observer", &clips)?.unwrap_or(false), act_order: one("actorder", &orders)? })
}

fn one_group(place: &str, group: &Map<String, Value>, default: &[Pattern]) -> Result<(RecipeGroup, Arguments)> {
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
    let weights = arguments(&weights_at, weights)?;
    let inputs_at = format!("{place}.input_activations");
    let inputs = said("input_activations").ok_or_else(|| {
        let problem = "expected 8-bit activations, found none; weight-only schemes are not made here";
        Error::Recipe(format!("{inputs_at}: {problem}"))
    })?;
    let observer = inputs.get("observer").cloned().unwrap_or_default();
    let inputs = arguments(&inputs_at, inputs)?;
    if inputs.clips && !inputs.dynamic {
        let expected = "that of the largest magnitude (static_minmax, minmax, memoryless_minmax)";
        return Err(bad(&format!("{inputs_at}.observer"), expected, &observer));
    }
    if inputs.act_order == Some(true) {
        return Err(bad(&format!("{inputs_at}.actorder"), "null, as activations have no order", &Value::Bool(true)));
    }
    if inputs.dtype != weights.dtype {
        return Err(Error::Recipe(format!("{inputs_at}.type: expected that of the weights, found another")));
    }
    let scheme =
        LinearScheme { weights: of_weights(&weights_at, &weights)?, activations: of_inputs(&inputs_at, &inputs)? };
    Ok((RecipeGroup { targets: targets.unwrap_or_else(|| default.to_vec()), scheme }, weights))
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

/// Understands one `QuantizationArgs`, what is not said as compressed-tensors infers it.
pub(super) fn arguments(place: &str, value: &Value) -> Result<Arguments> {
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
    check_plain(place, map)?;
    let (strategy, group_size, block) = strategy(place, map)?;
    Ok(Arguments {
        dtype,
        strategy,
        group_size,
        block,
        symmetric: flag("symmetric", true)?,
        dynamic: flag("dynamic", false)?,
        clips: said("observer").map(|v| clips(&at("observer"), v)).transpose()?.unwrap_or(false),
        exponents: said("scale_dtype").is_some_and(|v| v.as_str().is_some_and(|t| t.ends_with("uint8"))),
        act_order: said("actorder").map(|v| act_order(&at("actorder"), v)).transpose()?,
    })
}

/// Fields that may only say what is done anyway.
fn check_plain(place: &str, map: &Map<String, Value>) -> Result<()> {
    match map.get("observer_kwargs") {
        None | Some(Value::Null) => {}
        Some(Value::Object(kwargs)) if kwargs.is_empty() => {}
        Some(other) => {
            return Err(bad(&format!("{place}.observer_kwargs"), "none, as observers have no options", other));
        }
    }
    match map.get("zp_dtype") {
        None | Some(Value::Null) => Ok(()),
        Some(Value::String(name)) if name.trim_start_matches("torch.") == "int8" => Ok(()),
        Some(other) => Err(bad(&format!("{place}.zp_dtype"), "null or torch.int8", other)),
    }
}

/// The strategy with the sizes that it needs; sizes that it has no use for are refused.
fn strategy(place: &str, map: &Map<String, Value>) -> Result<(String, Option<usize>, Option<[usize; 2]>)> {
    let said = |name: &str| map.get(name).filter(|v| !v.is_null());
    let at = |name: &str| format!("{place}.{name}");
    let size = said("group_size").filter(|v| **v != -1);
    let group_size = size.map(|v| count(&at("group_size"), v)).transpose()?;
    let inferred = match (said("group_size"), group_size) {
        (_, Some(_)) => "group",
        (Some(_), None) => "channel",
        (None, None) => "tensor",
    };
    let strategy = said("strategy").map_or(Some(inferred), Value::as_str).unwrap_or_default();
    if !STRATEGIES.contains(&strategy) {
        let found = map["strategy"].to_string();
        return Err(Error::Recipe(format!("{place}: {}", unknown("strategy", found.trim_matches('"'), &STRATEGIES))));
    }
    if let (Some(size), false) = (size, matches!(strategy, "group" | "tensor_group")) {
        return Err(bad(&at("group_size"), &format!("none with strategy {strategy}"), size));
    }
    let block = said("block_structure").map(|v| block(&at("block_structure"), v)).transpose()?;
    if let (Some(sides), true) = (said("block_structure"), strategy != "block") {
        return Err(bad(&at("block_structure"), &format!("none with strategy {strategy}"), sides));
    }
    Ok((strategy.into(), group_size, block))
}

/// GPTQ's order of columns: whether the most important come first.
pub(super) fn act_order(place: &str, value: &Value) -> Result<bool> {
    match value.as_str().map(str::to_ascii_lowercase).as_deref() {
        Some("static" | "weight") => Ok(true),
        Some("none") => Ok(false),
        _ if value == &Value::Bool(false) => Ok(false),
        _ => Err(bad(place, "static, weight or null", value)),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(weights: &str, inputs: &str) -> Result<Groups> {
        let text = format!("{{g: {{weights: {{{weights}}}, input_activations: {{{inputs}}}}}}}");
        groups("config_groups", &serde_saphyr::from_str(&text).unwrap(), &[])
    }

    #[test]
    fn strategies_are_inferred_as_compressed_tensors_does() {
        let strategy = |weights: &str| read(weights, "").unwrap().groups[0].scheme.weights.strategy;
        assert_eq!(strategy(""), WeightStrategy::Tensor);
        assert_eq!(strategy("group_size: null"), WeightStrategy::Tensor);
        assert_eq!(strategy("group_size: -1"), WeightStrategy::Channel);
        assert_eq!(strategy("group_size: 64"), WeightStrategy::Group(64));
        assert_eq!(strategy("strategy: channel, group_size: -1"), WeightStrategy::Channel);
        let block = "strategy: block, block_structure: [128, 64]";
        assert_eq!(strategy(block), WeightStrategy::Block { rows: 128, columns: 64 });
    }

    #[test]
    fn what_would_change_numbers_is_not_passed_over() {
        for (weights, inputs, words) in [
            ("block_structure: [128, 128]", "", "g.weights.block_structure: expected none with strategy tensor"),
            ("strategy: channel, group_size: 64", "", "g.weights.group_size: expected none with strategy channel"),
            ("observer: mse, observer_kwargs: {maxshrink: 0.5}", "", "g.weights.observer_kwargs: expected none"),
            ("zp_dtype: torch.int4", "", "g.weights.zp_dtype: expected null or torch.int8"),
            ("actorder: group", "", "g.weights.actorder: expected static"),
            ("", "observer: mse", "g.input_activations.observer: expected that of the largest magnitude"),
            ("", "actorder: static", "g.input_activations.actorder: expected null"),
        ] {
            let said = read(weights, inputs).err().unwrap_or_else(|| panic!("{weights}; {inputs}")).to_string();
            assert!(said.contains(words), "{weights}; {inputs}: {said}");
        }
        let plain = "observer: memoryless_minmax, observer_kwargs: {}, zp_dtype: torch.int8, actorder: null";
        assert_eq!(read(plain, "observer: static_minmax, observer_kwargs: {}").unwrap().act_order, None);
        // Dynamic scales have no observer.
        read("", "observer: mse, strategy: token, dynamic: true").unwrap();
    }

    #[test]
    fn groups_agree_on_order_and_observer() {
        assert_eq!(read("actorder: false", "").unwrap().act_order, Some(false));
        assert!(read("observer: mse", "").unwrap().clips);
        let two = |a: &str, b: &str| {
            let group = |weights: &str| format!("{{weights: {{{weights}}}, input_activations: {{}}}}");
            let text = format!("{{a: {}, b: {}}}", group(a), group(b));
            groups("config_groups", &serde_saphyr::from_str(&text).unwrap(), &[]).map_err(|e| e.to_string())
        };
        assert_eq!(two("actorder: weight", "").map(|g| g.act_order), Ok(Some(true)));
        let said = two("actorder: weight", "actorder: false").err().unwrap();
        assert!(said.contains("config_groups.*.weights.actorder: expected one for all groups"), "{said}");
        let said = two("observer: mse", "observer: minmax").err().unwrap();
        assert!(said.contains("config_groups.*.weights.observer: expected one for all groups"), "{said}");
    }
}
