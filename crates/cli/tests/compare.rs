//! `planish compare` and `planish inspect`: a model with itself, and with its quantized copy.
mod program;

use program::{Program, copy_of, quantize, scratch, tiny, with_words};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Some text, long enough for several windows of the byte tokenizer.
fn text(dir: &Path) -> PathBuf {
    let path = dir.join("data.txt");
    std::fs::write(&path, "Iron is shaped by many light blows. ".repeat(40)).unwrap();
    path
}

fn compare(a: &Path, b: &Path, data: &Path) -> Program {
    compare_windows("--windows 6 --window-len 100", a, b, data)
}

fn compare_windows(windows: &str, a: &Path, b: &Path, data: &Path) -> Program {
    Program::new("compare").words(windows).arg(a).arg(b).arg("--data").arg(data)
}

fn number(document: &Value, pointer: &str) -> f64 {
    document.pointer(pointer).and_then(Value::as_f64).unwrap_or_else(|| panic!("{pointer} in {document}"))
}

#[test]
fn a_model_is_itself() {
    let dir = scratch();
    let model = with_words(&tiny(), &dir.path().join("model"));
    let copy = copy_of(&model, &dir.path().join("copy"));
    let document = compare(&model, &copy, &text(dir.path())).words("--json").run().json();
    assert_eq!(document["kl"], json!({"mean": 0.0, "p99": 0.0, "max": 0.0}));
    assert_eq!(document["top1_agreement"], json!(1.0));
    assert_eq!(document["original"], document["quantized"]);
    for sample in document["samples"].as_array().unwrap() {
        assert_eq!(sample["original"], sample["quantized"]);
    }
}

#[test]
fn a_quantized_copy_is_close_and_the_keys_are_the_contracts() {
    let dir = scratch();
    let model = with_words(&tiny(), &dir.path().join("model"));
    let quantized = dir.path().join("quantized");
    quantize(&model, &quantized).run().ok();
    assert!(quantized.join("tokenizer.json").exists());
    let document = compare(&model, &quantized, &text(dir.path())).words("--json").run().json();
    let keys: Vec<&str> = document.as_object().unwrap().keys().map(String::as_str).collect();
    for key in ["windows", "tokens", "original", "quantized", "kl", "top1_agreement", "samples"] {
        assert!(keys.contains(&key), "{key} in {keys:?}");
    }
    assert_eq!((&document["windows"], &document["tokens"]), (&json!(6), &json!(600)));
    assert_eq!(document["original"]["bytes"], json!(656_640));
    assert!(number(&document, "/quantized/bytes") < 400_000.0);
    let (a, b) = (number(&document, "/original/perplexity"), number(&document, "/quantized/perplexity"));
    assert!(a > 1.0 && (a / b).ln().abs() < 0.1, "{a} and {b}");
    let kl = ["mean", "p99", "max"].map(|k| number(&document, &format!("/kl/{k}")));
    assert!(0.0 < kl[0] && kl[0] < 0.05 && kl[0] < kl[1] && kl[1] <= kl[2], "{kl:?}");
    let agreement = number(&document, "/top1_agreement");
    assert!((0.8..=1.0).contains(&agreement), "{agreement}");
    let samples = document["samples"].as_array().unwrap();
    assert!(!samples.is_empty());
    for sample in samples {
        let keys: Vec<&str> = sample.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["prompt", "original", "quantized"]);
    }
    let again = compare(&model, &quantized, &text(dir.path())).words("--json --threads 1").run().json();
    assert_eq!(again["kl"], document["kl"]);
}

#[test]
fn the_page_needs_no_network() {
    let dir = scratch();
    let model = with_words(&tiny(), &dir.path().join("model"));
    let quantized = dir.path().join("quantized");
    quantize(&model, &quantized).run().ok();
    let page = dir.path().join("page.html");
    let output = compare(&model, &quantized, &text(dir.path())).arg("--html").arg(&page).run().ok();
    assert!(output.stdout.contains("KL") && output.stdout.contains("erplexity"), "{}", output.stdout);
    for path in [page, quantized.join("planish_report.html")] {
        let html = std::fs::read_to_string(&path).unwrap();
        assert!(html.contains("<svg") && html.contains("</html>"), "{}", path.display());
        let html = html.replace("http://www.w3.org/", "");
        for outside in ["http://", "https://", "src=\"//", "@import"] {
            assert!(!html.contains(outside), "{}: {outside}", path.display());
        }
    }
}

#[test]
fn wrong_input_is_named() {
    let dir = scratch();
    let data = text(dir.path());
    let model = with_words(&tiny(), &dir.path().join("model"));
    compare(&tiny(), &model, &data).run().fails(&["tokenizer.json"]);
    compare(&model, &dir.path().join("nothing"), &data).run().fails(&["nothing"]);
    compare(&model, &model, &dir.path().join("no_such.txt")).run().fails(&["--data", "no_such.txt"]);
    compare(&model, &model, &data).words("--device null").run().fails(&["--device", "null"]);
    let other = with_words(&program::golden("llama3_rope_bias_untied"), &dir.path().join("other"));
    compare(&model, &other, &data).run().ok();
    let empty = dir.path().join("empty.txt");
    std::fs::write(&empty, "").unwrap();
    compare(&model, &model, &empty).run().fails(&["--data", "empty.txt", "16 tokens", "found 0"]);
    for (windows, flag) in [("--windows 0", "--windows: expected"), ("--window-len 1", "--window-len: expected")] {
        compare_windows(windows, &model, &model, &data).run().fails(&[flag, "found"]);
    }
    let nowhere = dir.path().join("no/such/page.html");
    compare(&model, &model, &data).words("--no-samples --html").arg(&nowhere).run().fails(&["--html", "page.html"]);
}

#[test]
fn inspect_and_check_env_describe() {
    let document = Program::new("inspect --json --tensors").arg(tiny()).run().json();
    assert_eq!((&document["layers"], &document["hidden"], &document["vocab"]), (&json!(2), &json!(128), &json!(256)));
    assert_eq!(document["quantization_config"], Value::Null);
    let names = program::tensors::File::open(&tiny().join("model.safetensors")).names();
    assert_eq!(document["tensors"].as_array().unwrap().len(), names.len());
    let text = Program::new("inspect").arg(tiny()).run().ok().stdout;
    assert!(text.contains("656.6 kB") && text.contains("BF16"), "{text}");
}

#[test]
fn check_env_lists_devices_and_what_each_runs() {
    let env = Program::new("check-env --json").run().json();
    assert_eq!(env["version"], env!("CARGO_PKG_VERSION"));
    let has_gpu = env["no_gpu"].is_null();
    // A reason for having no GPU, or a driver and at least one.
    assert!(if has_gpu { env["cuda_driver"].is_string() } else { env["no_gpu"].is_string() }, "{env}");
    let devices = env["devices"].as_array().unwrap();
    assert_eq!(
        (&devices[0]["name"], &devices[0]["capability"], devices.len() > 1),
        (&json!("cpu"), &Value::Null, has_gpu)
    );
    for device in devices {
        assert!(
            ["description", "int8", "fp8"].iter().all(|key| device[key].as_str().is_some_and(|text| !text.is_empty()))
        );
        assert!(
            device["memory_total"].as_u64() >= device["memory_free"].as_u64() && device["memory_total"] != 0,
            "{device}"
        );
        assert!(device["name"] == "cpu" || device["capability"].as_str().unwrap().contains('.'), "{device}");
    }
    let text = Program::new("check-env --device cpu").run().ok().stdout;
    assert!(
        ["cpu: ", "memory", "INT8", "FP8"].iter().all(|part| text.contains(part)) && !text.contains("cuda:"),
        "{text}"
    );
    assert_eq!(Program::new("check-env --device cpu --json").run().json()["devices"].as_array().unwrap().len(), 1);
    Program::new("check-env --device cuda:99").run().fails(&["--device cuda:99"]);
    for wrong in ["tpu", "cuda:1,", "cuda:", "cuda:1,1", "cuda:x"] {
        let refused = Program::new("check-env --device").arg(wrong).run();
        assert!(refused.code == 2 && refused.stderr.contains("expected auto, cpu, cuda, cuda:N or null"), "{wrong}");
        assert!(refused.stderr.contains(wrong) && refused.stdout.is_empty(), "{}", refused.stderr);
    }
    Program::new("check-env --device null").run().fails(&["--device: expected a device that computes", "null"]);
}
