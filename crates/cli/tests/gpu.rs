//! The engine on a GPU: the same request gives the same answer, to the bit, in any company, order and chunks, from
//! recorded steps or not, in every type of cache; and the answer is the CPU's. Without a GPU: `skipped: no device`.
mod program;

use planish::{Generation, Model, Pipeline, PipelineOptions};
use planish_devices::Opening;
use planish_engine::{EngineOptions, Event, GrammarSpec, Request, Sampling, Stream, TokenLogprobs};
use planish_eval::compare;
use planish_tensor::DType;
use program::Program;
use std::path::Path;

/// Tokens with the bits of their log-probabilities.
type Answer = Vec<(u32, u32)>;

const REQUESTS: usize = 48;

fn open(device: &str, name: &str, engine: EngineOptions) -> Pipeline {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/data").join(name);
    let model = Model::open(dir.to_str().unwrap(), true).unwrap();
    let opening = Opening { batch_invariant: true, ..Opening::default() };
    let options = PipelineOptions { device: Some(device.into()), opening, engine };
    Pipeline::open(&model, &options).unwrap()
}

/// Another device by `PLANISH_TEST_GPU`, such as `cuda:0@80`.
fn gpu() -> String {
    std::env::var("PLANISH_TEST_GPU").unwrap_or_else(|_| "cuda".into())
}

fn has_gpu() -> bool {
    let (_, why_not) = planish_devices::devices();
    if let Some(why) = &why_not {
        println!("skipped: no device ({why})");
    }
    why_not.is_none()
}

/// Prompts of 1 to 80 tokens, many with a common beginning; greedy and drawn.
fn requests() -> Vec<Request> {
    let request = |i: usize| {
        let (common, own) = ((i % 3) * 17, 1 + i * 7 % 30);
        let mut prompt: Vec<u32> = (0..common as u32).map(|t| 3 + t * 31 % 250).collect();
        prompt.extend((0..own as u32).map(|t| 3 + (t * 13 + i as u32 * 29) % 250));
        let temperature = [0.0, 0.9, 0.0, 1.3][i % 4];
        Request {
            prompt,
            sampling: Sampling { temperature, seed: i as u64, top_p: 0.95, ..Sampling::default() },
            max_new_tokens: 1 + i * 5 % 16,
            logprobs: (!i.is_multiple_of(3)).then_some(0),
            ..Request::default()
        }
    };
    (0..REQUESTS).map(request).collect()
}

fn answer(stream: Stream) -> Answer {
    let mut answer = Vec::new();
    for event in stream {
        match event {
            Event::Token { id, logprobs, .. } => answer.push((id, logprobs.map_or(0, |l| l.chosen.to_bits()))),
            Event::Failed(e) => panic!("{e}"),
            Event::Prompt(_) | Event::Done { .. } => {}
        }
    }
    answer
}

/// All at once, in the given order; answers in the order of the requests.
fn together(pipeline: &Pipeline, requests: &[Request], order: impl Iterator<Item = usize>) -> Vec<Answer> {
    let start = |i: usize| (i, pipeline.handle().generate(requests[i].clone()).unwrap());
    let streams: Vec<_> = order.map(start).collect();
    let mut answers = vec![Vec::new(); requests.len()];
    for (i, stream) in streams {
        answers[i] = answer(stream);
    }
    answers
}

fn alone(pipeline: &Pipeline, requests: &[Request]) -> Vec<Answer> {
    requests.iter().map(|r| answer(pipeline.handle().generate(r.clone()).unwrap())).collect()
}

fn check(name: &str, kv: DType) {
    let requests = requests();
    let options = || EngineOptions {
        kv_dtype: Some(kv),
        max_model_len: Some(128),
        page_size: Some(16),
        kv_pages: Some(600),
        ..EngineOptions::default()
    };
    let pipeline = open(&gpu(), name, EngineOptions { prefix_cache: Some(false), ..options() });
    let expected = alone(&pipeline, &requests);
    let shuffled = || (0..REQUESTS).map(|i| (i * 37 + 11) % REQUESTS);
    assert_eq!(together(&pipeline, &requests, 0..REQUESTS), expected, "{name} {kv}: together");
    assert_eq!(together(&pipeline, &requests, shuffled()), expected, "{name} {kv}: shuffled");
    drop(pipeline);
    let ways = [
        ("in chunks", EngineOptions { step_tokens: Some(7), max_batch: Some(7), ..options() }),
        ("with few pages", EngineOptions { kv_pages: Some(17), ..options() }),
        ("in the plain loop", EngineOptions { overlap: Some(false), ..options() }),
        ("with guesses", EngineOptions { speculate: Some(4), ..options() }),
    ];
    for (way, options) in ways {
        let pipeline = open(&gpu(), name, options);
        for round in ["cold", "warm"] {
            let found = together(&pipeline, &requests, shuffled());
            let differing = (0..REQUESTS).find(|&i| found[i] != expected[i]);
            assert_eq!(differing, None, "{name} {kv}: {way}, {round}: a request's answer is another");
        }
        pipeline.handle().check_integrity().unwrap();
    }
}

#[test]
fn int8_answers_do_not_depend_on_company() {
    if has_gpu() {
        [DType::BF16, DType::I8, DType::F8E4M3, DType::F32].into_iter().for_each(|kv| check("w8a8_rtn", kv));
    }
}

#[test]
fn float_and_fp8_answers_do_not_depend_on_company() {
    if has_gpu() {
        check("llama_f32", DType::F32);
        check("qwen2", DType::BF16);
        check("fp8_dynamic", DType::BF16);
        check("mixtral", DType::BF16);
        check("gemma2", DType::F32);
        check("fp8_static", DType::BF16);
    }
}

/// Log-probabilities this close are a near tie: which of the two wins is decided by the order of a sum.
const NEAR_TIE: f32 = 0.05;

/// A token, and the likeliest there with their log-probabilities.
type Step = (u32, Vec<(u32, f32)>);

/// Greedy answers of a device, with the likeliest tokens at each position. Keys and values are kept in full, so that
/// nothing is rounded to 16 bits on the way.
fn greedy(device: &str, name: &str) -> Vec<Vec<Step>> {
    let options = EngineOptions {
        kv_dtype: Some(DType::F32),
        // As many as OPT has positions for.
        max_model_len: Some(96),
        max_batch: Some(8),
        ..EngineOptions::default()
    };
    let pipeline = open(device, name, options);
    let answer = |request: Request| {
        let stream = pipeline.handle().generate(Request { logprobs: Some(4), ..request }).unwrap();
        let token = |event| match event {
            Event::Token { id, logprobs, .. } => Some((id, logprobs.unwrap().top.iter().map(|t| (t.0, t.1)).collect())),
            Event::Failed(e) => panic!("{e}"),
            Event::Prompt(_) | Event::Done { .. } => None,
        };
        stream.into_iter().filter_map(token).collect()
    };
    requests().into_iter().filter(|r| r.sampling.temperature == 0.0).map(answer).collect()
}

#[test]
fn answers_are_the_cpu_s_but_for_near_ties() {
    same_answers(&["llama_f32", "mistral", "qwen2", "w8a8_rtn", "w8a8_sq_gptq_f32", "w8a8_lm_head"]);
}

#[test]
fn every_family_answers_as_on_the_cpu() {
    same_answers(&["qwen3", "internlm2", "phi3_longrope", "gemma2", "gemma3", "granite", "olmo2", "smollm3", "glm4"]);
    same_answers(&["starcoder2", "gpt_neox", "opt_f32", "mixtral", "qwen2_moe"]);
}

#[test]
fn every_grid_answers_as_on_the_cpu() {
    same_answers(&["int8_static_tensor_sym", "int8_static_tensor_asym", "int8_dynamic_token_asym", "lmdeploy_int8"]);
    same_answers(&["fp8_block", "mxfp8"]);
}

fn same_answers(names: &[&str]) {
    if has_gpu() {
        names.iter().for_each(|name| compare_answers(name));
    }
}

fn compare_answers(name: &str) {
    let (cpu, gpu) = (greedy("cpu", name), greedy(&gpu(), name));
    let mut ties = 0;
    for (i, (cpu, gpu)) in cpu.iter().zip(&gpu).enumerate() {
        let Some(at) = cpu.iter().zip(gpu).position(|(a, b)| a.0 != b.0) else { continue };
        let top = &cpu[at].1;
        let of = |id| top.iter().find(|t| t.0 == id).map_or(f32::NEG_INFINITY, |t| t.1);
        let gap = of(cpu[at].0) - of(gpu[at].0);
        assert!(gap < NEAR_TIE, "{name}, request {i}, token {at}: {} for {}, {gap} apart", gpu[at].0, cpu[at].0);
        ties += 1;
    }
    println!("{name}: {ties} of {} answers part at a near tie", cpu.len());
    assert!(ties * 4 <= cpu.len(), "{name}: {ties} near ties");
}

/// KL(first || second) over 8 windows of a model on two devices, with a type of cache on each, in nats.
fn divergence(name: &str, (device, cache): (&str, DType), (other, its_cache): (&str, DType), text: &[u32]) -> f64 {
    let options = |cache| EngineOptions {
        kv_dtype: Some(cache),
        max_model_len: Some(text.len() / 8 + 1),
        max_batch: Some(2),
        prefix_cache: Some(false),
        ..EngineOptions::default()
    };
    let (first, second) = (open(device, name, options(cache)), open(other, name, options(its_cache)));
    let windows = compare::windows(text, 8, text.len() / 8).unwrap();
    let found = compare::run(first.handle(), second.handle(), &windows, &mut |_, _| {}).unwrap();
    let (kl, top1) = (found.kl.mean, found.top1_agreement);
    println!("{name}: {device} {cache} against {other} {its_cache}: mean KL {kl:.2e}, top-1 agreement {top1:.4}");
    kl
}

/// 768 tokens of no meaning.
fn noise() -> Vec<u32> {
    (0..768u32).map(|t| 3 + t.wrapping_mul(2_654_435_761).rotate_left(11) % 250).collect()
}

/// What a rounding decides otherwise in one layer changes all later ones, so that two ways of the same arithmetic drift
/// apart by a share of the quantization's own noise. Here they may by no more than twice what a bf16 cache in place of
/// one of f32 costs on the CPU alone; with caches of f32 by nothing, unless tensor cores sum FP8: they keep fewer digits.
#[test]
fn a_gpu_drifts_no_further_than_a_narrower_cache_does() {
    if !has_gpu() {
        return;
    }
    for name in ["w8a8_rtn", "w8a8_sq_gptq_f32", "lmdeploy_int8", "fp8_block", "mxfp8"] {
        assert_drift(name, 1e-4, 0.0);
    }
    for name in ["fp8_dynamic", "fp8_static", "mixed_fp8down_int8rest", "lmdeploy_fp8"] {
        assert_drift(name, 1e-4, 1.0);
    }
}

/// With f32 caches at most `least`, or `share` of what a bf16 cache costs.
fn assert_drift(name: &str, least: f64, share: f64) {
    let (text, gpu) = (noise(), gpu());
    let cost = divergence(name, ("cpu", DType::F32), ("cpu", DType::BF16), &text);
    let full = divergence(name, ("cpu", DType::F32), (&gpu, DType::F32), &text);
    let narrow = divergence(name, ("cpu", DType::BF16), (&gpu, DType::BF16), &text);
    assert!(full <= least.max(share * cost), "{name}: {full} with caches of f32");
    assert!(narrow <= 2.0 * cost, "{name}: {narrow} with caches of bf16, which cost {cost}");
}

/// A real model in INT8, of thirty layers: there even caches of f32 do not keep a last digit from growing.
#[test]
fn a_real_model_drifts_no_further_either() {
    let Some(model) = std::env::var_os("PLANISH_TEST_MODEL") else {
        return println!("skipped: no model (set PLANISH_TEST_MODEL)");
    };
    if !has_gpu() {
        return;
    }
    let dir = program::scratch();
    let int8 = dir.path().join("int8");
    let quantize = Program::new("quantize --weights rtn --calib-samples 8 --calib-seqlen 256").arg(model);
    quantize.arg("--work-dir").arg(&int8).run().ok();
    let name = int8.to_str().unwrap();
    let pipeline = open("cpu", name, EngineOptions { max_model_len: Some(64), ..EngineOptions::default() });
    let text = pipeline.encode(include_str!("../assets/compare.txt")).unwrap();
    drop(pipeline);
    let text = &text[..text.len().min(8 * 256) / 8 * 8];
    let gpu = gpu();
    let cost = divergence(name, ("cpu", DType::F32), ("cpu", DType::BF16), text);
    for (cache, share) in [(DType::F32, 1.0), (DType::BF16, 2.0)] {
        let found = divergence(name, ("cpu", cache), (&gpu, cache), text);
        assert!(found <= share * cost, "{found} with caches of {cache}; bf16 caches cost {cost} on the CPU alone");
    }
}

/// What an answer says of each token, the prompt's first: its id, and log-probabilities if they were asked for.
fn told(stream: Stream) -> Vec<(Option<u32>, Option<TokenLogprobs>)> {
    let tell = |event| match event {
        Event::Prompt(all) => all.into_iter().map(|l| (None, Some(l))).collect(),
        Event::Token { id, logprobs, .. } => vec![(Some(id), logprobs)],
        Event::Failed(e) => panic!("{e}"),
        Event::Done { .. } => Vec::new(),
    };
    stream.flat_map(tell).collect()
}

/// The likeliest tokens alone, with few and with many log-probabilities, with those of the prompt; drawn; by a grammar, with
/// and without log-probabilities.
fn neighbours(pipeline: &Pipeline) -> Vec<Request> {
    let prompt = pipeline.encode("The capital of France is Paris. The capital of Italy is").unwrap();
    let plain = Generation { max_new_tokens: 12, ignore_eos: true, ..Generation::default() };
    let drawn = Sampling { temperature: 0.8, top_p: 0.9, seed: 3, presence_penalty: 0.3, ..Sampling::default() };
    let by = GrammarSpec::Regex(" [A-Z][a-z]+( [a-z]+)*\\.".into());
    let ruled = Generation { grammar: Some(by), ..plain.clone() };
    let wishes = [
        plain.clone(),
        Generation { logprobs: Some(5), ..plain.clone() },
        Generation { logprobs: Some(100), ..plain.clone() },
        Generation { prompt_logprobs: Some(3), ..plain.clone() },
        Generation { sampling: drawn, logprobs: Some(1), ..plain },
        ruled.clone(),
        Generation { logprobs: Some(2), ..ruled },
    ];
    wishes.iter().map(|wish| pipeline.request(prompt.clone(), wish).unwrap()).collect()
}

/// Beside the CPU's log-probabilities up to where the answers part, which they may at a near tie; how many there were.
fn assert_near(
    what: &str,
    cpu: &[(Option<u32>, Option<TokenLogprobs>)],
    gpu: &[(Option<u32>, Option<TokenLogprobs>)],
) -> usize {
    for (at, ((id, cpu), (its_id, gpu))) in cpu.iter().zip(gpu).enumerate() {
        let (Some(cpu), Some(gpu)) = (cpu, gpu) else { continue };
        assert_eq!(cpu.top.len(), gpu.top.len(), "{what}: token {at}");
        for ((_, cpu), (_, gpu)) in cpu.top.iter().zip(&gpu.top) {
            assert!((cpu - gpu).abs() < NEAR_TIE, "{what}: token {at}: {gpu} in place of {cpu}");
        }
        if id != its_id {
            assert!((cpu.chosen - gpu.chosen).abs() < NEAR_TIE, "{what}: token {at}: {its_id:?} in place of {id:?}");
            return at;
        }
        assert!((cpu.chosen - gpu.chosen).abs() < NEAR_TIE, "{what}: token {at}: {gpu:?} in place of {cpu:?}");
    }
    cpu.len()
}

/// A real model in float: requests of every kind in one batch answer as they do alone, and as on the CPU.
#[test]
fn neighbours_with_log_probabilities_and_grammars_change_no_answer() {
    let Some(model) = std::env::var_os("PLANISH_TEST_MODEL") else {
        return println!("skipped: no model (set PLANISH_TEST_MODEL)");
    };
    if !has_gpu() {
        return;
    }
    let name = model.to_str().unwrap();
    let options = EngineOptions { kv_dtype: Some(DType::F32), max_model_len: Some(64), ..EngineOptions::default() };
    let (cpu, gpu) = (open("cpu", name, options.clone()), open(&gpu(), name, options));
    let alone = |pipeline: &Pipeline| -> Vec<_> {
        neighbours(pipeline).into_iter().map(|r| told(pipeline.handle().generate(r).unwrap())).collect()
    };
    let expected = alone(&gpu);
    let streams: Vec<Stream> = neighbours(&gpu).into_iter().map(|r| gpu.handle().generate(r).unwrap()).collect();
    let together: Vec<_> = streams.into_iter().map(told).collect();
    assert_eq!(together, expected, "in company");
    let ids = |i: usize| expected[i].iter().filter_map(|(id, _)| *id).collect::<Vec<u32>>();
    assert!(ids(0).len() == 12 && !ids(5).is_empty());
    // What else is told changes no token.
    assert_eq!((ids(1), ids(2), ids(3), ids(6)), (ids(0), ids(0), ids(0), ids(5)));
    // So few of the likeliest as the device tells are the first of those that the host tells.
    for ((_, few), (_, many)) in expected[1].iter().zip(&expected[2]) {
        let (few, many) = (few.as_ref().unwrap(), many.as_ref().unwrap());
        assert_eq!((few.top.len(), many.top.len()), (5, 100));
        let near = |a: f32, b: f32| (a - b).abs() <= 1e-6 * b.abs().max(1.0);
        let same = few.top.iter().zip(&many.top).all(|(a, b)| a.0 == b.0 && near(a.1, b.1));
        assert!(same && near(few.chosen, many.chosen), "{few:?} beside {many:?}");
    }
    for (i, (cpu, gpu)) in alone(&cpu).iter().zip(&expected).enumerate() {
        let alike = assert_near(&format!("request {i}"), cpu, gpu);
        println!("request {i}: {alike} of {} as on the CPU", cpu.len());
    }
}
