//! What of a model is quantized and how: `quantization_config` of compressed-tensors and of LMDeploy.
//! Formats: compressed-tensors 0.19, LMDeploy 0.18.
mod read;
mod write;

use crate::{Error, Result, config::Config};
use planish_tensor::DType;
use regex::{Regex, RegexBuilder};
use std::path::Path;

/// Names of tensors beside a linear's `weight`.
pub const INPUT_SCALE: &str = "input_scale";
/// Zero point of statically quantized, asymmetric activations: I8 `[1]`.
pub const INPUT_ZERO_POINT: &str = "input_zero_point";

/// Whose layout a checkpoint has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantFormat {
    /// compressed-tensors: llm-compressor, vLLM, SGLang, transformers.
    CompressedTensors,
    /// LMDeploy's `smooth_quant`.
    LmDeploy,
}

/// An 8-bit number type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QuantType {
    /// Signed integers.
    Int8,
    /// FP8 E4M3.
    Fp8E4M3,
    /// FP8 E5M2 (LMDeploy's layout only).
    Fp8E5M2,
}

/// Which weights share a scale. `weight` is `[out, in]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WeightStrategy {
    /// Each row: scales `[out, 1]`.
    Channel,
    /// The whole tensor: scales `[1]`.
    Tensor,
    /// Blocks, ragged at the edges: scales `[ceil(out / rows), ceil(in / columns)]`.
    Block {
        /// Rows of a block.
        rows: usize,
        /// Columns of a block.
        columns: usize,
    },
    /// This many neighbours in a row: scales `[out, in / size]`.
    Group(usize),
}

/// How scales are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScaleType {
    /// As float numbers.
    Float,
    /// As E8M0 exponents in U8 (MX formats).
    Exponent,
}

/// How the weights of a linear are quantized. Always symmetric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WeightQuant {
    /// Stored type.
    pub dtype: QuantType,
    /// Which weights share a scale.
    pub strategy: WeightStrategy,
    /// How the scales are stored.
    pub scale: ScaleType,
    /// GPTQ visited columns by importance. Does not change how the checkpoint is read, and is written for groups only.
    pub act_order: bool,
}

/// Which activations share a scale computed at run time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActUnit {
    /// Each row (token).
    Token,
    /// The whole tensor.
    Tensor,
    /// This many neighbours in a row.
    Group(usize),
}

/// How the input of a linear is quantized. The number type is that of the weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ActQuant {
    /// Not at all.
    None,
    /// With scales from the values themselves.
    Dynamic {
        /// Which values share a scale.
        unit: ActUnit,
        /// Without zero point.
        symmetric: bool,
    },
    /// With one stored scale, [`INPUT_SCALE`], and [`INPUT_ZERO_POINT`] when not symmetric.
    Static {
        /// Without zero point.
        symmetric: bool,
    },
}

/// How one linear is quantized.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinearScheme {
    /// Its weights.
    pub weights: WeightQuant,
    /// Its input.
    pub activations: ActQuant,
}

/// Linears that are quantized alike.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// Module names, `re:` patterns that match from the start of a name, or the class `Linear`.
    pub targets: Vec<String>,
    /// How they are quantized.
    pub scheme: LinearScheme,
}

/// The quantization of a whole model.
#[derive(Clone, Debug)]
pub struct Scheme {
    format: QuantFormat,
    groups: Vec<(Group, Vec<Target>)>,
    ignore: Vec<String>,
    ignored: Vec<Target>,
    kv_cache: Option<QuantType>,
}

impl Scheme {
    /// A scheme of these groups. `ignore` takes what targets take (in LMDeploy's layout: plain names only).
    pub fn new(format: QuantFormat, groups: Vec<Group>, ignore: Vec<String>) -> Result<Scheme> {
        let path = Path::new("quantization_config");
        Scheme::checked(format, groups, ignore, None, path)
    }

    /// W8A8, the default: one scale per output channel, activations per token at run time, every linear but `ignore`.
    pub fn w8a8(format: QuantFormat, dtype: QuantType, ignore: Vec<String>) -> Result<Scheme> {
        let strategy = WeightStrategy::Channel;
        let weights = WeightQuant { dtype, strategy, scale: ScaleType::Float, act_order: false };
        let activations = ActQuant::Dynamic { unit: ActUnit::Token, symmetric: true };
        let targets = match format {
            QuantFormat::CompressedTensors => vec!["Linear".into()],
            QuantFormat::LmDeploy => vec![IN_BLOCK.into()],
        };
        Scheme::new(format, vec![Group { targets, scheme: LinearScheme { weights, activations } }], ignore)
    }

    /// Reads `quantization_config` (or the older `compression_config`); `None` when the model is not quantized.
    pub fn from_config(config: &Config) -> Result<Option<Scheme>> {
        read::scheme(config)
    }

    /// Whose layout this is.
    pub fn format(&self) -> QuantFormat {
        self.format
    }

    /// The groups, in their order.
    pub fn groups(&self) -> impl Iterator<Item = &Group> {
        self.groups.iter().map(|(group, _)| group)
    }

    /// Modules left in float, as written.
    pub fn ignore(&self) -> &[String] {
        &self.ignore
    }

    /// Type of a quantized KV cache with stored `k_scale` and `v_scale`, if the checkpoint has them.
    pub fn kv_cache(&self) -> Option<QuantType> {
        self.kv_cache
    }

    /// The same with a KV cache of this type, if any, whose `k_scale` and `v_scale` are stored.
    pub fn with_kv_cache(mut self, dtype: Option<QuantType>) -> Scheme {
        self.kv_cache = dtype;
        self
    }

    /// How the linear of this dotted module name (without `.weight`) is quantized; `None` leaves it in float.
    /// An exact name goes before a pattern, and that before a class.
    pub fn for_linear(&self, name: &str) -> Option<&LinearScheme> {
        if self.ignored.iter().any(|t| t.rank(name).is_some()) {
            return None;
        }
        let ranked = self
            .groups
            .iter()
            .filter_map(|(group, targets)| Some((targets.iter().filter_map(|t| t.rank(name)).min()?, &group.scheme)));
        // On equal rank the first group counts, as min_by_key keeps the first of equals.
        ranked.min_by_key(|(rank, _)| *rank).map(|(_, scheme)| scheme)
    }

    /// Last part of the name of a weight's scales: `weight_scale`, in LMDeploy's layout `scale`.
    pub fn scale_name(&self) -> &'static str {
        match self.format {
            QuantFormat::CompressedTensors => "weight_scale",
            QuantFormat::LmDeploy => "scale",
        }
    }

    fn checked(
        format: QuantFormat,
        groups: Vec<Group>,
        ignore: Vec<String>,
        kv_cache: Option<QuantType>,
        path: &Path,
    ) -> Result<Scheme> {
        let ignored = ignore.iter().map(|t| Target::ignored(format, t, path)).collect::<Result<_>>()?;
        let groups = groups.into_iter().enumerate().map(|(i, group)| {
            let field = format!("config_groups.group_{i}");
            if format == QuantFormat::CompressedTensors && group.scheme.weights.dtype == QuantType::Fp8E5M2 {
                return Err(Error::field(path, field, "int8 or FP8 E4M3 weights in compressed-tensors", "FP8 E5M2"));
            }
            let read = |t: &String| Target::parse(t, path, &format!("{field}.targets"));
            let targets = group.targets.iter().map(read).collect::<Result<_>>()?;
            Ok((group, targets))
        });
        Ok(Scheme { format, groups: groups.collect::<Result<_>>()?, ignore, ignored, kv_cache })
    }
}

impl QuantType {
    /// Type of the stored elements.
    pub fn dtype(self) -> DType {
        match self {
            QuantType::Int8 => DType::I8,
            QuantType::Fp8E4M3 => DType::F8E4M3,
            QuantType::Fp8E5M2 => DType::F8E5M2,
        }
    }
}

impl WeightStrategy {
    /// Shape of the scales of a weight `[out, in]`. Older writers store `[out]` or `[]` for `[out, 1]` or `[1]`.
    pub fn scale_shape(self, out: usize, input: usize) -> Vec<usize> {
        match self {
            WeightStrategy::Channel => vec![out, 1],
            WeightStrategy::Tensor => vec![1],
            WeightStrategy::Block { rows, columns } => vec![out.div_ceil(rows), input.div_ceil(columns)],
            WeightStrategy::Group(size) => vec![out, input.div_ceil(size)],
        }
    }
}

/// LMDeploy quantizes every linear of a numbered block; its configuration does not say so.
const IN_BLOCK: &str = r"re:.*\.\d+\.";

/// One target or ignore entry, compiled.
#[derive(Clone, Debug)]
enum Target {
    Exact(String),
    Pattern(Regex),
    AnyLinear,
    /// LMDeploy's `modules_to_not_convert`: a whole part of the dotted name.
    Part(String),
}

impl Target {
    fn parse(text: &str, path: &Path, field: &str) -> Result<Target> {
        let Some(pattern) = text.strip_prefix("re:") else {
            return Ok(if text == "Linear" { Target::AnyLinear } else { Target::Exact(text.into()) });
        };
        // As Python's re.match: anchored at the start only.
        RegexBuilder::new(&format!("^(?:{pattern})"))
            .size_limit(1 << 20)
            .build()
            .map(Target::Pattern)
            .map_err(|e| Error::field(path, field, "a regular expression without look-around", reason(&e)))
    }

    fn ignored(format: QuantFormat, text: &str, path: &Path) -> Result<Target> {
        match format {
            QuantFormat::CompressedTensors => Target::parse(text, path, "ignore"),
            QuantFormat::LmDeploy if text.starts_with("re:") => {
                Err(Error::field(path, "modules_to_not_convert", "plain module names in LMDeploy's layout", text))
            }
            QuantFormat::LmDeploy => Ok(Target::Part(text.into())),
        }
    }

    /// How specifically this names the module: 0 is most specific; `None` when it does not.
    fn rank(&self, name: &str) -> Option<u8> {
        match self {
            Target::Exact(exact) => (exact == name).then_some(0),
            Target::Part(part) => format!(".{name}.").contains(&format!(".{part}.")).then_some(0),
            Target::Pattern(pattern) => pattern.is_match(name).then_some(1),
            Target::AnyLinear => Some(2),
        }
    }
}

/// The last line of a pattern's error, which says what is wrong without drawing it.
fn reason(error: &regex::Error) -> String {
    error.to_string().lines().last().unwrap_or_default().trim().chars().take(200).collect()
}

#[cfg(test)]
mod tests;
