//! What a request may ask for, and what is refused.
use crate::setting::*;
use planish_engine::{EngineOptions, Event, FinishReason, Request, Sampling, TokenLogprobs};
use std::sync::{Arc, Mutex};

#[test]
fn stop_ids_end_a_text_but_not_too_early() {
    let handle = open("llama", &options(100));
    let all = greedy("llama", 0);
    let stop_ids = vec![all[5], 9999];
    let first = all.iter().position(|t| *t == all[5]).unwrap();
    let stopped = Request { stop_ids: stop_ids.clone(), ..request(&prompts()[0]) };
    let (tokens, finish) = collect(handle.generate(stopped.clone()).unwrap());
    assert_eq!((tokens, finish), (all[..first].to_vec(), Some(FinishReason::Stop)));
    let (tokens, _) = collect(handle.generate(Request { min_new_tokens: 20, ..stopped }).unwrap());
    assert!(tokens.len() >= 20 && !tokens[..20].contains(&stop_ids[0]), "{tokens:?}");
    assert_eq!(tokens[..first], all[..first]);
}

#[test]
fn sampling_depends_on_the_seed_only() {
    let handle = open("llama", &options(100));
    let sample = |seed| {
        let sampling = Sampling { temperature: 1.0, seed, ..Sampling::default() };
        tokens(&handle, Request { sampling, ..request(&prompts()[0]) })
    };
    assert_eq!(sample(1), sample(1));
    assert_ne!(sample(1), sample(2));
}

#[test]
fn bias_chooses() {
    let handle = open("llama", &options(100));
    let sampling = Sampling { logit_bias: vec![(77, 1e4)], ..Sampling::default() };
    assert_eq!(tokens(&handle, Request { sampling, ..request(&prompts()[0]) }), [77; 24]);
}

/// Log-probabilities of the prompt and of the output of one request.
fn logprobs(options: &EngineOptions, r: Request) -> (Vec<TokenLogprobs>, Vec<(u32, TokenLogprobs)>) {
    let handle = open("llama", options);
    let (mut of_prompt, mut of_output) = (Vec::new(), Vec::new());
    for event in handle.generate(r).unwrap() {
        match event {
            Event::Prompt(rows) => {
                assert!(of_output.is_empty(), "the prompt comes first");
                of_prompt.extend(rows);
            }
            Event::Token { id, logprobs, .. } => of_output.push((id, logprobs.unwrap())),
            Event::Done { .. } => {}
            Event::Failed(e) => panic!("{e}"),
        }
    }
    (of_prompt, of_output)
}

#[test]
fn logprobs_of_prompt_and_output_are_the_models_own() {
    let prompt = &prompts()[0];
    let penalized = Sampling { presence_penalty: 1.5, ..Sampling::default() };
    let r = Request { prompt_logprobs: Some(3), logprobs: Some(2), sampling: penalized, ..request(prompt) };
    let (of_prompt, of_output) = logprobs(&options(100), r.clone());
    assert_eq!((of_prompt.len(), of_output.len()), (prompt.len() - 1, 24));
    let logits = golden("llama", "logits_0");
    for (i, row) in of_prompt.iter().enumerate() {
        let logits = &logits[i * 256..][..256];
        let log_sum = logits.iter().map(|&x| (x as f64).exp()).sum::<f64>().ln();
        assert!((row.chosen as f64 - (logits[prompt[i + 1] as usize] as f64 - log_sum)).abs() < 5e-4);
        let best = logits.iter().copied().fold(f32::MIN, f32::max) as f64 - log_sum;
        assert!((row.top[0].1 as f64 - best).abs() < 5e-4 && row.top.len() == 3);
    }
    let chosen_is_listed = |(id, l): &(u32, TokenLogprobs)| l.top.iter().all(|t| t.0 != *id || t.1 == l.chosen);
    assert!(of_output.iter().all(chosen_is_listed));
    // In steps of three rows, and with several choices, of which the first tells of the prompt.
    let small = EngineOptions { step_rows: Some(3), ..options(100) };
    assert_eq!(logprobs(&small, r.clone()), (of_prompt.clone(), of_output));
    assert_eq!(logprobs(&options(100), Request { n: 2, ..r.clone() }).0, of_prompt);
    // Nothing to generate: the prompt's rows alone.
    let r = Request { max_new_tokens: 0, n: 2, ..r };
    assert_eq!(logprobs(&options(100), r), (of_prompt, Vec::new()));
}

#[test]
fn nothing_to_generate_is_an_answer() {
    let handle = open("llama", &options(100));
    let r = Request { max_new_tokens: 0, n: 2, ..request(&[1, 2]) };
    let end = Some(FinishReason::Length);
    assert_eq!(collect_all(handle.generate(r).unwrap(), 2), [(vec![], end), (vec![], end)]);
    assert_eq!(at_rest(&handle).finished_length, 1);
}

#[test]
fn refusals_name_field_expected_and_found() {
    let handle = open("llama", &options(100));
    let refused = |r: Request| failure(handle.generate(r).unwrap());
    let sampling = |s: Sampling| refused(Request { sampling: s, ..request(&[1]) });
    let d = Sampling::default();
    assert!(refused(Request::default()).contains("empty"));
    assert!(refused(request(&[1, 256])).contains("token id 256: expected ids below 256"));
    assert!(refused(request(&[1; 97])).contains("97 tokens: expected at most 96"));
    assert!(sampling(Sampling { temperature: f32::NAN, ..d.clone() }).contains("temperature"));
    assert!(sampling(Sampling { presence_penalty: f32::INFINITY, ..d.clone() }).contains("presence_penalty"));
    assert!(sampling(Sampling { frequency_penalty: f32::NAN, ..d.clone() }).contains("frequency_penalty"));
    assert!(sampling(Sampling { logit_bias: vec![(256, 1.0)], ..d.clone() }).contains("below 256, found 256"));
    assert!(sampling(Sampling { logit_bias: vec![(3, f32::NAN)], ..d }).contains("logit_bias of token 3"));
    for n in [0, 129, usize::MAX] {
        assert!(refused(Request { n, ..request(&[1]) }).contains("n: expected a number from 1 to 128"));
    }
    assert!(refused(Request { logprobs: Some(257), ..request(&[1]) }).contains("logprobs: expected a number from 0"));
    let many = Request { prompt_logprobs: Some(usize::MAX), ..request(&[1]) };
    assert!(refused(many).contains("prompt_logprobs: expected a number from 0 to 256"));
    let short = Request { min_new_tokens: 25, ..request(&[1]) };
    assert!(refused(short).contains("min_new_tokens: expected a number from 0 to 24, found 25"));
    let now = at_rest(&handle);
    assert_eq!((now.refused, now.accepted), (14, 0));
    let (tokens, finish) = collect(handle.generate(request(&[1; 90])).unwrap());
    assert_eq!((tokens.len(), finish), (6, Some(FinishReason::Length)));
}

#[test]
fn a_sink_hears_what_a_stream_hears_and_may_hang_up() {
    let handle = open("llama", &options(100));
    let heard = Arc::new(Mutex::new((Vec::new(), false)));
    let listen = |most: usize| {
        let heard = heard.clone();
        let sink = Box::new(move |event: Event| {
            let mut heard = heard.lock().unwrap();
            match event {
                Event::Token { id, .. } => heard.0.push(id),
                _ => heard.1 = true,
            }
            heard.0.len() < most
        });
        handle.generate_with(request(&prompts()[0]), sink).unwrap()
    };
    let guard = listen(usize::MAX);
    until("the sink hears the end", || heard.lock().unwrap().1);
    assert_eq!(heard.lock().unwrap().0, greedy("llama", 0));
    drop(guard);
    *heard.lock().unwrap() = (Vec::new(), false);
    let _guard = listen(3);
    let now = at_rest(&handle);
    until("the sink hung up", || handle.metrics().cancelled == 1);
    assert_eq!(heard.lock().unwrap().0, greedy("llama", 0)[..3]);
    assert!(now.is_conserved());
}

#[test]
fn the_urgent_go_first() {
    let handle = open("llama", &EngineOptions { max_batch: Some(1), ..options(100) });
    let order = Arc::new(Mutex::new(Vec::new()));
    let listen = |name: usize, priority: i32| {
        let order = order.clone();
        let sink = Box::new(move |event: Event| {
            if matches!(event, Event::Done { .. }) {
                order.lock().unwrap().push(name);
            }
            true
        });
        handle.generate_with(Request { priority, ..request(&prompts()[0]) }, sink).unwrap()
    };
    // The first may be running before the others arrive; of the others the urgent one goes first.
    let _guards = [listen(0, -1), listen(1, 5), listen(2, 5), listen(3, 0)];
    until("all end", || order.lock().unwrap().len() == 4);
    assert_eq!(*order.lock().unwrap(), [0, 3, 1, 2]);
}
