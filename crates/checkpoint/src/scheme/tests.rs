//! Every scheme that the two tools wrote for a tiny Llama, older spellings, and what must be refused.
use super::*;
use serde_json::{Value, json};
use std::fs;

const Q: &str = "model.layers.0.self_attn.q_proj";
const DOWN: &str = "model.layers.1.mlp.down_proj";

fn file(name: &str) -> Config {
    let path = format!("tests/data/schemes/{name}.json");
    Config::from_json(&fs::read(&path).unwrap(), Path::new(&path)).unwrap()
}

fn golden(name: &str) -> Scheme {
    Scheme::from_config(&file(name)).unwrap().unwrap()
}

fn of(block: Value) -> Result<Option<Scheme>> {
    let text = json!({"quantization_config": block}).to_string();
    Scheme::from_config(&Config::from_json(text.as_bytes(), Path::new("config.json")).unwrap())
}

fn linear(dtype: QuantType, strategy: WeightStrategy, activations: ActQuant) -> LinearScheme {
    let weights = WeightQuant { dtype, strategy, scale: ScaleType::Float, act_order: false };
    LinearScheme { weights, activations }
}

const TOKEN: ActQuant = ActQuant::Dynamic { unit: ActUnit::Token, symmetric: true };

#[test]
fn every_golden_scheme_is_understood() {
    use QuantType::*;
    use WeightStrategy::*;
    let group128 = ActQuant::Dynamic { unit: ActUnit::Group(128), symmetric: true };
    let asymmetric = ActQuant::Dynamic { unit: ActUnit::Token, symmetric: false };
    for (name, expected) in [
        ("w8a8_rtn", linear(Int8, Channel, TOKEN)),
        ("w8a8_rtn_f32", linear(Int8, Channel, TOKEN)),
        ("w8a8_lm_head", linear(Int8, Channel, TOKEN)),
        ("fp8_dynamic", linear(Fp8E4M3, Channel, TOKEN)),
        ("fp8_static", linear(Fp8E4M3, Tensor, ActQuant::Static { symmetric: true })),
        ("fp8_static_kv", linear(Fp8E4M3, Tensor, ActQuant::Static { symmetric: true })),
        ("fp8_block", linear(Fp8E4M3, Block { rows: 128, columns: 128 }, group128)),
        ("int8_static_tensor_sym", linear(Int8, Channel, ActQuant::Static { symmetric: true })),
        ("int8_static_tensor_asym", linear(Int8, Channel, ActQuant::Static { symmetric: false })),
        ("int8_dynamic_token_asym", linear(Int8, Channel, asymmetric)),
        ("lmdeploy_int8", linear(Int8, Channel, TOKEN)),
        ("lmdeploy_fp8", linear(Fp8E4M3, Channel, TOKEN)),
    ] {
        let scheme = golden(name);
        assert_eq!(scheme.for_linear(Q), Some(&expected), "{name}");
        let head = (name == "w8a8_lm_head").then_some(&expected);
        assert_eq!(scheme.for_linear("lm_head"), head, "{name}");
        assert_eq!(scheme.kv_cache(), (name == "fp8_static_kv").then_some(Fp8E4M3), "{name}");
        let scale = if name.starts_with("lmdeploy") { "scale" } else { "weight_scale" };
        assert_eq!(scheme.scale_name(), scale);
    }
    for name in ["w8a8_sq_gptq", "w8a8_sq_gptq_f32"] {
        let mut expected = linear(Int8, Channel, TOKEN);
        expected.weights.act_order = true;
        assert_eq!(golden(name).for_linear(Q), Some(&expected));
    }
    let mut expected = linear(Fp8E4M3, Group(32), ActQuant::Dynamic { unit: ActUnit::Group(32), symmetric: true });
    expected.weights.scale = ScaleType::Exponent;
    assert_eq!(golden("mxfp8").for_linear(Q), Some(&expected));
    let mixed = golden("mixed_fp8down_int8rest");
    assert_eq!(mixed.for_linear(Q), Some(&linear(Int8, Channel, TOKEN)));
    assert_eq!(mixed.for_linear(DOWN), Some(&linear(Fp8E4M3, Channel, TOKEN)));
    let plain = Config::open(Path::new("tests/data/llama")).unwrap();
    assert!(Scheme::from_config(&plain).unwrap().is_none());
}

/// `quantization_config` as a tool wrote it, without the order of GPTQ's columns: llm-compressor names it for whole rows
/// too, which says nothing to a reader and is refused by compressed-tensors before 0.17.1 ("Must use group or
/// tensor_group quantization strategy in order to apply activation ordering").
fn theirs(config: &Config) -> Value {
    let mut section = config.fields()["quantization_config"].clone();
    let groups = section.get_mut("config_groups").and_then(Value::as_object_mut);
    for weights in groups.into_iter().flatten().map(|(_, group)| &mut group["weights"]) {
        if weights["strategy"] != "group" {
            weights["actorder"] = Value::Null;
        }
    }
    section
}

/// Reading and writing again gives the very text that the tools wrote.
#[test]
fn golden_schemes_are_written_back_exactly() {
    let mut count = 0;
    for entry in fs::read_dir("tests/data/schemes").unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let config = file(name.strip_suffix(".json").unwrap());
        let written = Scheme::from_config(&config).unwrap().unwrap().to_json();
        assert_eq!(written.to_string(), theirs(&config).to_string(), "{name}");
        count += 1;
    }
    assert_eq!(count, 16);
}

#[test]
fn made_schemes_equal_the_tools() {
    let ignore = || vec!["lm_head".to_string()];
    for (name, format, dtype) in [
        ("w8a8_sq_gptq", QuantFormat::CompressedTensors, QuantType::Int8),
        ("w8a8_rtn", QuantFormat::CompressedTensors, QuantType::Int8),
        ("fp8_dynamic", QuantFormat::CompressedTensors, QuantType::Fp8E4M3),
        ("lmdeploy_int8", QuantFormat::LmDeploy, QuantType::Int8),
        ("lmdeploy_fp8", QuantFormat::LmDeploy, QuantType::Fp8E4M3),
    ] {
        let made = Scheme::w8a8(format, dtype, ignore()).unwrap();
        assert_eq!(made.to_json(), theirs(&file(name)), "{name}");
        assert!(made.for_linear(Q).is_some() && made.for_linear("lm_head").is_none());
    }
    let e5m2 = Scheme::w8a8(QuantFormat::CompressedTensors, QuantType::Fp8E5M2, vec![]);
    assert!(e5m2.unwrap_err().to_string().contains("found FP8 E5M2"));
    assert!(Scheme::w8a8(QuantFormat::LmDeploy, QuantType::Fp8E5M2, vec![]).is_ok());
    assert!(Scheme::w8a8(QuantFormat::LmDeploy, QuantType::Int8, vec!["re:x".into()]).is_err());
}

/// An order of columns is written for groups of columns, and for nothing else.
#[test]
fn an_order_of_columns_is_written_for_groups_alone() {
    use WeightStrategy::*;
    for (strategy, written) in [(Group(128), json!("static")), (Channel, Value::Null), (Tensor, Value::Null)] {
        let mut scheme = linear(QuantType::Int8, strategy, TOKEN);
        scheme.weights.act_order = true;
        let group = super::Group { targets: vec!["Linear".into()], scheme };
        let section = Scheme::new(QuantFormat::CompressedTensors, vec![group], vec![]).unwrap().to_json();
        assert_eq!(section["config_groups"]["group_0"]["weights"]["actorder"], written, "{strategy:?}");
    }
}

#[test]
fn older_spellings_mean_the_same() {
    let group = |extra: Value| {
        let mut weights = json!({"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": true,
            "dynamic": false, "observer": "minmax"});
        weights.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        json!({"targets": ["Linear"], "weights": weights, "input_activations": {"dynamic": true, "strategy": "token",
            "num_bits": 8, "type": "int", "symmetric": true, "observer": "memoryless"}, "output_activations": null})
    };
    let old = json!({"config_groups": {"group_0": group(json!({}))}, "format": "int-quantized", "ignore": ["lm_head"],
        "quantization_status": "frozen", "sparsity_config": {"format": "dense", "registry_requires_subclass": false}});
    let expected = linear(QuantType::Int8, WeightStrategy::Channel, TOKEN);
    assert_eq!(of(old.clone()).unwrap().unwrap().for_linear(Q), Some(&expected));
    for text in [json!({"compression_config": old}), json!({"compression_config": {"quantization_config": old}})] {
        let config = Config::from_json(text.to_string().as_bytes(), Path::new("config.json")).unwrap();
        assert_eq!(Scheme::from_config(&config).unwrap().unwrap().for_linear(Q), Some(&expected));
    }
    let whole_rows = json!({"config_groups": {"a": group(json!({"strategy": null, "group_size": -1}))}});
    assert_eq!(of(whole_rows).unwrap().unwrap().for_linear(Q), Some(&expected));
    let mut block = group(json!({"strategy": "block", "block_structure": "128x64", "type": "float"}));
    block["input_activations"] = Value::Null;
    let scheme = of(json!({"config_groups": {"a": block}, "format": "naive-quantized"})).unwrap().unwrap();
    let strategy = WeightStrategy::Block { rows: 128, columns: 64 };
    assert_eq!(scheme.for_linear(Q), Some(&linear(QuantType::Fp8E4M3, strategy, ActQuant::None)));
    assert_eq!(strategy.scale_shape(576, 1536), [5, 24]);
}

#[test]
fn names_go_before_patterns_and_patterns_before_classes() {
    use QuantType::*;
    let group = |target: &str, dtype| Group {
        targets: vec![target.into()],
        scheme: linear(dtype, WeightStrategy::Channel, ActQuant::None),
    };
    let groups = vec![
        group("Linear", Int8),
        group("re:.*q_proj", Fp8E4M3),
        Group { targets: vec![Q.into()], scheme: linear(Int8, WeightStrategy::Tensor, ActQuant::None) },
    ];
    let ignore = vec!["re:model\\.layers\\.1\\.mlp".into(), "re:down".into(), "lm_head".into()];
    let scheme = Scheme::new(QuantFormat::CompressedTensors, groups, ignore).unwrap();
    let weights = |name: &str| scheme.for_linear(name).map(|s| (s.weights.dtype, s.weights.strategy));
    assert_eq!(weights(Q), Some((Int8, WeightStrategy::Tensor)), "exact");
    assert_eq!(weights("model.layers.1.self_attn.q_proj"), Some((Fp8E4M3, WeightStrategy::Channel)), "pattern");
    assert_eq!(weights("model.layers.0.mlp.up_proj"), Some((Int8, WeightStrategy::Channel)), "class");
    assert_eq!(weights(DOWN), None, "ignored by a pattern from the start of the name");
    assert_eq!(weights("model.layers.0.mlp.down_proj"), Some((Int8, WeightStrategy::Channel)), "re:down is anchored");
    let mut classes = golden("w8a8_rtn").to_json();
    classes["ignore"] = json!(["Linear"]);
    assert_eq!(of(classes).unwrap().unwrap().for_linear(Q), None);
}

#[test]
fn lmdeploy_exemptions_are_whole_parts_of_a_name() {
    let scheme = of(json!({"quant_method": "smooth_quant", "quant_dtype": "int8",
        "modules_to_not_convert": ["mlp.gate", "layers.0.mlp"]}))
    .unwrap()
    .unwrap();
    let on = |name: &str| scheme.for_linear(name).is_some();
    assert!(on("model.layers.1.mlp.gate_proj") && !on("model.layers.1.mlp.gate"));
    assert!(!on("model.layers.0.mlp.up_proj") && on("model.layers.10.mlp.up_proj"));
    assert!(!on("lm_head") && !on("model.embed_tokens"));
    assert_eq!(scheme.to_json()["modules_to_not_convert"], json!(["mlp.gate", "layers.0.mlp"]));
}

/// Each row sets one field (a JSON pointer into a good scheme) and must be refused by naming it.
#[test]
fn what_we_cannot_run_is_named() {
    let w = "/config_groups/group_0/weights";
    let a = "/config_groups/group_0/input_activations";
    let rows = [
        ("/quant_method".into(), json!("awq"), "quantization_config.quant_method", "found \"awq\""),
        ("/quantization_status".into(), json!("calibration"), "quantization_status", "compressed or frozen"),
        ("/config_groups".into(), json!({}), "config_groups", "at least one group"),
        ("/config_groups".into(), json!({"W8A8": ["Linear"]}), "config_groups.W8A8", "an object"),
        ("/sparsity_config".into(), json!({"format": "sparse-24-bitmask"}), "sparsity_config.format", "dense"),
        ("/transform_config".into(), json!({"config_groups": {"u": {}}}), "transform_config", "no transform"),
        ("/ignore".into(), json!("lm_head"), "ignore", "a list of strings"),
        ("/ignore".into(), json!(["re:(?!x)"]), "ignore", "without look-around"),
        ("/ignore".into(), json!(["re:("]), "ignore", "a regular expression"),
        ("/kv_cache_scheme".into(), json!({"num_bits": 4}), "kv_cache_scheme.num_bits", "8"),
        ("/config_groups/group_0/targets".into(), json!([]), "group_0.targets", "found []"),
        ("/config_groups/group_0/output_activations".into(), json!({}), "output_activations", "null"),
        ("/config_groups/group_0/format".into(), json!("pack-quantized"), "format", "found pack-quantized"),
        (w.to_string(), Value::Null, "group_0.weights", "8 bits"),
        (format!("{w}/num_bits"), json!(4), "group_0.weights.num_bits", "expected 8, found 4"),
        (format!("{w}/type"), json!("posit"), "group_0.weights.type", "int or float"),
        (format!("{w}/type"), json!("float"), "format", "float-quantized"),
        (format!("{w}/symmetric"), json!(false), "group_0.weights.symmetric", "true"),
        (format!("{w}/dynamic"), json!(true), "group_0.weights.dynamic", "false"),
        (format!("{w}/strategy"), json!("token"), "group_0.weights.strategy", "channel, tensor, block or group"),
        (format!("{w}/strategy"), json!("tensor_group"), "group_0.weights.strategy", "tensor_group"),
        (format!("{w}/strategy"), json!("group"), "group_0.weights.group_size", "a positive integer"),
        (format!("{w}/strategy"), json!("block"), "group_0.weights.block_structure", "found null"),
        (format!("{w}/scale_dtype"), json!("torch.uint8"), "group_0.weights.scale_dtype", "torch.uint8"),
        (format!("{w}/actorder"), json!(7), "group_0.weights.actorder", "static"),
        (format!("{a}/type"), json!("float"), "group_0.input_activations.type", "the type of the weights"),
        (format!("{a}/dynamic"), json!("local"), "group_0.input_activations.dynamic", "true or false"),
        (format!("{a}/dynamic"), json!(false), "group_0.input_activations.strategy", "tensor"),
        (format!("{a}/strategy"), json!("channel"), "group_0.input_activations.strategy", "token"),
    ];
    for (pointer, value, field, found) in rows {
        let mut block = golden("w8a8_rtn").to_json();
        *block.pointer_mut(&pointer).unwrap() = value;
        let error = of(block).expect_err(&pointer).to_string();
        assert!(error.starts_with("config.json: field ") && error.contains(field), "{pointer}: {error}");
        assert!(error.contains(found), "{pointer}: {error}");
    }
    assert!(of(json!({"quant_method": "smooth_quant", "quant_dtype": "int4"})).is_err());
    assert!(of(json!({"bits": 4})).is_err());
    assert!(of(json!([])).is_err());
}
