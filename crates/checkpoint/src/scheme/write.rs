//! Writing `quantization_config`: the very keys, order and values that compressed-tensors 0.19.0 and LMDeploy write,
//! but for GPTQ's order of columns where readers have no use for it.
use super::{ActQuant, ActUnit, Group, QuantFormat, QuantType, ScaleType, Scheme, WeightStrategy};
use serde_json::{Map, Value, json};

const VERSION: &str = "0.19.0";

impl Scheme {
    /// The value of `quantization_config`.
    pub fn to_json(&self) -> Value {
        match self.format {
            QuantFormat::CompressedTensors => self.compressed_tensors(),
            QuantFormat::LmDeploy => self.lmdeploy(),
        }
    }

    fn compressed_tensors(&self) -> Value {
        let groups: Map<String, Value> =
            self.groups().enumerate().map(|(i, group)| (format!("group_{i}"), group_json(group))).collect();
        let mut formats: Vec<&str> = self.groups().map(format_of).collect();
        formats.dedup();
        let format = if let [one] = formats[..] { one } else { "mixed-precision" };
        json!({
            "config_groups": groups,
            "format": format,
            "global_compression_ratio": null,
            "ignore": self.ignore,
            "kv_cache_scheme": self.kv_cache.map(|dtype| Args { dtype, ..Args::STATIC_TENSOR }.json()),
            "quant_method": "compressed-tensors",
            "quantization_status": "compressed",
            "sparsity_config": {},
            "transform_config": {},
            "version": VERSION,
        })
    }

    fn lmdeploy(&self) -> Value {
        let dtype = match self.groups().next().map(|g| g.scheme.weights.dtype) {
            Some(QuantType::Fp8E4M3) => "float8_e4m3fn",
            Some(QuantType::Fp8E5M2) => "float8_e5m2",
            Some(QuantType::Int8) | None => "int8",
        };
        let mut out = json!({"quant_dtype": dtype, "quant_method": "smooth_quant"});
        // The head stands outside the blocks, so it is in float without saying so.
        let said: Vec<&String> = self.ignore.iter().filter(|name| *name != "lm_head").collect();
        if !said.is_empty() {
            out["modules_to_not_convert"] = json!(said);
        }
        out
    }
}

fn format_of(group: &Group) -> &'static str {
    match (group.scheme.weights.dtype, group.scheme.weights.scale) {
        (QuantType::Int8, _) => "int-quantized",
        (_, ScaleType::Float) => "float-quantized",
        (_, ScaleType::Exponent) => "mxfp8-quantized",
    }
}

fn group_json(group: &Group) -> Value {
    let weights = &group.scheme.weights;
    let mut args = Args { dtype: weights.dtype, scale: weights.scale, ..Args::STATIC_TENSOR };
    // compressed-tensors before 0.17.1, which vLLM reads with, refuses an order for any other strategy; and only groups
    // of columns could be read wrongly without one.
    let act_order = weights.act_order && matches!(weights.strategy, WeightStrategy::Group(_));
    let mut stored = Args { observer: Some("memoryless_minmax"), act_order, ..args };
    match weights.strategy {
        WeightStrategy::Tensor => {}
        WeightStrategy::Channel => stored.strategy = "channel",
        WeightStrategy::Block { rows, columns } => {
            stored.strategy = "block";
            stored.block = Some([rows, columns]);
        }
        WeightStrategy::Group(size) => {
            stored.strategy = "group";
            stored.group_size = Some(size);
        }
    }
    let inputs = match group.scheme.activations {
        ActQuant::None => None,
        ActQuant::Static { symmetric } => Some(Args { observer: Some("static_minmax"), symmetric, ..args }),
        ActQuant::Dynamic { unit, symmetric } => {
            args.strategy = match unit {
                ActUnit::Token => "token",
                ActUnit::Tensor => "tensor",
                ActUnit::Group(_) => "group",
            };
            args.group_size = if let ActUnit::Group(size) = unit { Some(size) } else { None };
            Some(Args { dynamic: true, symmetric, ..args })
        }
    };
    json!({
        "format": format_of(group),
        "input_activations": inputs.map(|a| a.json()),
        "output_activations": null,
        "targets": group.targets,
        "weights": stored.json(),
    })
}

/// compressed-tensors' `QuantizationArgs`.
#[derive(Clone, Copy)]
struct Args {
    dtype: QuantType,
    scale: ScaleType,
    strategy: &'static str,
    group_size: Option<usize>,
    block: Option<[usize; 2]>,
    dynamic: bool,
    symmetric: bool,
    act_order: bool,
    observer: Option<&'static str>,
}

impl Args {
    const STATIC_TENSOR: Args = Args {
        dtype: QuantType::Int8,
        scale: ScaleType::Float,
        strategy: "tensor",
        group_size: None,
        block: None,
        dynamic: false,
        symmetric: true,
        act_order: false,
        observer: None,
    };

    fn json(&self) -> Value {
        json!({
            "actorder": self.act_order.then_some("static"),
            "block_structure": self.block,
            "dynamic": self.dynamic,
            "group_size": self.group_size,
            "num_bits": 8,
            "observer": self.observer,
            "observer_kwargs": {},
            "scale_dtype": (self.scale == ScaleType::Exponent).then_some("torch.uint8"),
            "strategy": self.strategy,
            "symmetric": self.symmetric,
            "type": if self.dtype == QuantType::Int8 { "int" } else { "float" },
            "zp_dtype": (!self.symmetric).then_some("torch.int8"),
        })
    }
}
