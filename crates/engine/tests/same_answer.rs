//! The same request gives the same answer, to the bit: alone, in a crowd, in any order and chunks, with few pages, after
//! a warm prefix cache, on any number of threads, in either loop, with guesses. In float and in 8-bit, for every type
//! of the KV cache.
use planish_checkpoint::{config::Config, shards::ModelFiles};
use planish_cpu::{Cpu, Isa};
use planish_engine::{EngineOptions, Event, Handle, Request, Sampling, Stream};
use planish_model::Plan;
use planish_model::dummy::DummySource;
use planish_tensor::DType;
use std::path::{Path, PathBuf};

/// Tokens with the bits of their log-probabilities.
type Answer = Vec<(u32, u32, Vec<(u32, u32)>)>;

const REQUESTS: usize = 64;

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/data").join(name)
}

fn open(name: &str, threads: usize, options: EngineOptions) -> Handle {
    let dir = data(name);
    let plan = Plan::new(&Config::open(&dir).unwrap()).unwrap();
    Handle::start(Cpu::new(threads, Isa::best()), plan, &ModelFiles::open(&dir).unwrap(), &options).unwrap()
}

/// Prompts of 1 to 80 tokens, many with a common beginning; greedy and drawn; with and without log-probabilities.
fn requests() -> Vec<Request> {
    (0..REQUESTS)
        .map(|i| {
            let common = (i % 3) * 17;
            let own = 1 + i * 7 % 30;
            let mut prompt: Vec<u32> = (0..common as u32).map(|t| 3 + t * 31 % 250).collect();
            prompt.extend((0..own as u32).map(|t| 3 + (t * 13 + i as u32 * 29) % 250));
            let temperature = [0.0, 0.9, 0.0, 1.3][i % 4];
            Request {
                prompt,
                sampling: Sampling { temperature, seed: i as u64, top_p: 0.95, ..Sampling::default() },
                max_new_tokens: 1 + i * 5 % 16,
                logprobs: (i % 3 != 0).then_some(2),
                ..Request::default()
            }
        })
        .collect()
}

fn answer(stream: Stream) -> Answer {
    let mut answer = Vec::new();
    for event in stream {
        match event {
            Event::Token { id, logprobs, .. } => {
                let logprobs =
                    logprobs.map(|l| (l.chosen.to_bits(), l.top.iter().map(|t| (t.0, t.1.to_bits())).collect()));
                let (chosen, top) = logprobs.unwrap_or_default();
                answer.push((id, chosen, top));
            }
            Event::Failed(e) => panic!("{e}"),
            Event::Prompt(_) | Event::Done { .. } => {}
        }
    }
    answer
}

/// All at once, in the given order; answers in the order of the requests.
fn together(handle: &Handle, requests: &[Request], order: impl Iterator<Item = usize>) -> Vec<Answer> {
    let streams: Vec<_> = order.map(|i| (i, handle.generate(requests[i].clone()).unwrap())).collect();
    let mut answers = vec![Vec::new(); requests.len()];
    for (i, stream) in streams {
        answers[i] = answer(stream);
    }
    answers
}

fn alone(handle: &Handle, requests: &[Request]) -> Vec<Answer> {
    requests.iter().map(|r| answer(handle.generate(r.clone()).unwrap())).collect()
}

/// A fixed shuffle.
fn shuffled(n: usize) -> impl Iterator<Item = usize> {
    (0..n).map(move |i| (i * 37 + 11) % n)
}

fn check(name: &str, kv: DType) {
    check_opened(name, kv, open);
}

fn check_opened(name: &str, kv: DType, open: impl Fn(&str, usize, EngineOptions) -> Handle) {
    let requests = requests();
    let options = || EngineOptions {
        kv_dtype: Some(kv),
        max_model_len: Some(128),
        kv_pages: Some(600),
        ..EngineOptions::default()
    };
    let plain = EngineOptions { prefix_cache: Some(false), ..options() };
    let expected = alone(&open(name, 1, plain.clone()), &requests);
    let equal = |what: &str, found: Vec<Answer>| {
        for (i, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found, expected, "{name}, {kv} cache, request {i}: {what}");
        }
    };
    let n = requests.len();
    equal("all together, two threads", together(&open(name, 2, plain.clone()), &requests, 0..n));
    equal("shuffled, three threads", together(&open(name, 3, options()), &requests, shuffled(n)));
    let chunks = EngineOptions {
        step_tokens: Some(13),
        step_rows: Some(5),
        page_size: Some(4),
        kv_pages: Some(600),
        ..options()
    };
    equal("in small chunks", together(&open(name, 2, chunks), &requests, shuffled(n)));
    let tight = open(name, 2, EngineOptions { kv_pages: Some(14), ..options() });
    equal("preempted", together(&tight, &requests, 0..n));
    assert!(tight.metrics().preemptions > 0, "{name}: pages never ran out");
    let warm = open(name, 2, options());
    alone(&warm, &requests);
    let before = warm.metrics().prefix_hits;
    equal("with a warm prefix cache", together(&warm, &requests, shuffled(n)));
    assert!(warm.metrics().prefix_hits > before, "{name}: nothing was found in the cache");
    let ahead = EngineOptions { overlap: Some(true), ..options() };
    equal("in the overlapped loop", together(&open(name, 2, ahead.clone()), &requests, 0..n));
    let ahead = EngineOptions { run_ahead: Some(true), ..ahead };
    equal("begun early", together(&open(name, 2, ahead), &requests, 0..n));
    let guessing = open(name, 2, EngineOptions { speculate: Some(4), ..options() });
    equal("with guesses", together(&guessing, &requests, 0..n));
    for handle in [&tight, &warm, &guessing] {
        handle.check_integrity().unwrap();
    }
}

#[test]
fn in_float() {
    check("llama", DType::F32);
    check("llama", DType::BF16);
}

/// The device's threads draw where no row of a step has to come to the engine; log-probabilities make it come.
#[test]
fn drawn_by_any_number_of_threads_or_by_the_engine() {
    let requests = |logprobs: Option<usize>| -> Vec<Request> {
        let vary = |(i, request): (usize, Request)| Request {
            sampling: Sampling {
                temperature: [0.0, 0.7, 1.0, 1.5][i % 4],
                top_k: [0, 3, 40][i % 3],
                min_p: [0.0, 0.05][i % 2],
                repetition_penalty: [1.0, 1.3, 0.9][i / 2 % 3],
                presence_penalty: [0.0, 0.5][i / 3 % 2],
                frequency_penalty: [0.0, -0.2, 0.4][i / 4 % 3],
                logit_bias: if i % 5 == 0 { vec![(9, 2.0), (4, -3.0)] } else { Vec::new() },
                ..request.sampling
            },
            stop_ids: (5..40).collect(),
            min_new_tokens: i % 4,
            logprobs,
            ..request
        };
        self::requests().into_iter().enumerate().map(vary).collect()
    };
    let tokens = |answers: Vec<Answer>| -> Vec<Vec<u32>> {
        answers.iter().map(|answer| answer.iter().map(|token| token.0).collect()).collect()
    };
    let options = EngineOptions { max_model_len: Some(128), kv_pages: Some(600), ..EngineOptions::default() };
    let expected = tokens(alone(&open("w8a8_rtn", 1, options.clone()), &requests(Some(0))));
    assert!(expected.iter().any(|answer| answer.len() > 8), "every text ends at once");
    for threads in [1, 2, 5] {
        let found = together(&open("w8a8_rtn", threads, options.clone()), &requests(None), 0..REQUESTS);
        assert_eq!(tokens(found), expected, "{threads} threads");
    }
}

#[test]
fn in_int8() {
    for kv in [DType::F32, DType::BF16, DType::I8, DType::F8E4M3] {
        check("w8a8_rtn", kv);
    }
}

#[test]
fn in_fp8() {
    check("fp8_dynamic", DType::BF16);
}

/// Experts group the rows of whoever is in the step.
#[test]
fn of_mixtures() {
    check("mixtral", DType::F32);
    check("qwen2_moe", DType::BF16);
    for (name, quant) in [("mixtral", DType::F8E4M3), ("qwen2_moe", DType::I8)] {
        check_opened(name, DType::BF16, |name, threads, options| {
            let plan = Plan::new(&Config::open(&data(name)).unwrap()).unwrap();
            let source = DummySource::new(&plan, Some(quant), 7, "config.json".into());
            Handle::start(Cpu::new(threads, Isa::best()), plan, &source, &options).unwrap()
        });
    }
}
