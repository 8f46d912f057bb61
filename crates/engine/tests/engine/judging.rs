//! Judging continuations: the sums of the score's own numbers, with shared work.
use crate::setting::*;
use planish_engine::{EngineOptions, Handle, Likelihood};

fn judge(handle: &Handle, context: &[u32], continuations: &[Vec<u32>]) -> Vec<Likelihood> {
    let found = handle.judge(context.to_vec(), continuations.to_vec()).unwrap();
    let mut found: Vec<Likelihood> = found.map(Result::unwrap).collect();
    found.sort_by_key(|l| l.index);
    found
}

/// From the log-probabilities of every position.
fn expected(handle: &Handle, context: &[u32], continuation: &[u32]) -> (f64, bool) {
    let text = [context, continuation].concat();
    let rows: Vec<f32> = handle.score(text).unwrap().flat_map(|chunk| chunk.unwrap().log_probs).collect();
    let rows = rows.chunks(256).skip(context.len() - 1).zip(continuation);
    rows.fold((0.0, true), |(sum, greedy), (row, &next)| {
        let likeliest = (0..256).rev().max_by(|&a: &usize, &b| row[a].total_cmp(&row[b])).unwrap();
        (sum + row[next as usize] as f64, greedy && likeliest == next as usize)
    })
}

#[test]
fn likelihoods_are_sums_of_scores() {
    for options in each_loop(options(100)) {
        let handle = open("llama", &options);
        let context = &prompts()[0][..33];
        let rows: Vec<f32> = handle.score(context.to_vec()).unwrap().flat_map(|c| c.unwrap().log_probs).collect();
        let likely = (0..256).max_by(|&a: &usize, &b| rows[32 * 256 + a].total_cmp(&rows[32 * 256 + b])).unwrap();
        let continuations = [vec![likely as u32], vec![5, 6, 7], vec![9], vec![5, 6, 8], vec![5]];
        let found = judge(&handle, context, &continuations);
        for (found, continuation) in found.iter().zip(&continuations) {
            let (log_prob, greedy) = expected(&handle, context, continuation);
            assert!((found.log_prob - log_prob).abs() < 1e-4, "{found:?}, expected {log_prob}");
            assert_eq!(found.greedy, greedy);
        }
        assert_eq!(found.iter().map(|l| l.index).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
        assert!(found[0].greedy && found.iter().any(|l| !l.greedy));
        assert!(at_rest(&handle).is_conserved());
    }
}

/// The first sequence reads the context; the others read only what its pages do not hold. Pages of one token hold all.
#[test]
fn the_context_is_read_once() {
    for (prefix_cache, page_size, shared) in [(true, 16, 32), (false, 16, 32), (true, 1, 40), (false, 1, 40)] {
        let sized = EngineOptions { page_size: Some(page_size), ..options(1600 / page_size) };
        let handle = open("llama", &EngineOptions { prefix_cache: Some(prefix_cache), ..sized });
        let context: Vec<u32> = (0..40).collect();
        // Three sequences: the others begin these, but for their last tokens. The third shares a token with the first.
        let continuations =
            [vec![1, 2, 3], vec![1], vec![1, 2, 4], vec![7, 8, 9, 9], vec![8], vec![7, 8, 3], vec![7, 5, 6]];
        let found = judge(&handle, &context, &continuations);
        let read = at_rest(&handle).step_tokens.sum();
        let own = (42 - shared) + (42 - shared - (page_size == 1) as usize);
        assert_eq!(read, (43 + own) as f64, "prefix cache {prefix_cache}, pages of {page_size}");
        assert_eq!(at_rest(&handle).finished_scored, 1);
        continuations.iter().zip(&found).for_each(|(continuation, found)| {
            let (log_prob, greedy) = expected(&handle, &context, continuation);
            assert!((found.log_prob - log_prob).abs() < 1e-4 && found.greedy == greedy, "{found:?}, not {log_prob}");
        });
    }
}

#[test]
fn what_cannot_be_judged() {
    let handle = open("llama", &options(4));
    let fails = |context: &[u32], continuations: &[Vec<u32>]| {
        let mut found = handle.judge(context.to_vec(), continuations.to_vec()).unwrap();
        found.next().unwrap().unwrap_err().to_string()
    };
    assert!(fails(&[], &[vec![1]]).contains("empty"));
    assert!(fails(&[1], &[]).contains("continuations: expected a number from 1 to 128, found 0"));
    assert_eq!(fails(&[1], &[vec![2], vec![]]), "continuation 1 is empty: expected at least one token");
    assert!(fails(&[1], &[vec![300]]).contains("token id 300") && fails(&[300], &[vec![3]]).contains("token id 300"));
    assert!(fails(&[1; 60], &[vec![1; 6]]).contains("65 tokens of KV cache: expected at most 64"));
    assert_eq!(at_rest(&handle).refused, 6);
    drop(handle.judge(vec![1; 30], vec![vec![2]]).unwrap());
    assert_eq!(judge(&handle, &[1; 60], &[vec![1; 5]]).len(), 1);
}
