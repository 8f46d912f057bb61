//! Requests through the handle: golden tokens, alone, together, with few pages, in float and 8-bit.
use planish_checkpoint::{config::Config, shards::ModelFiles, source::TensorSource};
use planish_cpu::Scalar;
use planish_engine::{EngineOptions, Event, FinishReason, Handle, Request, Sampling};
use planish_model::Plan;
use std::path::{Path, PathBuf};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/data").join(name)
}

fn open(name: &str, options: &EngineOptions) -> Handle {
    let dir = data(name);
    let plan = Plan::new(&Config::open(&dir).unwrap()).unwrap();
    Handle::start(Scalar, plan, &ModelFiles::open(&dir).unwrap(), options).unwrap()
}

fn options(kv_pages: u64) -> EngineOptions {
    // One page of the tiny Llama: 16 tokens x 2 x 3 layers x 2 heads x 16 x 4 bytes.
    EngineOptions { kv_cache_memory: Some(kv_pages * 12288), max_model_len: Some(96), ..EngineOptions::default() }
}

fn ids(file: &str, name: &str) -> Vec<u32> {
    let files = ModelFiles::open(&data(file).join("expected")).unwrap();
    files.tensor(name).unwrap().to_f32().iter().map(|&x| x as u32).collect()
}

fn prompts() -> Vec<Vec<u32>> {
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(data("prompts.json")).unwrap()).unwrap();
    serde_json::from_value(json["prompts"].clone()).unwrap()
}

fn request(prompt: &[u32]) -> Request {
    Request { prompt: prompt.to_vec(), max_new_tokens: 24, ..Request::default() }
}

fn collect(stream: planish_engine::Stream) -> (Vec<u32>, Option<FinishReason>) {
    let (mut tokens, mut finish) = (Vec::new(), None);
    for event in stream {
        match event {
            Event::Token { id, .. } => tokens.push(id),
            Event::Done { reason, .. } => finish = Some(reason),
            Event::Prompt(_) => {}
            Event::Failed(e) => panic!("{e}"),
        }
    }
    (tokens, finish)
}

#[test]
fn greedy_equals_transformers() {
    let handle = open("llama", &options(100));
    for (i, prompt) in prompts().iter().enumerate() {
        let (tokens, finish) = collect(handle.generate(request(prompt)).unwrap());
        assert_eq!(tokens, ids("llama", &format!("greedy_{i}")));
        assert_eq!(finish, Some(FinishReason::Length));
    }
}

/// Nine requests over a pool for one and a half: preempted, recomputed, and still the same answers; in 8-bit too.
#[test]
fn together_with_few_pages_equals_alone() {
    for name in ["llama", "w8a8_rtn"] {
        let prompts = prompts();
        let variants: Vec<Vec<u32>> = (0..9).map(|i| prompts[i % 2][i / 2..].to_vec()).collect();
        let alone: Vec<_> = {
            let handle = open(name, &options(100));
            variants.iter().map(|p| collect(handle.generate(request(p)).unwrap()).0).collect()
        };
        let handle = open(name, &options(9));
        let streams: Vec<_> = variants.iter().map(|p| handle.generate(request(p)).unwrap()).collect();
        for (stream, alone) in streams.into_iter().zip(&alone) {
            assert_eq!(&collect(stream).0, alone, "{name}");
        }
    }
}

#[test]
fn sampling_depends_on_the_seed_only() {
    let handle = open("llama", &options(100));
    let sample = |seed| {
        let sampling = Sampling { temperature: 1.0, seed, ..Sampling::default() };
        collect(handle.generate(Request { sampling, ..request(&prompts()[0]) }).unwrap()).0
    };
    assert_eq!(sample(1), sample(1));
    assert_ne!(sample(1), sample(2));
}

#[test]
fn scores_are_the_models_log_probabilities() {
    let handle = open("llama", &options(100));
    let prompt = &prompts()[0];
    let mut rows = Vec::new();
    for chunk in handle.score(prompt.clone()).unwrap() {
        let chunk = chunk.unwrap();
        assert_eq!(chunk.first * 256, rows.len());
        rows.extend(chunk.log_probs);
    }
    let logits = ModelFiles::open(&data("llama").join("expected")).unwrap().tensor("logits_0").unwrap().to_f32();
    for (row, logits) in rows.chunks(256).zip(logits.chunks(256)) {
        let sum: f64 = logits.iter().map(|&x| (x as f64).exp()).sum();
        for (p, x) in row.iter().zip(logits) {
            assert!((*p as f64 - (*x as f64 - sum.ln())).abs() < 5e-4);
        }
    }
    assert_eq!(rows.len(), prompt.len() * 256);
}

#[test]
fn bad_requests_are_answered_and_the_next_one_runs() {
    let handle = open("llama", &options(100));
    let fails = |r: Request| match handle.generate(r).unwrap().next() {
        Some(Event::Failed(e)) => e.to_string(),
        other => panic!("{other:?}"),
    };
    assert!(fails(Request::default()).contains("empty"));
    assert!(fails(request(&[1, 256])).contains("token id 256"));
    assert!(fails(request(&[1; 97])).contains("97 tokens"));
    let hot = Sampling { temperature: f32::NAN, ..Sampling::default() };
    assert!(fails(Request { sampling: hot, ..request(&[1]) }).contains("temperature"));
    drop(handle.generate(request(&prompts()[0])).unwrap());
    let (tokens, finish) = collect(handle.generate(request(&[1; 90])).unwrap());
    assert_eq!((tokens.len(), finish), (6, Some(FinishReason::Length)));
}

#[test]
fn stop_ids_end_a_text() {
    let handle = open("llama", &options(100));
    let greedy = ids("llama", "greedy_0");
    let stop_ids = vec![greedy[5]];
    let first = greedy.iter().position(|t| *t == greedy[5]).unwrap();
    let (tokens, finish) = collect(handle.generate(Request { stop_ids, ..request(&prompts()[0]) }).unwrap());
    assert_eq!((tokens, finish), (greedy[..first].to_vec(), Some(FinishReason::Stop)));
}
