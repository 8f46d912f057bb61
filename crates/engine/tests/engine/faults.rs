//! What goes wrong is told to those whom it concerns, and to them only; afterwards every page is back.
use crate::setting::*;
use planish_checkpoint::{shards::ModelFiles, source::TensorSource};
use planish_engine::{Cancel, EngineOptions, Error, Event, Grammar, GrammarSpec, Handle, Request, Stream, Vocabulary};
use planish_tensor::HostTensor;
use planish_text::Tokenizer;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, Mutex};

fn start(handle: &Handle, r: Request) -> Stream {
    handle.generate(r).unwrap()
}

/// A model whose embedding of token 7 is NaN.
struct Spoilt(ModelFiles);

impl TensorSource for Spoilt {
    fn names(&self) -> Vec<String> {
        self.0.names()
    }
    fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }
    fn tensor(&self, name: &str) -> planish_checkpoint::Result<HostTensor> {
        let tensor = self.0.tensor(name)?;
        if name != "model.embed_tokens.weight" {
            return Ok(tensor);
        }
        let (mut values, width) = (tensor.to_f32(), tensor.shape()[1]);
        values[7 * width..8 * width].fill(f32::NAN);
        Ok(HostTensor::from_f32(tensor.shape().to_vec(), &values).unwrap())
    }
    fn release(&self, name: &str) {
        self.0.release(name);
    }
}

#[test]
fn nan_ends_its_own_request_and_leaves_nothing_behind() {
    let name = "llama3_rope_bias_untied";
    // A pool so small that the pages of a broken request are soon needed by another.
    for options in each_loop(EngineOptions { step_tokens: Some(20), ..options(8) }) {
        let spoilt = Spoilt(ModelFiles::open(&data(name)).unwrap());
        let (handle, cleared) = staged_over(&spoilt, name, &options, |_| Ok(()));
        let good: Vec<u32> = (20..60).collect();
        let expected = tokens(&handle, request(&good));
        // The NaN comes after a page and a half that others share.
        let mut bad = good.clone();
        bad[30] = 7;
        for n in [1, 3] {
            let broken = start(&handle, Request { n, ..request(&bad) });
            let whole = start(&handle, request(&good));
            let told = failure(broken);
            assert!(told.contains("NaN at position 39"), "{told}");
            assert_eq!(collect(whole).0, expected);
            at_rest(&handle);
        }
        let asked = Request { prompt_logprobs: Some(0), ..request(&bad) };
        assert!(failure(start(&handle, asked)).contains("NaN at position 30"));
        let scored = handle.score(bad.clone()).unwrap().last().unwrap();
        assert!(matches!(scored, Err(Error::NotANumber { position: 30 })));
        // The same prompt again must not find its broken pages, nor may a sampled request.
        let hot = planish_engine::Sampling { temperature: 1.0, ..Default::default() };
        assert!(failure(start(&handle, Request { sampling: hot, ..request(&bad) })).contains("position 39"));
        assert_eq!(tokens(&handle, request(&good)), expected);
        let now = at_rest(&handle);
        assert_eq!((now.failed, now.finished_length), (5, 4));
        assert!(cleared.load(SeqCst) >= 5 * 3, "three pages of each broken request");
    }
}

#[test]
fn a_caller_that_stops_reading_stops_itself_only() {
    for options in each_loop(options(40)) {
        let handle = open("llama", &options);
        // Eight answers with all log-probabilities are more than a stream holds.
        let large = Request { n: 8, logprobs: Some(256), max_new_tokens: 80, ..request(&prompts()[0][..8]) };
        let whole: Vec<Event> = start(&handle, large.clone()).collect();
        let asleep = start(&handle, large);
        until("it has fallen behind", || {
            let before = handle.metrics().generated_tokens;
            assert_eq!(tokens(&handle, request(&prompts()[1])), greedy("llama", 1));
            handle.metrics().generated_tokens - before == 24
        });
        until("the others have ended", || handle.metrics().running == 1);
        let events: Vec<Event> = asleep.collect();
        assert_eq!(events.len(), whole.len());
        let of = |events: &[Event], i: usize| -> Vec<u32> {
            let id = |e: &Event| match e {
                Event::Token { choice, id, .. } if *choice == i => Some(*id),
                _ => None,
            };
            events.iter().filter_map(id).collect()
        };
        assert!((0..8).all(|i| of(&events, i) == of(&whole, i)));
        at_rest(&handle);
    }
}

#[test]
fn a_caller_may_vanish_at_any_moment() {
    for options in each_loop(EngineOptions { step_tokens: Some(4), max_batch: Some(2), ..options(30) }) {
        for n in [1, 3] {
            for steps in 0..12 {
                let (handle, gate) = gated("llama", &options);
                // Reads its prompt in steps of four tokens, then generates.
                let r = Request { n, ..request(&prompts()[0]) };
                let leaves = start(&handle, r.clone());
                let stays = start(&handle, r);
                (0..steps).for_each(|_| gate.send(()).unwrap());
                until("the steps are done", || handle.metrics().steps >= steps.min(1));
                drop(leaves);
                drop(gate);
                let choices = collect_all(stays, n);
                assert!(choices.iter().all(|c| c.0 == greedy("llama", 0)));
                let now = at_rest(&handle);
                assert_eq!((now.cancelled, now.finished_length), (1, 1), "n {n}, after {steps} steps");
            }
        }
    }
}

#[test]
fn a_queued_request_is_forgotten_when_its_caller_goes() {
    let (handle, gate) = gated("llama", &EngineOptions { max_batch: Some(1), ..options(30) });
    let first = start(&handle, request(&prompts()[0]));
    let queued: Vec<Stream> = (0..20).map(|_| start(&handle, request(&prompts()[1]))).collect();
    gate.send(()).unwrap();
    drop(queued);
    drop(gate);
    assert_eq!(collect(first).0, greedy("llama", 0));
    let now = at_rest(&handle);
    assert_eq!((now.cancelled, now.finished_length, now.generated_tokens), (20, 1, 24));
}

#[test]
fn a_panic_is_told_to_everyone_and_nothing_hangs() {
    for options in each_loop(options(30)) {
        let mut steps = 0;
        let handle = staged("llama", &options, move |_| {
            steps += 1;
            assert!(steps < 5, "the device is on fire");
            Ok(())
        });
        let streams = [0, 1].map(|i| start(&handle, Request { n: 2, ..request(&prompts()[i]) }));
        for stream in streams {
            let told = failure(stream);
            assert!(told.contains("engine has failed") && told.contains("on fire"), "{told}");
        }
        assert!(failure(start(&handle, request(&[1]))).contains("on fire"));
        assert!(matches!(handle.score(vec![1]).unwrap().last(), Some(Err(Error::Panicked(_)))));
        assert!(matches!(handle.health(), Err(Error::Panicked(_))));
        assert!(matches!(handle.check_integrity(), Err(Error::Panicked(_))));
        let now = handle.metrics();
        assert!(now.is_conserved() && now.failed == 2 && now.running + now.queued == 0, "{now:?}");
    }
}

#[test]
fn a_failed_step_fails_those_in_it() {
    for options in each_loop(EngineOptions { max_batch: Some(1), ..options(30) }) {
        let mut steps = 0;
        let handle = staged("llama", &options, move |_| {
            steps += 1;
            if steps == 3 { Err(Error::Device("the driver gave up".into())) } else { Ok(()) }
        });
        let [hit, spared] = [0, 1].map(|i| start(&handle, request(&prompts()[i])));
        assert!(failure(hit).contains("the driver gave up"));
        assert_eq!(collect(spared).0, greedy("llama", 1));
        assert_eq!(tokens(&handle, request(&prompts()[0])), greedy("llama", 0));
        assert!(handle.health().is_ok());
        let now = at_rest(&handle);
        assert_eq!((now.failed, now.finished_length), (1, 2));
    }
}

#[test]
fn a_sink_that_panics_ends_its_own_request() {
    let handle = open("llama", &options(30));
    let _guard = handle.generate_with(request(&prompts()[0]), Box::new(|_| panic!("not my day"))).unwrap();
    assert_eq!(tokens(&handle, request(&prompts()[1])), greedy("llama", 1));
    assert_eq!(at_rest(&handle).cancelled, 1);
}

/// The model's 256 tokens are taken for the first of SmolLM2's, which are single bytes.
fn grammar(lark: &str) -> Grammar {
    let tokenizer = include_bytes!("../../../text/tests/data/smollm2/tokenizer.json");
    let vocabulary = Vocabulary::new(Tokenizer::from_json(tokenizer).unwrap(), vec![2], 256);
    Grammar::compile(&vocabulary, &GrammarSpec::Lark(lark.into())).unwrap()
}

/// After three letters the parser has more to keep in mind than it may.
fn explosion() -> Grammar {
    let optional: String = (0..1500).map(|i| format!(" x{i}?")).collect();
    let rules: String = (0..1500).map(|i| format!("x{i}: \"x\" y{i}\ny{i}: \"z\" x{i} | \"y\"\n")).collect();
    grammar(&format!("start: \"aaa\"{optional}\n{rules}"))
}

#[test]
fn a_grammar_that_explodes_midway_ends_its_own_request() {
    let explosion = explosion();
    for options in each_loop(options(40)) {
        let handle = open("llama", &options);
        let bound = |n| Request { n, grammar: Some(explosion.clone()), ..request(&prompts()[0]) };
        let others = [0, 1].map(|i| start(&handle, request(&prompts()[i])));
        for n in [1, 3] {
            let events: Vec<Event> = start(&handle, bound(n)).collect();
            let tokens = events.iter().filter(|e| matches!(e, Event::Token { .. })).count();
            assert!((3..=3 * n).contains(&tokens), "{tokens} tokens came before");
            match events.last() {
                Some(Event::Failed(Error::Grammar(told))) => assert!(told.starts_with("Lark grammar: "), "{told}"),
                other => panic!("{other:?}"),
            }
        }
        for (i, stream) in others.into_iter().enumerate() {
            assert_eq!(collect(stream).0, greedy("llama", i));
        }
        let now = at_rest(&handle);
        assert_eq!((now.failed, now.finished_length), (2, 2));
    }
}

/// What it has computed is as good as anyone's, and others may be using it.
#[test]
fn a_request_at_fault_itself_takes_no_shared_pages_along() {
    let explosion = explosion();
    for options in each_loop(options(40)) {
        // Two whole pages and a part of one.
        let shared: Vec<u32> = (20..60).collect();
        let long = Request { max_new_tokens: 56, ..request(&shared) };
        let expected = tokens(&open("llama", &options), long.clone());
        let (handle, gate) = gated("llama", &options);
        let running = start(&handle, long);
        let complex = start(&handle, Request { grammar: Some(explosion.clone()), ..request(&shared) });
        let mut nothing = request(&shared);
        nothing.sampling.logit_bias = (0..256).map(|id| (id, f32::NEG_INFINITY)).collect();
        let nothing = start(&handle, nothing);
        drop(gate);
        assert!(failure(complex).starts_with("Lark grammar: "));
        assert!(failure(nothing).contains("no token is allowed at position 39"));
        assert_eq!(collect(running).0, expected);
        let before = at_rest(&handle);
        assert_eq!((before.preemptions, before.failed, before.finished_length), (0, 2, 1));
        assert_eq!(tokens(&handle, request(&shared)), expected[..24]);
        assert_eq!(at_rest(&handle).prefix_hits - before.prefix_hits, 32);
    }
}

#[test]
fn a_caller_that_has_all_it_wants_is_no_deserter() {
    for options in each_loop(options(30)) {
        let (handle, gate) = gated("llama", &options);
        let sink = || Box::new(|_| true);
        let enough = handle.generate_with(Request { n: 3, ..request(&prompts()[0]) }, sink()).unwrap();
        let gone = handle.generate_with(request(&prompts()[1]), sink()).unwrap();
        (0..4).for_each(|_| gate.send(()).unwrap());
        until("some tokens are there", || handle.metrics().generated_tokens > 0);
        enough.complete();
        drop(gone);
        drop(gate);
        let now = at_rest(&handle);
        assert_eq!((now.finished_stop, now.cancelled, now.finished_length), (1, 1, 0), "{now:?}");
        assert_eq!((now.request_latency.count(), now.inference_time.count()), (1, 1));
        // One that has ended by itself is not counted again.
        let sink = Box::new(|_| true);
        let late = handle.generate_with(request(&prompts()[1]), sink).unwrap();
        until("it has ended", || handle.metrics().finished_length == 1);
        late.complete();
        assert_eq!(at_rest(&handle).finished(), 2);
    }
}

/// It has said so before it stopped to listen, though the engine notices that first.
#[test]
fn who_has_all_it_wants_may_hang_up_at_once() {
    for options in each_loop(options(30)) {
        let (handle, gate) = gated("llama", &options);
        let own: Arc<Mutex<Option<Cancel>>> = Arc::default();
        let mut heard = 0;
        let sink = own.clone();
        let sink = Box::new(move |_| {
            heard += 1;
            if heard < 3 {
                return true;
            }
            if let Some(own) = sink.lock().unwrap().take() {
                own.complete();
            }
            false
        });
        *own.lock().unwrap() = Some(handle.generate_with(request(&prompts()[0]), sink).unwrap());
        drop(gate);
        until("the request is over", || {
            handle.metrics().running + handle.metrics().queued == 0 && handle.metrics().steps > 0
        });
        let now = at_rest(&handle);
        assert_eq!((now.finished_stop, now.cancelled, now.finished_length), (1, 0, 0), "{now:?}");
    }
}

#[test]
fn draining_finishes_what_runs_and_takes_nothing_new() {
    for options in each_loop(options(30)) {
        let (handle, gate) = gated("llama", &options);
        let stream = start(&handle, request(&prompts()[0]));
        gate.send(()).unwrap();
        handle.shutdown(true);
        let late = handle.generate(request(&prompts()[1]));
        drop(gate);
        assert_eq!(collect(stream).0, greedy("llama", 0));
        assert!(late.is_err() || failure(late.unwrap()).contains("stopped"));
        handle.wait();
        assert!(matches!(handle.generate(request(&[1])), Err(Error::Stopped)));
        assert!(matches!(handle.check_integrity(), Err(Error::Stopped)));
        let now = handle.metrics();
        assert!(now.finished_length == 1 && now.is_conserved() && now.running + now.queued == 0, "{now:?}");
        assert_eq!(now.pages_free + now.pages_cached, now.pages_total, "every page is back");
    }
}

#[test]
fn stopping_tells_everyone_at_once() {
    for options in each_loop(EngineOptions { max_batch: Some(1), ..options(30) }) {
        let (handle, gate) = gated("llama", &options);
        let streams = [0, 1].map(|i| start(&handle, request(&prompts()[i])));
        let score = handle.score(vec![1, 2, 3]).unwrap();
        let told = Arc::new(AtomicBool::new(false));
        let hears = told.clone();
        let sink = Box::new(move |event| {
            hears.store(matches!(event, Event::Failed(Error::Stopped)), SeqCst);
            true
        });
        let _guard = handle.generate_with(request(&[1]), sink).unwrap();
        gate.send(()).unwrap();
        handle.shutdown(true);
        // A reader that never reads would make draining take for ever: one may change one's mind.
        handle.shutdown(false);
        drop(gate);
        streams.into_iter().for_each(|s| assert!(failure(s).contains("stopped")));
        assert!(matches!(score.last(), Some(Err(Error::Stopped))));
        handle.wait();
        let now = handle.metrics();
        assert!(now.failed == 4 && now.is_conserved() && now.running + now.queued == 0, "{now:?}");
        drop(handle);
        assert!(told.load(SeqCst));
    }
}

#[test]
fn a_cache_too_small_for_a_request_refuses_it() {
    let handle = open("llama", &options(2));
    let told = failure(start(&handle, request(&[1; 9])));
    assert!(told.contains("33 tokens of KV cache: expected at most 32 (2 pages of 16)"), "{told}");
    assert_eq!(tokens(&handle, request(&[1; 8])).len(), 24);
    at_rest(&handle);
}
