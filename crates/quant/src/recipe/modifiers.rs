//! The modifiers of llm-compressor's recipes that this tool has, field by field.
use super::{Activations, Mapping, Pattern, Recipe, Smooth, WeightMethod, parse_smooth};
use crate::error::{Error, Result};
use planish_tensor::Q8;
use serde_json::{Map, Value};

/// What a recipe says (or the defaults say) about changing the model.
pub(super) struct Modifiers {
    pub dtype: Q8,
    pub scheme: String,
    pub smooth: Smooth,
    pub mappings: Option<Vec<Mapping>>,
    pub smooth_ignore: Vec<Pattern>,
    pub weights: WeightMethod,
    pub block_size: usize,
    pub damping: f64,
    pub act_order: bool,
    pub activations: Activations,
    pub targets: Vec<Pattern>,
    pub ignore: Vec<Pattern>,
}

/// Fields that change nothing here.
const SILENT: &[&str] = &[
    "requires_calibration_data",
    "bypass_divisibility_checks",
    "batched_quantization",
    "offload_hessians",
    "num_calibration_steps",
    "calibration_function",
    "start",
    "end",
    "index",
    "group",
    "update",
];

impl Modifiers {
    /// The defaults of an element type without a recipe.
    pub fn defaults(dtype: Q8) -> Modifiers {
        let int8 = dtype == Q8::Int8;
        let exact = |name: &str| Pattern::new(name).into_iter().collect::<Vec<_>>();
        Modifiers {
            dtype,
            scheme: String::new(),
            smooth: if int8 { Smooth::Alpha(0.8) } else { Smooth::Off },
            mappings: None,
            smooth_ignore: vec![],
            weights: if int8 { WeightMethod::Gptq } else { WeightMethod::Rtn },
            block_size: 128,
            damping: 0.01,
            act_order: true,
            activations: Activations::Dynamic,
            targets: exact("Linear"),
            ignore: exact("lm_head"),
        }
    }

    /// Applies the modifiers in their order.
    pub fn read(modifiers: &Map<String, Value>) -> Result<Modifiers> {
        let mut out = Modifiers { smooth: Smooth::Off, ignore: vec![], ..Modifiers::defaults(Q8::Int8) };
        let mut quantized = false;
        for (name, fields) in modifiers {
            let empty = Map::new();
            let fields = match fields {
                Value::Object(fields) => fields,
                Value::Null => &empty,
                other => return Err(bad(name, "a mapping of fields", other)),
            };
            match name.as_str() {
                "SmoothQuantModifier" if quantized => {
                    return Err(Error::Recipe(
                        "SmoothQuantModifier stands after the quantization; put it first".into(),
                    ));
                }
                "SmoothQuantModifier" => out.read_smooth(fields)?,
                "GPTQModifier" | "QuantizationModifier" if quantized => {
                    return Err(Error::Recipe(format!("{name} is a second quantization; one is supported")));
                }
                "GPTQModifier" => out.read_quantization(name, WeightMethod::Gptq, fields)?,
                "QuantizationModifier" => out.read_quantization(name, WeightMethod::Rtn, fields)?,
                _ => {
                    let known = "SmoothQuantModifier, GPTQModifier and QuantizationModifier";
                    return Err(Error::Recipe(format!("{name} is not supported; {known} are")));
                }
            }
            quantized |= name != "SmoothQuantModifier";
        }
        if !quantized {
            return Err(Error::Recipe("no GPTQModifier or QuantizationModifier in it".into()));
        }
        Ok(out)
    }

    fn read_smooth(&mut self, fields: &Map<String, Value>) -> Result<()> {
        self.smooth = Smooth::Alpha(0.5); // llm-compressor's own default
        for (field, value) in fields.iter().filter(|(_, v)| !v.is_null()) {
            let place = format!("SmoothQuantModifier.{field}");
            match field.as_str() {
                "smoothing_strength" => {
                    let text = value.as_str().map_or_else(|| value.to_string(), str::to_string);
                    self.smooth = parse_smooth(&place, &text)?;
                }
                "mappings" => self.mappings = Some(mappings(&place, value)?),
                "ignore" => self.smooth_ignore = patterns(&place, value)?,
                "algorithm" if value == "smoothquant" => {}
                "algorithm" => return Err(bad(&place, "smoothquant", value)),
                name if SILENT.contains(&name) => {}
                _ => return Err(Error::Recipe(format!("{place} is not supported"))),
            }
        }
        Ok(())
    }

    fn read_quantization(&mut self, name: &str, weights: WeightMethod, fields: &Map<String, Value>) -> Result<()> {
        self.weights = weights;
        let mut described = 0;
        for (field, value) in fields.iter().filter(|(_, v)| !v.is_null()) {
            let place = format!("{name}.{field}");
            match field.as_str() {
                "targets" => self.targets = patterns(&place, value)?,
                "ignore" => self.ignore = patterns(&place, value)?,
                "scheme" => {
                    self.read_scheme(&place, value)?;
                    described += 1;
                }
                "config_groups" => {
                    self.read_group(&place, value)?;
                    described += 1;
                }
                "block_size" | "dampening_frac" | "actorder" => self.read_gptq(&place, field, value)?,
                field if SILENT.contains(&field) => {}
                _ => return Err(Error::Recipe(format!("{place} is not supported"))),
            }
        }
        if fields.get("actorder").is_some_and(Value::is_null) {
            self.act_order = false;
        }
        if described != 1 {
            let problem = "needs one of scheme and config_groups";
            return Err(Error::Recipe(format!("{name} {problem}, found {described} of them")));
        }
        Ok(())
    }

    fn read_gptq(&mut self, place: &str, field: &str, value: &Value) -> Result<()> {
        match field {
            "block_size" => match value.as_u64().and_then(|n| usize::try_from(n).ok()) {
                Some(n) if n > 0 => self.block_size = n,
                _ => return Err(bad(place, "a number above 0", value)),
            },
            "dampening_frac" => match value.as_f64() {
                Some(damping) if damping > 0.0 && damping <= 1.0 => self.damping = damping,
                _ => return Err(bad(place, "a number above 0, at most 1", value)),
            },
            _ => match value.as_str().map(str::to_ascii_lowercase).as_deref() {
                Some("static" | "weight") => self.act_order = true,
                Some("none") => self.act_order = false,
                _ if value == &Value::Bool(false) => self.act_order = false,
                _ => return Err(bad(place, "static, weight or null", value)),
            },
        }
        Ok(())
    }

    fn read_scheme(&mut self, place: &str, value: &Value) -> Result<()> {
        let mut scheme = value.as_str();
        if let Some(map) = value.as_object().filter(|m| m.len() == 1) {
            for (name, targets) in map {
                scheme = Some(name);
                self.targets = patterns(place, targets)?;
            }
        }
        let known = "W8A8, INT8, FP8_DYNAMIC or FP8_E5M2_DYNAMIC (FP8, per tensor, by config_groups with channels)";
        self.dtype = match scheme.map(str::to_ascii_uppercase).as_deref() {
            Some("W8A8" | "INT8") => Q8::Int8,
            Some("FP8_DYNAMIC") => Q8::E4M3,
            Some("FP8_E5M2_DYNAMIC") => Q8::E5M2,
            _ => return Err(bad(place, known, value)),
        };
        (self.scheme, self.activations) = (scheme.unwrap_or_default().into(), Activations::Dynamic);
        Ok(())
    }

    fn read_group(&mut self, place: &str, value: &Value) -> Result<()> {
        let Some((name, group)) = value.as_object().filter(|m| m.len() == 1).and_then(|m| m.iter().next()) else {
            return Err(bad(place, "one group", value));
        };
        let place = format!("{place}.{name}");
        let (weights, activations) = (&group["weights"], &group["input_activations"]);
        let eight = |v: &Value| v["num_bits"] == 8 && v["symmetric"] == true;
        let channel = eight(weights) && weights["strategy"] == "channel" && weights["dynamic"] != true;
        if !channel || weights["type"] != activations["type"] {
            return Err(bad(&format!("{place}.weights"), "8 bits, symmetric, per channel", weights));
        }
        self.activations = match (activations["strategy"].as_str(), &activations["dynamic"]) {
            (Some("token"), Value::Bool(true)) if eight(activations) => Activations::Dynamic,
            (Some("tensor"), Value::Bool(false)) if eight(activations) => Activations::Static,
            _ => {
                let expected = "8 bits, symmetric, per token dynamic or per tensor static";
                return Err(bad(&format!("{place}.input_activations"), expected, activations));
            }
        };
        self.dtype = match weights["type"].as_str() {
            Some("int") => Q8::Int8,
            Some("float") => Q8::E4M3,
            Some("float8_e5m2") => Q8::E5M2,
            _ => return Err(bad(&format!("{place}.weights.type"), "int, float or float8_e5m2", &weights["type"])),
        };
        if !group["targets"].is_null() {
            self.targets = patterns(&format!("{place}.targets"), &group["targets"])?;
        }
        self.scheme = format!("{name} ({})", super::dtype_name(self.dtype));
        Ok(())
    }
}

/// Name of the modifier of a weight method.
pub(super) fn weight_modifier(weights: WeightMethod) -> &'static str {
    match weights {
        WeightMethod::Gptq => "GPTQModifier",
        WeightMethod::Rtn => "QuantizationModifier",
    }
}

/// The preset that says the same as a recipe, if there is one.
pub(super) fn preset(recipe: &Recipe) -> Option<&'static str> {
    match (recipe.activations, recipe.dtype) {
        (Activations::Static, _) => None,
        (Activations::Dynamic, Q8::Int8) => Some("W8A8"),
        (Activations::Dynamic, Q8::E4M3) => Some("FP8_DYNAMIC"),
        (Activations::Dynamic, Q8::E5M2) => Some("FP8_E5M2_DYNAMIC"),
    }
}

fn patterns(place: &str, value: &Value) -> Result<Vec<Pattern>> {
    match value {
        Value::String(name) => Ok(vec![Pattern::new(name)?]),
        Value::Array(names) => names
            .iter()
            .map(|name| name.as_str().ok_or_else(|| bad(place, "names", name)).and_then(Pattern::new))
            .collect(),
        other => Err(bad(place, "a name or a list of names", other)),
    }
}

fn mappings(place: &str, value: &Value) -> Result<Vec<Mapping>> {
    let pair = |entry: &Value| {
        let sides = entry.as_array().filter(|sides| sides.len() == 2);
        let sides = sides.ok_or_else(|| bad(place, "pairs of [linears, norm]", entry))?;
        let mut smooth = patterns(place, &sides[1])?;
        match (smooth.pop(), smooth.is_empty()) {
            (Some(smooth), true) => Ok(Mapping { balance: patterns(place, &sides[0])?, smooth }),
            _ => Err(bad(place, "one norm", &sides[1])),
        }
    };
    value.as_array().ok_or_else(|| bad(place, "a list of pairs", value))?.iter().map(pair).collect()
}

fn bad(place: &str, expected: &str, found: &Value) -> Error {
    let found = found.to_string();
    let short: String = found.chars().take(120).collect();
    Error::Recipe(format!("{place}: expected {expected}, found {short}"))
}
