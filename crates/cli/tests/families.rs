//! Families other than Llama through the real program: quantized, inspected, run, refused.
mod program;

use program::tensors::File;
use program::{Program, answers, copy_of, golden, inspect, quantize, read_json, scratch};

/// One for each way in which files and networks differ: packed modules, `1 + w`, LayerNorm and learned positions,
/// parallel halves, norms behind, rows by key/value head.
#[test]
fn families_keep_their_conventions() {
    let dir = scratch();
    for name in ["phi3_longrope", "gemma2", "opt", "gpt_neox", "olmo2", "internlm2"] {
        let out = dir.path().join(name);
        quantize(&golden(name), &out).run().ok();
        let (before, after) =
            (File::open(&golden(name).join("model.safetensors")), File::open(&out.join("model.safetensors")));
        for tensor in before.names() {
            assert_eq!(before.kind(&tensor).1, after.kind(&tensor).1, "{name}: {tensor}");
        }
        let extra: Vec<String> = after.names().into_iter().filter(|n| !before.names().contains(n)).collect();
        assert!(extra.iter().all(|n| n.ends_with(".weight_scale")), "{name}: {extra:?}");
        let report = read_json(&out.join("planish_report.json"));
        let checks = &report["self_checks"];
        assert!(checks["smoothing_kl"].as_f64().unwrap().abs() <= 1e-7, "{name}: {checks}");
        assert!(checks["quantized_kl_mean"].as_f64().unwrap() < 0.05, "{name}: {checks}");
        let said = report["warnings"].to_string();
        assert_eq!(said.contains("no block's attention_norm is smoothed: no norm"), name == "olmo2", "{name}: {said}");
        assert_eq!(said.contains("no block's mlp_inner is smoothed: the non"), name == "gpt_neox", "{name}: {said}");
        inspect(&out).words("--verify").run().ok();
        answers(&out);
    }
}

/// A module that holds several linears is kept in float as one.
#[test]
fn packed_modules_are_ignored_whole() {
    let dir = scratch();
    let out = dir.path().join("phi3");
    quantize(&golden("phi3_longrope"), &out).words("--ignore re:.*qkv_proj").run().ok();
    let file = File::open(&out.join("model.safetensors"));
    assert_eq!(file.kind("model.layers.0.self_attn.qkv_proj.weight").0, "BF16");
    assert_eq!(file.kind("model.layers.0.mlp.gate_up_proj.weight").0, "I8");
    let ignored = read_json(&out.join("config.json"))["quantization_config"]["ignore"].to_string();
    assert_eq!(ignored.matches("layers.0.self_attn.qkv_proj").count(), 1, "{ignored}");
    answers(&out);
}

#[test]
fn other_tensors_are_listed() {
    let dir = scratch();
    let model = copy_of(&golden("qwen3"), &dir.path().join("model"));
    let config = std::fs::read_to_string(model.join("config.json")).unwrap();
    std::fs::write(model.join("config.json"), config.replace("Qwen3ForCausalLM", "Qwen2ForCausalLM")).unwrap();
    Program::new("inspect").arg(&model).run().fails(&[
        "tensors of a Qwen2 model: missing: model.layers.0.self_attn.k_proj.bias",
        "left over: model.layers.0.self_attn.k_norm.weight, model.layers.0.self_attn.q_norm.weight",
    ]);
}
