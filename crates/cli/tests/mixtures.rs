//! Mixtures of experts through the real program: quantized, inspected, run.
mod program;

use program::tensors::File;
use program::{answers, golden, inspect, quantize, read_json, scratch};
use serde_json::json;

#[test]
fn experts_are_quantized_by_name_and_routers_never() {
    let dir = scratch();
    let out = dir.path().join("int8");
    let model = golden("qwen2_moe");
    quantize(&model, &out).words("--ignore re:.*experts\\.2\\.").run().ok();
    let file = File::open(&out.join("model.safetensors"));
    for layer in 0..2 {
        let kind = |module: &str| file.kind(&format!("model.layers.{layer}.mlp.{module}.weight")).0;
        for linear in ["gate_proj", "up_proj", "down_proj"] {
            assert_eq!(kind(&format!("experts.2.{linear}")), "BF16");
            assert_eq!(kind(&format!("experts.3.{linear}")), "I8");
            assert_eq!(kind(&format!("shared_expert.{linear}")), "I8");
        }
        assert_eq!((kind("gate"), kind("shared_expert_gate")), ("BF16".into(), "BF16".into()));
    }
    let config = read_json(&out.join("config.json"));
    let ignored = config["quantization_config"]["ignore"].as_array().unwrap();
    for name in ["mlp.gate", "mlp.shared_expert_gate", "mlp.experts.2.up_proj"] {
        assert!(ignored.contains(&json!(format!("model.layers.1.{name}"))), "{name}: {ignored:?}");
    }
    let report = read_json(&out.join("planish_report.json"));
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("model.layers.0, model.layers.1: experts of one layer differ in scheme"), "{warnings}");
    let tokens = &report["layers"][0]["experts"]["tokens"];
    assert_eq!(tokens.as_array().unwrap().len(), 4, "{tokens}");
    assert!(report["self_checks"]["quantized_kl_mean"].as_f64().unwrap() < 0.05, "{}", report["self_checks"]);
    inspect(&out).words("--verify").run().ok();
    answers(&out);
}

#[test]
fn mixtures_in_fp8_stay_close() {
    let dir = scratch();
    for model in ["mixtral", "qwen2_moe", "qwen3_moe"] {
        for flags in ["--quant-dtype fp8", "--scheme FP8_BLOCK"] {
            let out = dir.path().join(format!("{model}{}", flags.len()));
            let document = quantize(&golden(model), &out).words("--json").words(flags).run().json();
            let kl = document["self_checks"]["quantized_kl_mean"].as_f64().unwrap();
            assert!(kl > 0.0 && kl < 0.2, "{model} {flags}: {kl}");
            let linears = document["layers"][0]["linears"].as_array().unwrap();
            assert!(linears.iter().all(|l| l["scheme"] == "float8_e4m3fn" && l["algorithm"] == "rtn"), "{model}");
            inspect(&out).words("--verify").run().ok();
            answers(&out);
        }
    }
}

#[test]
fn few_tokens_are_said() {
    let dir = scratch();
    let out = dir.path().join("int8");
    quantize(&golden("mixtral"), &out).words("--calib-samples 2").run().ok();
    let report = read_json(&out.join("planish_report.json"));
    assert_eq!(report["layers"][1]["experts"]["on_all_tokens"], json!([0, 1, 2, 3]));
    let warnings = report["warnings"].to_string();
    assert!(warnings.contains("model.layers.1: experts [0, 1, 2, 3] were given fewer than"), "{warnings}");
}

#[test]
fn experts_and_active_parameters_are_shown() {
    let document = inspect(&golden("qwen2_moe")).words("--json").run().json();
    let experts = json!({
        "count": 4, "per_token": 2, "ffn": 32, "shared_ffn": 48, "normalized": false, "layers": 2,
    });
    assert_eq!(document["experts"], experts);
    // Two of four experts of three matrices of 32 x 64 in each of two layers are idle.
    let (all, active) = (&document["parameters"], &document["active_parameters"]);
    assert_eq!(all.as_u64().unwrap() - active.as_u64().unwrap(), 2 * 2 * 3 * 32 * 64);
    let text = inspect(&golden("mixtral")).run().ok().stdout;
    assert!(text.contains("experts       4 of ffn 32 in 2 layers, 2 for each token\n"), "{text}");
    assert!(text.contains("of them for each token"), "{text}");
    let dense = inspect(&golden("llama")).words("--json").run().json();
    assert!(dense["experts"].is_null() && dense["parameters"] == dense["active_parameters"], "{dense}");
}
