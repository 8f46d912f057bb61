//! Comparisons through handles: a model with itself, a quantized model with its original, and what is refused.
use planish_checkpoint::{config::Config, shards::ModelFiles};
use planish_cpu::Scalar;
use planish_engine::{EngineOptions, Handle};
use planish_eval::{Error, compare, perplexity};
use planish_model::Plan;
use planish_tensor::{DType, FloatMath};
use std::path::{Path, PathBuf};

fn data(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    match name {
        "base" => root.join("tests/data/base"),
        _ => root.join("../model/tests/data").join(name),
    }
}

/// The tiny Llamas, with room for one sequence of 96 tokens.
fn open(name: &str) -> Handle {
    let dir = data(name);
    let plan = Plan::new(&Config::open(&dir).unwrap()).unwrap();
    let options = EngineOptions {
        kv_pages: Some(6),
        max_model_len: Some(96),
        max_batch: Some(4),
        // As the references were computed.
        kv_dtype: Some(DType::F32),
        math: Some(FloatMath::F32),
        ..Default::default()
    };
    Handle::start(Scalar, plan, &ModelFiles::open(&dir).unwrap(), &options).unwrap()
}

fn prompts() -> Vec<Vec<u32>> {
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(data("prompts.json")).unwrap()).unwrap();
    json["prompts"].as_array().unwrap().iter().map(ids).collect()
}

fn ids(json: &serde_json::Value) -> Vec<u32> {
    json.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
}

fn cut(prompts: &[Vec<u32>]) -> Vec<&[u32]> {
    prompts.iter().map(Vec::as_slice).collect()
}

#[test]
fn a_model_equals_itself() {
    let (prompts, mut seen) = (prompts(), Vec::new());
    let windows = cut(&prompts);
    let found = compare::run(&open("llama"), &open("llama"), &windows, &mut |at, of| seen.push((at, of))).unwrap();
    assert_eq!((found.kl.mean, found.kl.p99, found.kl.max), (0.0, 0.0, 0.0));
    assert_eq!(found.top1_agreement, 1.0);
    assert_eq!(found.original, found.quantized);
    assert_eq!((found.windows, found.tokens, found.kl_positions.len()), (2, 101, 101));
    assert_eq!(seen.last(), Some(&(101, 101)));
    assert!(seen.is_sorted());
}

/// The mean of the windows' means, from the reference's own logits of the first prompt.
#[test]
fn perplexity_equals_the_references() {
    let files = ModelFiles::open(&data("llama").join("expected")).unwrap();
    use planish_checkpoint::source::TensorSource;
    let logits = files.tensor("logits_0").unwrap().to_f32();
    let prompt = &prompts()[0];
    let nll = logits.chunks(256).zip(&prompt[1..]).map(|(row, &next)| {
        let sum: f64 = row.iter().map(|&x| (x as f64).exp()).sum();
        sum.ln() - row[next as usize] as f64
    });
    let expected = (nll.sum::<f64>() / (prompt.len() - 1) as f64).exp();
    let found = perplexity::run(&open("llama"), &[prompt], &mut |_, _| ()).unwrap();
    assert!((found.perplexity / expected - 1.0).abs() < 1e-4, "{} not {expected}", found.perplexity);
    assert_eq!((found.windows, found.tokens, found.nll.len()), (1, 37, 1));
}

#[test]
fn a_quantized_model_and_its_original() {
    let prompts = prompts();
    let windows = cut(&prompts);
    let original = open("base");
    let found = compare::run(&original, &open("w8a8_rtn"), &windows, &mut |_, _| ()).unwrap();
    // The reference rounds activations with absmax/127.5, not absmax/127.
    assert!((found.kl.mean / 0.0204489 - 1.0).abs() < 0.15, "mean KL {}", found.kl.mean);
    assert!((found.top1_agreement - 0.900990).abs() < 0.025, "top-1 {}", found.top1_agreement);
    assert!(found.kl.mean < found.kl.p99 && found.kl.p99 < found.kl.max);
    let alone = perplexity::run(&original, &windows, &mut |_, _| ()).unwrap();
    assert!((found.original.perplexity / alone.perplexity - 1.0).abs() < 1e-6);
    let [first, second] = &found.per_window[..] else { panic!("{:?}", found.per_window) };
    assert_eq!((first.tokens, second.tokens), (37, 64));
    let nll = (first.quantized_nll + second.quantized_nll) / 2.0;
    assert!((found.quantized.perplexity / nll.exp() - 1.0).abs() < 1e-9);
    let kl = (37.0 * first.kl + 64.0 * second.kl) / 101.0;
    assert!((found.kl.mean / kl - 1.0).abs() < 1e-9);
}

#[test]
fn the_json_is_the_contracts() {
    let prompts = prompts();
    let mut found = compare::run(&open("base"), &open("w8a8_rtn"), &[&prompts[0]], &mut |_, _| ()).unwrap();
    (found.original.bytes, found.quantized.bytes) = (2000, 1100);
    let sample = |s: &str| s.to_string();
    found.samples.push(compare::Sample { prompt: sample("Hi"), original: sample("a"), quantized: sample("b\nc") });
    let json = serde_json::to_value(&found).unwrap();
    assert_eq!((json["windows"].as_u64(), json["tokens"].as_u64()), (Some(1), Some(37)));
    assert_eq!((json["original"]["bytes"].as_u64(), json["quantized"]["bytes"].as_u64()), (Some(2000), Some(1100)));
    for (outer, inner) in
        [("original", "perplexity"), ("quantized", "perplexity"), ("kl", "mean"), ("kl", "p99"), ("kl", "max")]
    {
        assert!(json[outer][inner].as_f64().unwrap() > 0.0, "{outer}.{inner}");
    }
    assert!(json["top1_agreement"].as_f64().unwrap() > 0.5);
    assert_eq!(json["samples"], serde_json::json!([{"prompt": "Hi", "original": "a", "quantized": "b\nc"}]));
    assert!(json.get("note").is_none() && json.get("kl_positions").is_none());
    let text = found.to_text();
    for part in ["perplexity", "2.0 kB", "1.1 kB", "55.0 %", "37 tokens in 1 window\n", "quantized  b\n           c"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let llama = open("llama");
    let mut quiet = |_, _| ();
    let run = |windows: &[&[u32]], progress: &mut dyn FnMut(usize, usize)| {
        compare::run(&llama, &open("llama_f32"), windows, progress).unwrap_err().to_string()
    };
    assert_eq!(run(&[], &mut quiet), "windows: expected at least 1, found 0");
    assert_eq!(run(&[&[1, 2], &[3]], &mut quiet), "tokens of a window: expected at least 2, found 1");
    assert!(run(&[&[1, 2], &[3, 256]], &mut quiet).starts_with("window 1: the original model failed: "));
    assert!(run(&[&[1; 97]], &mut quiet).contains("97 tokens"));
    assert!(matches!(compare::run(&llama, &llama, &[&[1, 2]], &mut quiet), Err(Error::SameHandle)));
    assert!(matches!(perplexity::run(&llama, &[&[1]], &mut quiet), Err(Error::TooSmall { .. })));
    // Nothing of the failed runs is left in the way.
    assert!(perplexity::run(&llama, &[&[1, 2, 3]], &mut quiet).unwrap().perplexity.is_finite());
}
