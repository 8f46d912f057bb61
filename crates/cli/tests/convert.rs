//! `planish convert`: from one layout to the other and back, and what it refuses.
mod program;

use program::tensors::File;
use program::{Program, answers, copy_of, golden, quantize, read_json, scratch, tiny};
use std::path::Path;

fn convert(model: &Path, format: &str, dir: &Path) -> Program {
    Program::new("convert").arg(model).words("--format").arg(format).arg("--work-dir").arg(dir)
}

#[test]
fn layouts_convert_both_ways_without_changing_a_number() {
    for (name, there, back) in [
        ("lmdeploy_int8", "compressed-tensors", "lmdeploy"),
        ("lmdeploy_fp8", "compressed-tensors", "lmdeploy"),
        ("w8a8_sq_gptq_f32", "lmdeploy", "compressed-tensors"),
        ("fp8_dynamic", "lmdeploy", "compressed-tensors"),
    ] {
        let (dir, model) = (scratch(), golden(name));
        let (first, second) = (dir.path().join("first"), dir.path().join("second"));
        let said = convert(&model, there, &first).words("--json").run().json();
        assert_eq!(said["format"], there);
        convert(&first, back, &second).run().ok();
        assert_eq!(answers(&model), answers(&first), "{name}");
        let (a, b) = (File::open(&model.join("model.safetensors")), File::open(&second.join("model.safetensors")));
        assert_eq!(a.names(), b.names(), "{name}");
        for tensor in a.names().iter().filter(|n| !n.ends_with("scale")) {
            assert!(a.kind(tensor) == b.kind(tensor) && a.bytes(tensor) == b.bytes(tensor), "{name} {tensor}");
        }
        let method = |dir: &Path| read_json(&dir.join("config.json"))["quantization_config"]["quant_method"].clone();
        assert_eq!(method(&second), method(&model), "{name}");
        assert_ne!(method(&first), method(&model), "{name}");
        Program::new("inspect --verify").arg(&second).run().ok();
    }
}

#[test]
fn what_a_layout_cannot_say_is_refused_before_any_work() {
    let refused = |name: &str, pieces: &[&str]| {
        let dir = scratch();
        let to = dir.path().join("out");
        convert(&golden(name), "lmdeploy", &to).run().fails(pieces);
        assert!(!to.exists(), "{name}");
    };
    refused("fp8_static", &["config.json", "input_activations", "LMDeploy stores no scales", "Static"]);
    refused("fp8_static_kv", &["kv_cache_scheme", "no scales of keys and values"]);
    refused("fp8_block", &["weights.strategy", "a scale for each row", "128"]);
    refused("mxfp8", &["weights.strategy", "Group(32)"]);
    refused("int8_dynamic_token_asym", &["input_activations", "symmetric: false"]);
    refused("mixed_fp8down_int8rest", &["config_groups", "one 8-bit type", "Int8", "Fp8E4M3"]);
    refused("w8a8_lm_head", &["ignore", "lm_head"]);
    refused("llama", &["expected a quantized model", "planish quantize"]);
    let dir = scratch();
    convert(&golden("w8a8_rtn"), "gguf", &dir.path().join("out")).run().code.eq(&2).then_some(()).expect("usage");
}

#[test]
fn e5m2_has_a_home_in_lmdeploys_layout_alone() {
    let dir = scratch();
    let (e5m2, there) = (dir.path().join("e5m2"), dir.path().join("there"));
    quantize(&tiny(), &e5m2).words("--quant-dtype float8_e5m2 --format lmdeploy --calib-samples 4").run().ok();
    assert_eq!(answers(&e5m2).len(), 2);
    convert(&e5m2, "compressed-tensors", &there).run().fails(&["E4M3", "E5M2"]);
    assert!(!there.exists());
    // Onto itself nothing can be written.
    let copy = copy_of(&golden("w8a8_rtn"), &dir.path().join("copy"));
    convert(&copy, "lmdeploy", &copy).words("--overwrite").run().fails(&["copy"]);
}
