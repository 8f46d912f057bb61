//! Scoring texts.
use crate::setting::*;
use planish_cpu::Scalar;
use planish_engine::{EngineOptions, Handle};
use planish_model::KvPool;
use planish_tensor::DType;

/// Rows from a position on.
fn rows_from(handle: &Handle, tokens: &[u32], first: usize) -> Vec<f32> {
    let mut rows = Vec::new();
    for chunk in handle.score_from(tokens.to_vec(), first).unwrap() {
        let chunk = chunk.unwrap();
        assert_eq!((chunk.first - first) * 256, rows.len(), "chunks come in order");
        rows.extend(chunk.log_probs);
    }
    assert_eq!(rows.len(), (tokens.len() - first) * 256);
    rows
}

#[test]
fn scores_are_the_models_log_probabilities() {
    for options in each_loop(options(100)) {
        let handle = open("llama", &options);
        let rows = rows_from(&handle, &prompts()[0], 0);
        let logits = golden("llama", "logits_0");
        assert_eq!(rows.len(), logits.len());
        for (row, logits) in rows.chunks(256).zip(logits.chunks(256)) {
            let sum: f64 = logits.iter().map(|&x| (x as f64).exp()).sum();
            for (p, x) in row.iter().zip(logits) {
                assert!((*p as f64 - (*x as f64 - sum.ln())).abs() < 5e-4);
            }
        }
        assert_eq!(at_rest(&handle).finished_scored, 1);
    }
}

#[test]
fn the_tail_of_a_score_reuses_the_prefix() {
    let handle = open("llama", &options(100));
    let text: Vec<u32> = (0..80).map(|i| i * 7 % 256).collect();
    let all = rows_from(&handle, &text, 0);
    let before = at_rest(&handle);
    assert_eq!(rows_from(&handle, &text, 70), all[70 * 256..]);
    let after = at_rest(&handle);
    assert_eq!((after.prefix_hits - before.prefix_hits, before.prefix_hits), (64, 0));
    assert_eq!(after.step_tokens.sum() - before.step_tokens.sum(), 16.0);
}

#[test]
fn texts_that_cannot_be_scored() {
    let handle = open("llama", &options(4));
    let fails = |tokens: &[u32], first| match handle.score_from(tokens.to_vec(), first).unwrap().last() {
        Some(Err(e)) => e.to_string(),
        other => panic!("{:?}", other.map(|r| r.is_ok())),
    };
    assert!(fails(&[], 0).contains("empty"));
    assert!(fails(&[1, 300], 0).contains("token id 300"));
    assert!(fails(&[1, 2], 2).contains("first: expected a position below 2, found 2"));
    assert!(fails(&[1; 65], 0).contains("65 tokens of KV cache: expected at most 64 (4 pages of 16)"));
    assert_eq!(at_rest(&handle).refused, 4);
}

/// The reader of one score sleeps; the engine holds a few chunks for it and serves others meanwhile.
#[test]
fn a_score_that_nobody_reads_stops_itself_only() {
    for options in each_loop(EngineOptions { step_rows: Some(4), ..options(12) }) {
        let handle = open("llama", &options);
        let text: Vec<u32> = (0..90).map(|i| i * 5 % 256).collect();
        let expected = rows_from(&handle, &text, 0);
        let mut asleep = handle.score(text).unwrap();
        let first = asleep.next().unwrap().unwrap().log_probs;
        // Its pages are needed, too: these requests fill the pool.
        for (i, prompt) in prompts().iter().enumerate() {
            assert_eq!(tokens(&handle, request(prompt)), greedy("llama", i));
        }
        until("the others have ended", || handle.metrics().running == 1);
        let rest = asleep.flat_map(|chunk| chunk.unwrap().log_probs);
        assert_eq!(first.into_iter().chain(rest).collect::<Vec<f32>>(), expected);
        at_rest(&handle);
    }
}

/// LongRoPE has other frequencies where longer texts than those of its training may come.
#[test]
fn the_longest_sequence_decides_rotation_however_it_was_decided() {
    let name = "phi3_longrope";
    let text: Vec<u32> = (0..20).map(|i| i * 11 % 256).collect();
    let length_and_rows = |options: EngineOptions| {
        let handle = open(name, &options);
        (handle.info().config.max_model_len, rows_from(&handle, &text, 0))
    };
    let d = EngineOptions::default;
    // Memory for the 32 tokens of its training, of 128 that it may have.
    let memory = 32 * KvPool::<Scalar>::bytes_per_token(&plan(name), DType::F32) as u64;
    let (longest, short_of_memory) = length_and_rows(EngineOptions { kv_cache_memory: Some(memory), ..d() });
    assert_eq!(longest, 32);
    assert!(short_of_memory == length_and_rows(EngineOptions { max_model_len: Some(32), ..d() }).1);
    assert!(short_of_memory != length_and_rows(EngineOptions { max_model_len: Some(33), ..d() }).1);
}
