//! Same request, same answer: whatever else runs, however the prompt is cut, whatever is cached, in both loops.
use crate::setting::*;
use planish_engine::{EngineOptions, FinishReason, Handle, Request, Sampling};
use std::sync::mpsc::Sender;

#[test]
fn greedy_equals_transformers() {
    for options in each_loop(options(100)) {
        let handle = open("llama", &options);
        for (i, prompt) in prompts().iter().enumerate() {
            let (tokens, finish) = collect(handle.generate(request(prompt)).unwrap());
            assert_eq!((tokens, finish), (greedy("llama", i), Some(FinishReason::Length)));
        }
    }
}

/// Nine different prompts, in four ways of choosing.
fn mixture() -> Vec<Request> {
    let prompts = prompts();
    let sampled = Sampling { temperature: 0.9, top_k: 40, seed: 5, ..Sampling::default() };
    let penalized = Sampling { repetition_penalty: 1.3, presence_penalty: 0.5, ..Sampling::default() };
    let with = |i: usize, r: Request| match i % 4 {
        0 | 1 => r,
        2 => Request { sampling: Sampling { seed: i as u64, ..sampled.clone() }, ..r },
        _ => Request { sampling: penalized.clone(), logprobs: Some(2), ..r },
    };
    (0..9).map(|i| with(i, request(&prompts[i % 2][i / 2..]))).collect()
}

fn alone(name: &str) -> Vec<Vec<u32>> {
    let handle = open(name, &EngineOptions { prefix_cache: Some(false), ..options(100) });
    mixture().into_iter().map(|r| tokens(&handle, r)).collect()
}

/// All at once: the gate, if there is one, opens when all have arrived.
fn together(handle: &Handle, gate: Option<Sender<()>>) -> Vec<Vec<u32>> {
    let streams: Vec<_> = mixture().into_iter().map(|r| handle.generate(r).unwrap()).collect();
    drop(gate);
    streams.into_iter().map(|s| collect(s).0).collect()
}

fn variants() -> Vec<(&'static str, EngineOptions)> {
    let o = options(100);
    vec![
        ("together", o.clone()),
        // Four prompts fit, their answers do not.
        ("few pages", options(14)),
        ("small steps", EngineOptions { step_tokens: Some(5), step_rows: Some(3), ..o.clone() }),
        ("small pages", EngineOptions { page_size: Some(4), ..o.clone() }),
        ("two at a time", EngineOptions { max_batch: Some(2), ..o.clone() }),
        ("drafts", EngineOptions { speculate: Some(4), ..o.clone() }),
        ("drafts, few pages, small steps", EngineOptions { speculate: Some(3), step_tokens: Some(9), ..options(9) }),
    ]
}

#[test]
fn answers_do_not_depend_on_circumstances() {
    for name in ["llama", "w8a8_rtn"] {
        let alone = alone(name);
        for (what, options) in variants() {
            for options in each_loop(options) {
                let which = [options.overlap, options.run_ahead];
                let (handle, gate) = gated(name, &options);
                assert_eq!(together(&handle, Some(gate)), alone, "{name}, {what}, {which:?}");
                // Again, now that prefixes are cached.
                assert_eq!(together(&handle, None), alone, "{name}, {what}, {which:?}, cached");
                let now = at_rest(&handle);
                assert_eq!((now.finished_length, now.accepted), (18, 18));
                if what == "few pages" {
                    assert!(now.preemptions > 0, "{name}, {which:?}: {now:?}");
                }
                if options.speculate.is_some() {
                    assert!(now.drafts_accepted > 0 && now.drafts_accepted <= now.drafts_proposed, "{now:?}");
                }
            }
        }
    }
}

/// A stop id comes as a surprise to the overlapped loop, which has prepared the next step by then.
#[test]
fn texts_that_stop_early_disturb_nobody() {
    let whole = [0, 1].map(|i| greedy("llama", i));
    // Every third goes on to its length; the others stop here and there.
    let stop = |i: usize| (!i.is_multiple_of(3)).then(|| whole[i % 2][1 + i * 5 % 20]);
    let ask = |i: usize| Request { stop_ids: stop(i).into_iter().collect(), ..request(&prompts()[i % 2]) };
    let expected = |i: usize| {
        let text = &whole[i % 2];
        match text.iter().position(|&token| Some(token) == stop(i)) {
            Some(end) => (text[..end].to_vec(), Some(FinishReason::Stop)),
            None => (text.clone(), Some(FinishReason::Length)),
        }
    };
    let all = each_loop(options(100));
    let guessing = EngineOptions { speculate: Some(4), ..all[2].clone() };
    for options in all.into_iter().chain([guessing]) {
        let (handle, gate) = gated("llama", &options);
        let streams: Vec<_> = (0..24).map(|i| handle.generate(ask(i)).unwrap()).collect();
        drop(gate);
        for (i, stream) in streams.into_iter().enumerate() {
            assert_eq!(collect(stream), expected(i), "request {i}, {options:?}");
        }
        let now = at_rest(&handle);
        assert_eq!((now.finished_length, now.finished_stop), (8, 16));
        let guessing = options.speculate.is_some();
        let ahead = options.run_ahead == Some(true) && !guessing;
        assert_eq!(now.begun_ahead > 0, ahead, "{now:?}");
        assert_eq!(now.prepared_again > 0, options.overlap == Some(true) && !ahead && !guessing, "{now:?}");
    }
}

/// Steps that begin before it is known who goes on: sampled and greedy texts, some of several choices, that end at their
/// lengths and at stop ids, with and without others that must be waited for.
#[test]
fn steps_that_begin_early_change_no_answer() {
    let prompts = prompts();
    let ask = |i: usize| {
        let temperature = if i.is_multiple_of(3) { 0.0 } else { 0.8 };
        let sampling = Sampling { temperature, top_k: i % 4 * 20, seed: i as u64, ..Sampling::default() };
        let stop_ids = (0..256).filter(|id| id % 9 == i as u32 % 9).collect();
        let n = if i % 4 == 1 { 3 } else { 1 };
        Request { sampling, stop_ids, n, max_new_tokens: 3 + i * 7 % 20, ..request(&prompts[i % 2][i / 2..]) }
    };
    let penalized = Sampling { presence_penalty: 0.5, ..Sampling::default() };
    let other = Request { sampling: penalized, max_new_tokens: 9, ..request(&prompts[1]) };
    let requests: Vec<Request> = (0..12).map(ask).chain([other]).collect();
    let ask_all = |handle: &Handle, gate: Option<Sender<()>>| {
        let streams: Vec<_> = requests.iter().map(|r| (handle.generate(r.clone()).unwrap(), r.n)).collect();
        drop(gate);
        streams.into_iter().map(|(stream, n)| collect_all(stream, n)).collect::<Vec<_>>()
    };
    let plain = open("llama", &options(100));
    let alone: Vec<_> = requests.iter().map(|r| collect_all(plain.generate(r.clone()).unwrap(), r.n)).collect();
    let ends = alone.iter().flatten().filter(|(_, end)| *end == Some(FinishReason::Stop)).count();
    assert!(ends > 2, "{ends}");
    let mut waited = 0;
    for (what, options) in variants().into_iter().filter(|(_, options)| options.speculate.is_none()) {
        let options = EngineOptions { overlap: Some(true), run_ahead: Some(true), ..options };
        let (handle, gate) = gated("llama", &options);
        assert_eq!(ask_all(&handle, Some(gate)), alone, "{what}");
        assert_eq!(ask_all(&handle, None), alone, "{what}, cached");
        let now = at_rest(&handle);
        assert!(now.begun_ahead > 0, "{what}: {now:?}");
        waited += now.prepared_again;
    }
    assert!(waited > 0);
}

#[test]
fn a_cached_prefix_is_not_computed_again() {
    let run = |prefix_cache| {
        let handle = open("llama", &EngineOptions { prefix_cache: Some(prefix_cache), ..options(100) });
        let prompt: Vec<u32> = (0..70).map(|i| i * 3 % 256).collect();
        let first = tokens(&handle, request(&prompt));
        assert_eq!(tokens(&handle, request(&prompt)), first);
        at_rest(&handle)
    };
    let (with, without) = (run(true), run(false));
    assert_eq!((with.prefix_hits, without.prefix_hits), (64, 0));
    assert_eq!(with.step_tokens.sum() + 64.0, without.step_tokens.sum());
}

#[test]
fn salts_part_the_prefix_cache() {
    let handle = open("llama", &options(100));
    let prompt = [5; 40];
    let salted = |salt: &str| Request { cache_salt: Some(salt.into()), ..request(&prompt) };
    let hits = |r: Request| {
        let before = at_rest(&handle).prefix_hits;
        tokens(&handle, r);
        at_rest(&handle).prefix_hits - before
    };
    assert_eq!([hits(salted("a")), hits(salted("b")), hits(request(&prompt))], [0, 0, 0]);
    assert_eq!([hits(salted("a")), hits(salted("b")), hits(request(&prompt))], [32, 32, 32]);
}
