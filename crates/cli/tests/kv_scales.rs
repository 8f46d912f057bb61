//! `planish quantize --kv-scales fp8`, or a recipe's `kv_cache_scheme`: scales of keys and values in the checkpoint.
mod program;

use program::tensors::File;
use program::{
    Program, answers, assert_same_bytes, golden, inspect, prompts, quantize, read_json, scratch, tiny, with_words,
};
use serde_json::{Value, json};
use std::path::Path;

const SCHEME: &str = "{num_bits: 8, type: float, strategy: tensor, dynamic: false, symmetric: true}";

fn recipe(dir: &Path, modifiers: &str) -> std::path::PathBuf {
    let path = dir.join("typed.yaml");
    std::fs::write(&path, format!("a_stage:\n  b_modifiers:\n    {modifiers}\n")).unwrap();
    path
}

fn opened(dir: &Path) -> File {
    File::open(&dir.join("model.safetensors"))
}

/// The one BF16 of a scale.
fn scale(file: &File, name: &str) -> f32 {
    assert_eq!(file.kind(name), ("BF16".into(), vec![1]), "{name}");
    f32::from_bits(u32::from(u16::from_le_bytes(file.bytes(name).try_into().unwrap())) << 16)
}

fn kl(original: &Path, quantized: &Path, kv: &str, dir: &Path) -> f64 {
    let text = dir.join("data.txt");
    std::fs::write(&text, "Iron is shaped by many light blows, and so is steel. ".repeat(30)).unwrap();
    let program = Program::new("compare --json --windows 6 --window-len 100 --kv-dtype").arg(kv).arg(original);
    program.arg(quantized).arg("--data").arg(text).run().json()["kl"]["mean"].as_f64().unwrap()
}

#[test]
fn what_llm_compressor_would_have_written() {
    let dir = scratch();
    let (out, flags) = (dir.path().join("out"), dir.path().join("flags"));
    let text = format!("QuantizationModifier: {{scheme: FP8, ignore: [lm_head], kv_cache_scheme: {SCHEME}}}");
    quantize(&tiny(), &out).arg("--recipe").arg(recipe(dir.path(), &text)).run().ok();
    quantize(&tiny(), &flags).words("--scheme FP8 --kv-scales fp8").run().ok();
    assert_same_bytes(&out, &flags);
    let theirs = golden("fp8_static_kv");
    let section = |dir: &Path| read_json(&dir.join("config.json"))["quantization_config"].clone();
    assert_eq!(section(&out), section(&theirs));
    let (ours, theirs) = (opened(&out), opened(&theirs));
    assert_eq!(ours.names(), theirs.names());
    for name in ours.names().iter().filter(|n| n.ends_with("k_scale") || n.ends_with("v_scale")) {
        let more = scale(&ours, name) / scale(&theirs, name);
        // The tool's running average lies below the largest magnitude.
        assert!((1.0..2.5).contains(&more), "{name}: {more}");
    }
    assert_eq!(read_json(&out.join("planish_report.json"))["settings"]["kv_scales"], "float8_e4m3fn");
    assert!(inspect(&out).words("--verify").run().ok().stdout.contains("with scales of keys and values"));
    let again = dir.path().join("again");
    quantize(&tiny(), &again).arg("--recipe").arg(out.join("recipe.yaml")).run().ok();
    assert_same_bytes(&out, &again);
    let converted = Program::new("convert --format lmdeploy").arg(&out).arg("--work-dir").arg(dir.path().join("no"));
    converted.run().fails(&["kv_cache_scheme"]);
}

/// Scales change no weight, and a cache of FP8 with them costs little.
#[test]
fn a_cache_with_the_scales_runs() {
    let dir = scratch();
    let model = with_words(&tiny(), &dir.path().join("model"));
    let (out, plain) = (dir.path().join("out"), dir.path().join("plain"));
    quantize(&model, &out).words("--kv-scales fp8").run().ok();
    quantize(&model, &plain).words("--kv-scales off").run().ok();
    let (ours, without) = (opened(&out), opened(&plain));
    for name in without.names() {
        assert!(ours.bytes(&name) == without.bytes(&name), "{name}");
    }
    assert_eq!(ours.names().len(), without.names().len() + 4);
    assert_eq!(read_json(&plain.join("planish_report.json"))["settings"]["kv_scales"], Value::Null);
    assert_eq!(read_json(&plain.join("config.json"))["quantization_config"]["kv_cache_scheme"], Value::Null);
    let [bf16, fixed, own] =
        [(&out, "bf16"), (&out, "fp8"), (&plain, "fp8")].map(|(q, kv)| kl(&model, q, kv, dir.path()));
    println!("KL: bf16 {bf16:.2e}, fp8 with the scales {fixed:.2e}, fp8 with a scale for each head {own:.2e}");
    assert!(fixed != own && fixed < bf16 + 0.02, "{bf16} {fixed} {own}");
    assert_eq!(answers(&out).len(), 2);
    let program = Program::new("generate --json --max-new-tokens 8 --ignore-eos --kv-dtype fp8").arg(&out);
    let document = prompts().iter().fold(program, |p, ids| p.arg("--input-ids").arg(ids)).run().json();
    assert_eq!(document["results"][1]["token_ids"].as_array().unwrap().len(), 8);
}

/// Values that smoothing divides are measured divided.
#[test]
fn smoothed_values_have_scales_of_their_own() {
    let dir = scratch();
    let (plain, smoothed) = (dir.path().join("plain"), dir.path().join("smoothed"));
    quantize(&tiny(), &plain).words("--kv-scales fp8 --smooth off --weights rtn").run().ok();
    quantize(&tiny(), &smoothed).words("--kv-scales fp8 --weights rtn").run().ok();
    let of = |dir: &Path, name: &str| scale(&opened(dir), &format!("model.layers.0.self_attn.{name}"));
    let ratio = |name: &str| of(&smoothed, name) / of(&plain, name);
    assert!((ratio("k_scale") - 1.0).abs() < 0.05, "{}", ratio("k_scale"));
    assert!((ratio("v_scale") - 1.0).abs() > 0.1, "{}", ratio("v_scale"));
}

#[test]
fn other_schemes_are_refused_before_any_work() {
    let dir = scratch();
    let out = dir.path().join("out");
    let no = |flags: &str, pieces: &[&str]| {
        quantize(&tiny(), &out).words(flags).run().fails(pieces);
        assert!(!out.exists(), "{flags}");
    };
    no("--kv-scales fp8 --format lmdeploy", &["--kv-scales", "--format lmdeploy", "no place"]);
    no("--kv-scales int8", &["--kv-scales", "expected fp8, off", "int8"]);
    for (change, pieces) in [
        (json!({"num_bits": 4, "type": "float"}), ["kv_cache_scheme.num_bits", "found 4"]),
        (json!({"type": "float", "strategy": "attn_head"}), ["kv_cache_scheme.strategy", "attn_head"]),
        (json!({"type": "int"}), ["kv_cache_scheme.type", "int"]),
        (json!({"type": "float", "dynamic": true}), ["kv_cache_scheme.dynamic", "found true"]),
    ] {
        let text = format!("GPTQModifier: {{scheme: W8A8, ignore: [lm_head], kv_cache_scheme: {change}}}");
        let file = recipe(dir.path(), &text);
        no(&format!("--recipe {}", file.display()), &pieces);
    }
    let file = recipe(dir.path(), "GPTQModifier: {scheme: W8A8, ignore: [lm_head]}");
    no(&format!("--kv-scales fp8 --recipe {}", file.display()), &["--kv-scales fp8 contradicts", "kv_cache_scheme"]);
}
