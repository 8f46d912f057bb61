//! Several continuations of one prompt.
use crate::setting::*;
use planish_engine::{EngineOptions, Event, Request, Sampling};

fn sampled(n: usize, seed: u64) -> Request {
    let sampling = Sampling { temperature: 1.0, seed, ..Sampling::default() };
    Request { sampling, n, ..request(&prompts()[0]) }
}

#[test]
fn choice_i_is_the_request_with_seed_plus_i() {
    for options in each_loop(options(100)) {
        let handle = open("llama", &options);
        let choices = collect_all(handle.generate(sampled(5, 11)).unwrap(), 5);
        for (i, choice) in choices.iter().enumerate() {
            assert_eq!(choice, &collect(handle.generate(sampled(1, 11 + i as u64)).unwrap()));
        }
        assert_ne!(choices[0], choices[1]);
    }
}

#[test]
fn the_prompt_is_computed_once() {
    for prefix_cache in [true, false] {
        let handle = open("llama", &EngineOptions { prefix_cache: Some(prefix_cache), ..options(100) });
        let prompt = [9; 49];
        let r = Request { n: 8, max_new_tokens: 4, ..request(&prompt) };
        let choices = collect_all(handle.generate(r).unwrap(), 8);
        assert!(choices.iter().all(|c| c == &choices[0]), "greedy choices are equal");
        let now = at_rest(&handle);
        // The prompt once; its last, partial page and three more tokens for each choice.
        assert!(now.step_tokens.sum() <= 49.0 + 7.0 + 8.0 * 3.0, "{now:?}");
        assert_eq!((now.accepted, now.finished_length, now.generated_tokens), (1, 1, 32));
    }
}

#[test]
fn few_pages_and_a_vanished_caller_give_everything_back() {
    let handle = open("llama", &options(9));
    let full = collect_all(handle.generate(sampled(6, 3)).unwrap(), 6);
    let mut stream = handle.generate(sampled(6, 3)).unwrap();
    let first = stream.next();
    assert!(matches!(first, Some(Event::Token { choice: 0, .. })), "{first:?}");
    drop(stream);
    assert_eq!(collect_all(handle.generate(sampled(6, 3)).unwrap(), 6), full);
    let now = at_rest(&handle);
    assert_eq!((now.accepted, now.finished_length, now.cancelled), (3, 2, 1));
}

/// All of it is told by the first choice, in steps of few rows; the others need none of those.
#[test]
fn the_prompts_log_probabilities_come_before_any_token() {
    for options in each_loop(EngineOptions { step_rows: Some(4), ..options(100) }) {
        let handle = open("llama", &options);
        let r = Request { prompt_logprobs: Some(1), n: 3, max_new_tokens: 4, ..request(&[9; 14]) };
        let events: Vec<Event> = handle.generate(r).unwrap().collect();
        let told = events.iter().map_while(|event| match event {
            Event::Prompt(rows) => Some(rows.len()),
            _ => None,
        });
        assert_eq!(told.sum::<usize>(), 13, "{events:?}");
        assert_eq!(events.iter().filter(|event| matches!(event, Event::Token { .. })).count(), 12);
    }
}
