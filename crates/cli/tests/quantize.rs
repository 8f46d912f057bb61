//! `planish quantize`: what it writes, that it is what other programs expect, and what it refuses.
mod program;

use program::tensors::File;
use program::{Program, answers, contents, inspect, quantize, read_json, scratch, tiny};
use serde_json::{Value, json};
use std::path::Path;

const LINEARS: [&str; 7] = [
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
];
const FILES: [&str; 6] = [
    "config.json",
    "model.safetensors",
    "planish_digests.json",
    "planish_report.html",
    "planish_report.json",
    "recipe.yaml",
];

fn linears() -> Vec<String> {
    (0..2).flat_map(|i| LINEARS.map(|name| format!("model.layers.{i}.{name}"))).collect()
}

/// Every linear but those in `kept` has codes of type `codes` and a float scale per row; the rest is as it was.
fn assert_tensors(dir: &Path, codes: &str, scale: &str, kept: &[&str]) {
    let (original, found) = (File::open(&tiny().join("model.safetensors")), File::open(&dir.join("model.safetensors")));
    let quantized = |name: &str| linears().contains(&name.to_owned()) && !kept.iter().any(|k| name.ends_with(k));
    let mut expected = Vec::new();
    for name in original.names() {
        let (dtype, shape) = original.kind(&name);
        let linear = name.strip_suffix(".weight").unwrap();
        if quantized(linear) {
            let scale = format!("{linear}.{scale}");
            assert_eq!(found.kind(&scale), ("F32".into(), vec![shape[0], 1]), "{scale}");
            assert_eq!(found.kind(&name), (codes.into(), shape), "{name}");
            expected.push(scale);
        } else {
            assert_eq!(found.kind(&name), (dtype, shape), "{name}");
        }
        expected.push(name);
    }
    expected.sort();
    assert_eq!(found.names(), expected);
    assert_eq!(found.header["__metadata__"], json!({"format": "pt"}));
}

/// Loads with every digest right, is of this kind, and answers.
fn assert_runs(dir: &Path, method: &str) {
    let document = inspect(dir).words("--verify --json").run().json();
    assert_eq!(document["verified"], json!(true));
    assert_eq!(document["problems"], json!([]));
    assert_eq!(document["quantization_config"]["quant_method"], method);
    answers(dir);
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().unwrap().keys().map(String::as_str).collect()
}

/// The report's self-checks, each present and passed.
fn assert_report(report: &Value, smoothed: bool) {
    let checks = &report["self_checks"];
    match smoothed {
        true => assert!(checks["smoothing_kl"].as_f64().unwrap() < 1e-5, "{checks}"),
        false => assert!(checks["smoothing_kl"].is_null(), "{checks}"),
    }
    let kl = checks["quantized_kl_mean"].as_f64().unwrap();
    assert!(kl > 0.0 && kl < 0.5, "{checks}");
    assert!(checks["tokens"].as_u64().unwrap() >= 32, "{checks}");
    let layers = report["layers"].as_array().unwrap();
    assert_eq!(layers.len(), 2);
    for layer in layers {
        assert_eq!(layer["smoothing"].as_array().unwrap().is_empty(), !smoothed);
        assert!(layer["state_error"].as_f64().unwrap() < 0.5);
        for linear in layer["linears"].as_array().unwrap() {
            let error = linear["output_error"].as_f64().unwrap();
            assert!(error > 0.0 && error < 0.3, "{linear}");
            assert_eq!(linear["fallback"], json!(false), "{linear}");
        }
    }
}

#[test]
fn int8_by_default_with_smoothing_and_gptq() {
    let dir = scratch();
    let out = dir.path().join("out");
    let printed = quantize(&tiny(), &out).words("--json").run().json();
    assert_eq!(contents(&out).keys().collect::<Vec<_>>(), FILES);
    assert_tensors(&out, "I8", "weight_scale", &[]);
    assert_runs(&out, "compressed-tensors");
    let report = read_json(&out.join("planish_report.json"));
    assert_report(&report, true);
    let settings = &report["settings"];
    assert_eq!([&settings["quant_dtype"], &settings["smooth"], &settings["weights"]], ["int8", "0.8", "gptq"]);
    assert_eq!(report["warnings"], json!([]));
    for (key, value) in report.as_object().unwrap() {
        assert_eq!(&printed[key], value, "--json prints the report: {key}");
    }
    assert_eq!(printed["work_dir"], json!(out.to_str().unwrap()));
    let html = std::fs::read_to_string(out.join("planish_report.html")).unwrap();
    assert!(html.contains("<svg") && html.contains("down_proj"));
}

#[test]
fn quantization_config_is_what_compressed_tensors_writes() {
    let dir = scratch();
    for (name, flags, golden) in [
        ("int8", "--weights rtn --smooth off", "w8a8_rtn"),
        ("gptq", "", "w8a8_sq_gptq_f32"),
        ("fp8", "--quant-dtype fp8", "fp8_dynamic"),
    ] {
        let out = dir.path().join(name);
        quantize(&tiny(), &out).words(flags).run().ok();
        let found = read_json(&out.join("config.json"));
        let expected = &mut read_json(&program::golden(golden).join("config.json"))["quantization_config"];
        // That tool names GPTQ's order for whole rows too, which older readers of the format refuse.
        expected["config_groups"]["group_0"]["weights"]["actorder"] = Value::Null;
        let expected = &*expected;
        assert_eq!(&found["quantization_config"], expected, "{name}");
        assert_eq!(keys(&found["quantization_config"]), keys(expected), "{name}: in the same order");
        // All else is the original's.
        let mut without = found.clone();
        without.as_object_mut().unwrap().shift_remove("quantization_config");
        assert_eq!(without, read_json(&tiny().join("config.json")));
    }
}

#[test]
fn round_to_nearest_without_smoothing_keeps_the_floats() {
    let dir = scratch();
    let out = dir.path().join("out");
    quantize(&tiny(), &out).words("--weights rtn --smooth off").run().ok();
    assert_tensors(&out, "I8", "weight_scale", &[]);
    assert_runs(&out, "compressed-tensors");
    assert_report(&read_json(&out.join("planish_report.json")), false);
    let (original, found) = (File::open(&tiny().join("model.safetensors")), File::open(&out.join("model.safetensors")));
    for name in original.names().iter().filter(|n| found.kind(n).0 == "BF16") {
        assert_eq!(original.bytes(name), found.bytes(name), "{name}");
    }
}

#[test]
fn integers_of_round_to_nearest_are_llm_compressors() {
    let dir = scratch();
    let out = dir.path().join("out");
    quantize(&tiny(), &out).words("--weights rtn --smooth off").run().ok();
    let found = File::open(&out.join("model.safetensors"));
    let golden = File::open(&program::golden("w8a8_rtn").join("model.safetensors"));
    let (mut all, mut off) = (0, 0);
    for name in linears().iter().map(|n| format!("{n}.weight")) {
        for (a, b) in found.bytes(&name).iter().zip(golden.bytes(&name)) {
            let step = (*a as i8 as i32 - *b as i8 as i32).abs();
            assert!(step <= 1, "{name}: {step} steps apart");
            (all, off) = (all + 1, off + usize::from(step > 0));
        }
    }
    assert_eq!(all, 294_912);
    // Its scales are rounded to bf16 and end at 127.5, so some integers lie one step apart.
    assert!(off * 4 < all, "{off} of {all}");
}

#[test]
fn fp8_needs_no_smoothing() {
    let dir = scratch();
    for name in ["fp8", "float8_e4m3fn"] {
        quantize(&tiny(), &dir.path().join(name)).words("--quant-dtype").arg(name).run().ok();
    }
    let out = dir.path().join("fp8");
    assert_tensors(&out, "F8_E4M3", "weight_scale", &[]);
    assert_runs(&out, "compressed-tensors");
    assert_report(&read_json(&out.join("planish_report.json")), false);
    program::assert_same_bytes(&out, &dir.path().join("float8_e4m3fn"));
    let out = dir.path().join("smoothed");
    quantize(&tiny(), &out).words("--quant-dtype fp8 --smooth 0.5 --weights gptq").run().ok();
    assert_runs(&out, "compressed-tensors");
    assert_report(&read_json(&out.join("planish_report.json")), true);
}

#[test]
fn lmdeploys_layout() {
    let dir = scratch();
    for (dtype, codes) in [("int8", "I8"), ("float8_e4m3fn", "F8_E4M3"), ("float8_e5m2", "F8_E5M2")] {
        let out = dir.path().join(dtype);
        quantize(&tiny(), &out).words("--format lmdeploy --quant-dtype").arg(dtype).run().ok();
        assert_tensors(&out, codes, "scale", &[]);
        assert_runs(&out, "smooth_quant");
        let config = &read_json(&out.join("config.json"))["quantization_config"];
        assert_eq!(config, &json!({"quant_dtype": dtype, "quant_method": "smooth_quant"}));
    }
}

#[test]
fn lmdeploys_command_line() {
    let dir = scratch();
    let (ours, theirs) = (dir.path().join("ours"), dir.path().join("theirs"));
    quantize(&tiny(), &ours).words("--quant-dtype fp8").run().ok();
    let lite = Program::new("lite smooth_quant").arg(tiny()).arg("--work-dir").arg(&theirs);
    lite.words("--quant-dtype fp8 --batch-size 1 --calib-dataset").arg(program::data("calibration.json")).run().ok();
    program::assert_same_bytes(&ours, &theirs);
}

#[test]
fn ignored_linears_stay_in_float() {
    let dir = scratch();
    let out = dir.path().join("out");
    quantize(&tiny(), &out).words("--ignore re:.*down_proj --ignore lm_head").run().ok();
    assert_tensors(&out, "I8", "weight_scale", &["down_proj"]);
    assert_runs(&out, "compressed-tensors");
    let ignore = &read_json(&out.join("config.json"))["quantization_config"]["ignore"];
    assert_eq!(ignore, &json!(["lm_head", "model.layers.0.mlp.down_proj", "model.layers.1.mlp.down_proj"]));
    let out = dir.path().join("named");
    quantize(&tiny(), &out).words("--ignore model.layers.1.self_attn.o_proj").run().ok();
    assert_tensors(&out, "I8", "weight_scale", &["layers.1.self_attn.o_proj"]);
    assert_runs(&out, "compressed-tensors");
}

/// Code that the configuration names is kept for those who load the copy; without that it is none of the model's files.
#[test]
fn code_that_a_configuration_names_is_copied() {
    let dir = scratch();
    let model = program::copy_of(&tiny(), &dir.path().join("model"));
    std::fs::write(model.join("modeling_tiny.py"), "raise SystemExit('run')").unwrap();
    let mut config = read_json(&model.join("config.json"));
    for named in [false, true] {
        if named {
            config["auto_map"] = json!({"AutoModelForCausalLM": "modeling_tiny.Tiny"});
            std::fs::write(model.join("config.json"), config.to_string()).unwrap();
        }
        let out = dir.path().join(format!("out-{named}"));
        quantize(&model, &out).words("--weights rtn --smooth off").run().ok();
        assert_eq!(out.join("modeling_tiny.py").exists(), named);
        assert_eq!(read_json(&out.join("config.json"))["auto_map"], config["auto_map"]);
        inspect(&out).words("--verify").run().ok();
    }
}
