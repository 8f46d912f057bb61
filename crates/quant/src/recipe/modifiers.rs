//! The modifiers of llm-compressor's recipes that this tool has, field by field.
use super::presets::{OTHERS, PRESETS, dynamic};
use super::{Mapping, Pattern, Recipe, RecipeGroup, Smooth, WeightMethod, arguments, kv, parse_smooth};
use crate::error::{Error, Result};
use planish_checkpoint::nearest::{nearest, unknown};
use planish_checkpoint::scheme::{LinearScheme, QuantType};
use serde_json::{Map, Value};

/// What a recipe says (or the defaults say) about changing the model.
pub(super) struct Modifiers {
    pub groups: Vec<RecipeGroup>,
    /// The scheme in the words of the recipe.
    pub scheme: String,
    pub smooth: Smooth,
    pub mappings: Option<Vec<Mapping>>,
    pub smooth_ignore: Vec<Pattern>,
    pub weights: WeightMethod,
    pub block_size: usize,
    pub damping: f64,
    pub act_order: bool,
    /// Whether scales are searched; `None` where nothing is said.
    pub clip: Option<bool>,
    /// Type of a cache with stored scales.
    pub kv_cache: Option<QuantType>,
    pub ignore: Vec<Pattern>,
}

/// The modifiers that this tool has.
const KNOWN: [&str; 3] = ["SmoothQuantModifier", "GPTQModifier", "QuantizationModifier"];
/// Modifiers of llm-compressor that it has not.
const FOREIGN: [&str; 11] = [
    "AWQModifier",
    "AutoRoundModifier",
    "ConstantPruningModifier",
    "LogarithmicEqualizationModifier",
    "MagnitudePruningModifier",
    "QuIPModifier",
    "REAPPruningModifier",
    "SparseGPTModifier",
    "SpinQuantModifier",
    "WandaPruningModifier",
    "iMatrixGatherer",
];
const SMOOTH_FIELDS: [&str; 4] = ["smoothing_strength", "mappings", "ignore", "algorithm"];
const QUANT_FIELDS: [&str; 12] = [
    "targets",
    "ignore",
    "scheme",
    "config_groups",
    "kv_cache_scheme",
    "weight_observer",
    "input_observer",
    "output_observer",
    "observer",
    "block_size",
    "dampening_frac",
    "actorder",
];
/// Fields that change nothing here.
const SILENT: [&str; 9] = [
    "requires_calibration_data",
    "bypass_divisibility_checks",
    "batched_quantization",
    "offload_hessians",
    "num_calibration_steps",
    "calibration_function",
    "index",
    "group",
    "update",
];
/// Fields of every modifier that must not say anything.
const TIMES: [&str; 2] = ["start", "end"];

impl Modifiers {
    /// The defaults of an element type without a recipe.
    pub fn defaults(dtype: QuantType) -> Modifiers {
        let int8 = dtype == QuantType::Int8;
        let exact = |name: &str| Pattern::new(name).into_iter().collect::<Vec<_>>();
        Modifiers {
            groups: vec![RecipeGroup { targets: exact("Linear"), scheme: dynamic(dtype) }],
            scheme: String::new(),
            smooth: if int8 { Smooth::Alpha(0.8) } else { Smooth::Off },
            mappings: None,
            smooth_ignore: vec![],
            weights: if int8 { WeightMethod::Gptq } else { WeightMethod::Rtn },
            block_size: 128,
            damping: 0.01,
            act_order: true,
            clip: None,
            kv_cache: None,
            ignore: exact("lm_head"),
        }
    }

    /// How a linear of this name is quantized.
    pub fn of(&self, name: &str) -> Option<&LinearScheme> {
        super::ranked(&self.groups, &self.ignore, name)
    }

    /// Applies the modifiers in their order.
    pub fn read(modifiers: &Map<String, Value>) -> Result<Modifiers> {
        let mut out = Modifiers { smooth: Smooth::Off, ignore: vec![], ..Modifiers::defaults(QuantType::Int8) };
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
                    let problem = "SmoothQuantModifier stands after the quantization; put it first";
                    return Err(Error::Recipe(problem.into()));
                }
                "SmoothQuantModifier" => out.read_smooth(fields)?,
                "GPTQModifier" | "QuantizationModifier" if quantized => {
                    return Err(Error::Recipe(format!("{name} is a second quantization; one is supported")));
                }
                "GPTQModifier" => out.read_quantization(name, WeightMethod::Gptq, fields)?,
                "QuantizationModifier" => out.read_quantization(name, WeightMethod::Rtn, fields)?,
                _ => return Err(Error::Recipe(unknown_modifier(name))),
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
                name => silent("SmoothQuantModifier", name, value, &SMOOTH_FIELDS)?,
            }
        }
        Ok(())
    }

    fn read_quantization(&mut self, name: &str, weights: WeightMethod, fields: &Map<String, Value>) -> Result<()> {
        self.weights = weights;
        let said = |field: &str| fields.get(field).filter(|v| !v.is_null());
        let targets = said("targets").map(|v| patterns(&format!("{name}.targets"), v)).transpose()?;
        let targets = targets.unwrap_or_else(|| self.groups[0].targets.clone());
        for (field, value) in fields.iter().filter(|(_, v)| !v.is_null()) {
            let place = format!("{name}.{field}");
            match field.as_str() {
                "targets" => {}
                "ignore" => self.ignore = patterns(&place, value)?,
                "scheme" => self.read_scheme(&place, value, &targets)?,
                "config_groups" => {
                    let read = arguments::groups(&place, value, &targets)?;
                    self.scheme =
                        value.as_object().map_or(String::new(), |m| m.keys().cloned().collect::<Vec<_>>().join(", "));
                    self.groups = read.groups;
                    self.clip = self.clip.or(read.clips.then_some(true));
                    self.take_order(name, fields.get("actorder"), read.act_order)?;
                }
                "weight_observer" => self.clip = Some(arguments::clips(&place, value)?),
                "observer" => self.read_observer(&place, value)?,
                "block_size" | "dampening_frac" | "actorder" if weights == WeightMethod::Gptq => {
                    self.read_gptq(&place, field, value)?;
                }
                "kv_cache_scheme" => self.kv_cache = Some(kv::scheme(&place, value)?),
                "input_observer" | "output_observer" => {
                    return Err(Error::Recipe(format!("{place} is not supported; leave it out")));
                }
                field => {
                    let rtn: Vec<&str> = QUANT_FIELDS[..9].to_vec();
                    silent(name, field, value, if weights == WeightMethod::Gptq { &QUANT_FIELDS } else { &rtn })?;
                }
            }
        }
        if fields.get("actorder").is_some_and(Value::is_null) {
            self.act_order = false;
        }
        match (said("scheme").is_some(), said("config_groups").is_some()) {
            (true, false) | (false, true) => Ok(()),
            (both, _) => {
                let found = if both { "both" } else { "neither" };
                Err(Error::Recipe(format!("{name} needs one of scheme and config_groups, found {found}")))
            }
        }
    }

    /// The order of columns that groups say, which a modifier's own must not contradict.
    fn take_order(&mut self, name: &str, own: Option<&Value>, groups: Option<bool>) -> Result<()> {
        let Some(order) = groups else { return Ok(()) };
        let place = format!("{name}.actorder");
        let own = own.map(|v| if v.is_null() { Ok(false) } else { arguments::act_order(&place, v) }).transpose()?;
        match own.filter(|own| *own != order) {
            Some(_) => Err(Error::Recipe(format!("{place}: expected that of config_groups, found another"))),
            None => {
                self.act_order = order;
                Ok(())
            }
        }
    }

    /// `{weights: name}`; other keys would be observers of what is dynamic here.
    fn read_observer(&mut self, place: &str, value: &Value) -> Result<()> {
        let map = value.as_object().ok_or_else(|| bad(place, "a mapping", value))?;
        for (key, value) in map {
            let place = format!("{place}.{key}");
            match key.as_str() {
                "weights" => self.clip = Some(arguments::clips(&place, value)?),
                _ => return Err(Error::Recipe(format!("{place} is not supported; weights is"))),
            }
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
            _ => self.act_order = arguments::act_order(place, value)?,
        }
        Ok(())
    }

    /// A preset's name, or `{name: targets}` with several presets for several layers.
    fn read_scheme(&mut self, place: &str, value: &Value, targets: &[Pattern]) -> Result<()> {
        let found =
            |name: &str| preset_named(name).ok_or_else(|| Error::Recipe(format!("{place}: {}", unknown_scheme(name))));
        match value {
            Value::String(name) => {
                self.groups = vec![RecipeGroup { targets: targets.to_vec(), scheme: found(name)? }];
                self.scheme = name.clone();
            }
            Value::Object(map) if !map.is_empty() => {
                let group = |(name, targets): (&String, &Value)| {
                    let (scheme, place) = (found(name)?, format!("{place}.{name}"));
                    Ok(RecipeGroup { targets: patterns(&place, targets)?, scheme })
                };
                self.groups = map.iter().map(group).collect::<Result<_>>()?;
                self.scheme = map.keys().cloned().collect::<Vec<_>>().join(", ");
            }
            other => return Err(bad(place, "the name of a preset", other)),
        }
        Ok(())
    }
}

/// The scheme of a preset; case does not count.
pub(super) fn preset_named(name: &str) -> Option<LinearScheme> {
    PRESETS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, scheme)| *scheme)
}

/// The scheme that a flag names.
pub(super) fn scheme_named(flag: &str, name: &str) -> Result<LinearScheme> {
    preset_named(name).ok_or_else(|| Error::Flag { flag: flag.into(), problem: unknown_scheme(name) })
}

fn unknown_scheme(name: &str) -> String {
    let names: Vec<_> = PRESETS.iter().map(|(name, _)| *name).collect();
    if OTHERS.iter().any(|other| other.eq_ignore_ascii_case(name)) {
        let made = names.join(", ");
        return format!("{name} has not 8-bit weights and 8-bit activations, which is all that is made here: {made}");
    }
    let all: Vec<_> = names.iter().copied().chain(OTHERS).collect();
    match nearest(name, &all).filter(|near| !OTHERS.contains(near)) {
        Some(near) => format!("scheme {name} is not known; did you mean {near}?"),
        None => unknown("scheme", name, &names),
    }
}

fn unknown_modifier(name: &str) -> String {
    if FOREIGN.contains(&name) {
        let known = "SmoothQuantModifier, GPTQModifier and QuantizationModifier";
        return format!("{name} is llm-compressor's, but not supported here; {known} are");
    }
    unknown("modifier", name, &KNOWN)
}

/// A field that changes nothing; any other is an error that names the nearest.
fn silent(modifier: &str, field: &str, value: &Value, known: &[&str]) -> Result<()> {
    if SILENT.contains(&field) || (TIMES.contains(&field) && *value == -1) {
        return Ok(());
    }
    if TIMES.contains(&field) {
        return Err(bad(&format!("{modifier}.{field}"), "null or -1 (there are no training steps)", value));
    }
    Err(Error::Recipe(unknown(&format!("{modifier}: field"), field, known)))
}

/// Name of the modifier of a weight method.
pub(super) fn weight_modifier(weights: WeightMethod) -> &'static str {
    match weights {
        WeightMethod::Gptq => "GPTQModifier",
        WeightMethod::Rtn => "QuantizationModifier",
    }
}

/// The preset that says the same as a recipe's only group, if there is one.
pub(super) fn preset(recipe: &Recipe) -> Option<&'static str> {
    let [group] = &recipe.groups[..] else { return None };
    PRESETS.iter().find(|(_, scheme)| *scheme == group.scheme).map(|(name, _)| *name)
}

pub(super) fn patterns(place: &str, value: &Value) -> Result<Vec<Pattern>> {
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

pub(super) fn bad(place: &str, expected: &str, found: &Value) -> Error {
    let found = found.to_string();
    let short: String = found.chars().take(120).collect();
    Error::Recipe(format!("{place}: expected {expected}, found {short}"))
}
