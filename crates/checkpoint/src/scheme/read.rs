//! Reading `quantization_config`: every writer's spelling, one meaning. What we cannot run is an error that names
//! the field.
use super::{ActQuant, ActUnit, Group, IN_BLOCK, LinearScheme, QuantFormat, QuantType, ScaleType, Scheme};
use super::{WeightQuant, WeightStrategy};
use crate::{Result, config::Config};
use serde_json::Value;

/// The scheme of a model's configuration, if it has one.
pub(super) fn scheme(config: &Config) -> Result<Option<Scheme>> {
    let section = match config.section("quantization_config")? {
        Some(section) => Some(section),
        None => config.section("compression_config")?,
    };
    let Some(mut section) = section else { return Ok(None) };
    if section.get("config_groups").is_none()
        && let Some(inner) = section.section("quantization_config")?
    {
        section = inner;
    }
    match section.opt_str("quant_method")? {
        Some("smooth_quant") => lmdeploy(&section).map(Some),
        Some("compressed-tensors") => compressed_tensors(&section).map(Some),
        None if section.get("config_groups").is_some() => compressed_tensors(&section).map(Some),
        _ => Err(section.wrong("quant_method", "compressed-tensors or smooth_quant")),
    }
}

fn lmdeploy(section: &Config) -> Result<Scheme> {
    let dtype = match section.opt_str("quant_dtype")?.unwrap_or("int8") {
        "int8" => QuantType::Int8,
        "fp8" | "float8_e4m3fn" => QuantType::Fp8E4M3,
        "float8_e5m2" => QuantType::Fp8E5M2,
        _ => return Err(section.wrong("quant_dtype", "int8, float8_e4m3fn or float8_e5m2")),
    };
    let weights = WeightQuant { dtype, strategy: WeightStrategy::Channel, scale: ScaleType::Float, act_order: false };
    let activations = ActQuant::Dynamic { unit: ActUnit::Token, symmetric: true };
    let group = Group { targets: vec![IN_BLOCK.into()], scheme: LinearScheme { weights, activations } };
    let ignore = section.opt_strings("modules_to_not_convert")?.unwrap_or_default();
    Scheme::checked(QuantFormat::LmDeploy, vec![group], ignore, None, section.path())
}

fn compressed_tensors(section: &Config) -> Result<Scheme> {
    match section.opt_str("quantization_status")? {
        None | Some("compressed" | "frozen") => {}
        Some(_) => return Err(section.wrong("quantization_status", "compressed or frozen")),
    }
    refuse_transforms(section)?;
    let format = section.opt_str("format")?;
    let groups = section.section("config_groups")?;
    let groups = groups.ok_or_else(|| section.wrong("config_groups", "an object of groups"))?;
    if groups.fields().is_empty() {
        return Err(section.wrong("config_groups", "at least one group"));
    }
    let read = |name: &String| {
        let group = groups.section(name)?.ok_or_else(|| groups.wrong(name, "an object"))?;
        read_group(&group, format)
    };
    let list = groups.fields().keys().map(read).collect::<Result<Vec<_>>>()?;
    let ignore = section.opt_strings("ignore")?.unwrap_or_default();
    Scheme::checked(QuantFormat::CompressedTensors, list, ignore, kv_cache(section)?, section.path())
}

/// Sparse weights and online rotations change what the tensors mean.
fn refuse_transforms(section: &Config) -> Result<()> {
    if let Some(sparsity) = section.section("sparsity_config")? {
        match sparsity.opt_str("format")? {
            None | Some("dense") => {}
            Some(_) => return Err(sparsity.wrong("format", "dense")),
        }
    }
    let transforms = section.section("transform_config")?;
    let active = |t: &Config| match t.get("config_groups") {
        Some(Value::Object(groups)) => !groups.is_empty(),
        Some(_) => true,
        None => !t.fields().is_empty(),
    };
    if transforms.is_some_and(|t| active(&t)) {
        return Err(section.wrong("transform_config", "no transform"));
    }
    Ok(())
}

fn kv_cache(section: &Config) -> Result<Option<QuantType>> {
    let Some(kv) = section.section("kv_cache_scheme")? else { return Ok(None) };
    let args = Args::read(&kv)?;
    if args.dynamic {
        return Err(kv.wrong("dynamic", "false"));
    }
    if !args.symmetric {
        return Err(kv.wrong("symmetric", "true"));
    }
    match args.strategy {
        Strategy::Tensor => Ok(Some(args.dtype)),
        _ => Err(kv.wrong("strategy", "tensor")),
    }
}

fn read_group(group: &Config, format: Option<&str>) -> Result<Group> {
    let targets = group.opt_strings("targets")?.unwrap_or_default();
    if targets.is_empty() {
        return Err(group.wrong("targets", "a list of module names, re: patterns or Linear"));
    }
    if group.get("output_activations").is_some() {
        return Err(group.wrong("output_activations", "null"));
    }
    let section = group.section("weights")?.ok_or_else(|| group.wrong("weights", "a quantization of 8 bits"))?;
    let weights = read_weights(&section)?;
    check_format(group, format, &weights)?;
    let activations = match group.section("input_activations")? {
        Some(section) => read_activations(&section, &weights)?,
        None => ActQuant::None,
    };
    Ok(Group { targets, scheme: LinearScheme { weights, activations } })
}

/// A group's format, or the whole model's where the group has none, must be one that stores such weights plainly.
fn check_format(group: &Config, whole: Option<&str>, weights: &WeightQuant) -> Result<()> {
    let stored = match (weights.dtype, weights.scale) {
        (QuantType::Int8, _) => "int-quantized",
        (_, ScaleType::Float) => "float-quantized",
        (_, ScaleType::Exponent) => "mxfp8-quantized",
    };
    match group.opt_str("format")?.or(whole.filter(|f| *f != "mixed-precision")) {
        None => Ok(()),
        Some(f) if f == stored || f == "naive-quantized" => Ok(()),
        Some(f) => {
            let field = if group.get("format").is_some() { "config_groups.*.format" } else { "format" };
            Err(crate::Error::field(group.path(), format!("quantization_config.{field}"), stored, f))
        }
    }
}

fn read_weights(section: &Config) -> Result<WeightQuant> {
    let args = Args::read(section)?;
    if args.dynamic {
        return Err(section.wrong("dynamic", "false"));
    }
    if !args.symmetric {
        return Err(section.wrong("symmetric", "true"));
    }
    let strategy = match args.strategy {
        Strategy::Channel => WeightStrategy::Channel,
        Strategy::Tensor => WeightStrategy::Tensor,
        Strategy::Block(rows, columns) => WeightStrategy::Block { rows, columns },
        Strategy::Group(size) => WeightStrategy::Group(size),
        Strategy::Token => return Err(section.wrong("strategy", "channel, tensor, block or group")),
    };
    let act_order = match section.get("actorder") {
        None | Some(Value::Bool(false)) => false,
        Some(Value::String(s)) if s == "static" || s == "weight" => true,
        // Only groups of columns have an order that the reader would need.
        Some(Value::String(s)) if s == "group" && !matches!(strategy, WeightStrategy::Group(_)) => true,
        Some(_) => return Err(section.wrong("actorder", "null, static or weight")),
    };
    Ok(WeightQuant { dtype: args.dtype, strategy, scale: args.scale, act_order })
}

fn read_activations(section: &Config, weights: &WeightQuant) -> Result<ActQuant> {
    let args = Args::read(section)?;
    if args.dtype != weights.dtype {
        return Err(section.wrong("type", "the type of the weights"));
    }
    if !args.symmetric && args.dtype != QuantType::Int8 {
        return Err(section.wrong("symmetric", "true for float numbers"));
    }
    let symmetric = args.symmetric;
    match (args.dynamic, args.strategy) {
        (true, Strategy::Token) => Ok(ActQuant::Dynamic { unit: ActUnit::Token, symmetric }),
        (true, Strategy::Tensor) => Ok(ActQuant::Dynamic { unit: ActUnit::Tensor, symmetric }),
        (true, Strategy::Group(size)) => Ok(ActQuant::Dynamic { unit: ActUnit::Group(size), symmetric }),
        (false, Strategy::Tensor) => Ok(ActQuant::Static { symmetric }),
        (true, _) => Err(section.wrong("strategy", "token, tensor or group")),
        (false, _) => Err(section.wrong("strategy", "tensor, for scales that are not dynamic")),
    }
}

enum Strategy {
    Tensor,
    Channel,
    Token,
    Group(usize),
    Block(usize, usize),
}

/// compressed-tensors' `QuantizationArgs`, absent fields at their defaults.
struct Args {
    dtype: QuantType,
    symmetric: bool,
    dynamic: bool,
    scale: ScaleType,
    strategy: Strategy,
}

impl Args {
    fn read(section: &Config) -> Result<Args> {
        if section.opt_count("num_bits")?.unwrap_or(8) != 8 {
            return Err(section.wrong("num_bits", "8"));
        }
        let dtype = match section.opt_str("type")?.unwrap_or("int") {
            "int" => QuantType::Int8,
            "float" => QuantType::Fp8E4M3,
            _ => return Err(section.wrong("type", "int or float")),
        };
        let scale = match section.opt_str("scale_dtype")? {
            Some("torch.uint8") if dtype == QuantType::Fp8E4M3 => ScaleType::Exponent,
            None | Some("torch.float32" | "torch.bfloat16" | "torch.float16") => ScaleType::Float,
            Some(_) => return Err(section.wrong("scale_dtype", "null, a float type, or torch.uint8 for FP8")),
        };
        Ok(Args {
            dtype,
            symmetric: section.opt_bool("symmetric")?.unwrap_or(true),
            dynamic: section.opt_bool("dynamic")?.unwrap_or(false),
            scale,
            strategy: strategy(section)?,
        })
    }
}

/// The strategy, inferred from the sizes where a writer left it out.
fn strategy(section: &Config) -> Result<Strategy> {
    let size = match section.get("group_size") {
        Some(Value::Number(n)) if n.as_i64() == Some(-1) => None,
        _ => section.opt_usize("group_size")?,
    };
    let whole_rows = section.get("group_size").is_some() && size.is_none();
    let inferred = match (size, whole_rows) {
        _ if section.get("block_structure").is_some() => "block",
        (Some(_), _) => "group",
        (None, true) => "channel",
        (None, false) => "tensor",
    };
    match section.opt_str("strategy")?.unwrap_or(inferred) {
        "tensor" => Ok(Strategy::Tensor),
        "channel" => Ok(Strategy::Channel),
        "token" => Ok(Strategy::Token),
        "group" => size.map(Strategy::Group).ok_or_else(|| section.wrong("group_size", "a positive integer")),
        "block" => block(section).map(|(rows, columns)| Strategy::Block(rows, columns)),
        _ => Err(section.wrong("strategy", "tensor, channel, token, group or block")),
    }
}

/// `[128, 128]`, or the older `"128x128"`.
fn block(section: &Config) -> Result<(usize, usize)> {
    let sides: Option<Vec<usize>> = match section.get("block_structure") {
        Some(Value::String(text)) => text.split('x').map(|s| s.trim().parse().ok()).collect(),
        Some(Value::Array(list)) => list.iter().map(|v| v.as_u64().and_then(|n| usize::try_from(n).ok())).collect(),
        _ => None,
    };
    match sides.as_deref() {
        Some(&[rows, columns]) if (1..1 << 31).contains(&rows) && (1..1 << 31).contains(&columns) => {
            Ok((rows, columns))
        }
        _ => Err(section.wrong("block_structure", "two positive integers, such as [128, 128]")),
    }
}
