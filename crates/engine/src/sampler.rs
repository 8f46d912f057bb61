//! From logits to the next token, on the host. The same logits, parameters and position give the same token.
use crate::request::{Sampling, TokenLogprobs};

/// The next token after `seen` (prompt and generated so far), or `None` if the logits hold NaN.
/// `logits[v]` are changed by the penalty.
pub fn sample(logits: &mut [f32], sampling: &Sampling, seen: &[u32]) -> Option<u32> {
    if logits.iter().any(|x| x.is_nan()) {
        return None;
    }
    penalize(logits, sampling.repetition_penalty, seen);
    if sampling.temperature == 0.0 {
        return Some(likeliest(logits));
    }
    let mut candidates = probabilities(logits, sampling.temperature);
    truncate(&mut candidates, sampling);
    let mass: f64 = candidates.iter().map(|c| c.1).sum();
    let mut point = uniform(sampling.seed, seen.len() as u64) * mass;
    for &(id, p) in &candidates {
        point -= p;
        if point < 0.0 {
            return Some(id);
        }
    }
    candidates.last().map(|c| c.0)
}

/// Log-probabilities of a chosen token and of the `top` likeliest.
pub fn logprobs(logits: &[f32], chosen: u32, top: usize) -> TokenLogprobs {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = logits.iter().map(|&x| ((x - max) as f64).exp()).sum();
    let log_sum = sum.ln() as f32;
    let log_prob = |x: f32| (x - max) - log_sum;
    let top = largest(logits, top).into_iter().map(|id| (id, log_prob(logits[id as usize]))).collect();
    TokenLogprobs { chosen: log_prob(logits[chosen as usize]), top }
}

fn likeliest(logits: &[f32]) -> u32 {
    (1..logits.len()).fold(0, |best, i| if logits[i] > logits[best] { i } else { best }) as u32
}

fn penalize(logits: &mut [f32], penalty: f32, seen: &[u32]) {
    if penalty == 1.0 {
        return;
    }
    let mut ids = seen.to_vec();
    ids.sort_unstable();
    ids.dedup();
    for id in ids {
        let x = &mut logits[id as usize];
        *x = if *x > 0.0 { *x / penalty } else { *x * penalty };
    }
}

/// Unnormalized probabilities, likeliest first; ties by id.
fn probabilities(logits: &[f32], temperature: f32) -> Vec<(u32, f64)> {
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let weight = |x: f32| (((x - max) / temperature) as f64).exp();
    let mut all: Vec<(u32, f64)> = logits.iter().enumerate().map(|(i, &x)| (i as u32, weight(x))).collect();
    all.retain(|c| c.1 > 0.0);
    all.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
    all
}

fn truncate(candidates: &mut Vec<(u32, f64)>, sampling: &Sampling) {
    if sampling.top_k > 0 {
        candidates.truncate(sampling.top_k);
    }
    if sampling.top_p < 1.0 {
        let limit = sampling.top_p as f64 * candidates.iter().map(|c| c.1).sum::<f64>();
        let before = candidates.iter().scan(0.0, |mass, c| {
            let before = *mass;
            *mass += c.1;
            Some(before)
        });
        let kept = before.take_while(|&mass| mass < limit).count();
        candidates.truncate(kept.max(1));
    }
    if sampling.min_p > 0.0 {
        let least = candidates[0].1 * sampling.min_p as f64;
        candidates.retain(|c| c.1 >= least);
    }
}

/// Ids of the largest values, falling; ties by id.
fn largest(values: &[f32], count: usize) -> Vec<u32> {
    let by_value = |a: &u32, b: &u32| values[*b as usize].total_cmp(&values[*a as usize]).then(a.cmp(b));
    let mut ids: Vec<u32> = (0..values.len() as u32).collect();
    let count = count.min(ids.len());
    if count < ids.len() && count > 0 {
        ids.select_nth_unstable_by(count - 1, by_value);
    }
    ids.truncate(count);
    ids.sort_unstable_by(by_value);
    ids
}

/// A number in [0, 1) from a seed and a position (SplitMix64; Steele, Lea and Flood 2014), so that a request's draws
/// depend on nothing else.
fn uniform(seed: u64, position: u64) -> f64 {
    let mut z = seed.wrapping_add(position.wrapping_add(1).wrapping_mul(0x9E37_79B9_7F4A_7C15));
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    ((z ^ (z >> 31)) >> 11) as f64 / (1u64 << 53) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, -1.0, 3.0];

    fn with(sampling: Sampling, draws: u64) -> Vec<usize> {
        let mut counts = vec![0; 5];
        for seed in 0..draws {
            let sampling = Sampling { seed, ..sampling.clone() };
            counts[sample(&mut LOGITS.clone(), &sampling, &[0]).unwrap() as usize] += 1;
        }
        counts
    }

    #[test]
    fn greedy_takes_the_first_of_equals() {
        assert_eq!(sample(&mut LOGITS.clone(), &Sampling::default(), &[]), Some(1));
        assert_eq!(sample(&mut [0.0, f32::NAN], &Sampling::default(), &[]), None);
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let counts = with(Sampling { temperature: 1.0, ..Sampling::default() }, 20000);
        let sum: f32 = LOGITS.iter().map(|x| x.exp()).sum();
        for (count, x) in counts.iter().zip(LOGITS) {
            let share = *count as f32 / 20000.0;
            assert!((share - x.exp() / sum).abs() < 0.015, "{counts:?}");
        }
    }

    #[test]
    fn cuts_keep_the_likeliest() {
        let t = Sampling { temperature: 1.0, ..Sampling::default() };
        let kept = |s: Sampling| with(s, 500).iter().map(|&c| c > 0).collect::<Vec<_>>();
        assert_eq!(kept(Sampling { top_k: 2, ..t.clone() }), [false, true, false, false, true]);
        assert_eq!(kept(Sampling { top_p: 0.5, ..t.clone() }), [false, true, false, false, true]);
        assert_eq!(kept(Sampling { top_p: 0.01, ..t.clone() }), [false, true, false, false, false]);
        assert_eq!(kept(Sampling { min_p: 0.2, ..t }), [false, true, true, false, true]);
    }

    #[test]
    fn penalty_pushes_seen_tokens_down() {
        let s = Sampling { repetition_penalty: 2.0, ..Sampling::default() };
        assert_eq!(sample(&mut LOGITS.clone(), &s, &[1, 4, 1]), Some(2));
    }

    #[test]
    fn logprobs_are_normalized() {
        let l = logprobs(&LOGITS, 2, 3);
        assert_eq!(l.top.iter().map(|t| t.0).collect::<Vec<_>>(), [1, 4, 2]);
        assert_eq!(l.chosen, l.top[2].1);
        let all = logprobs(&LOGITS, 0, 9);
        let sum: f32 = all.top.iter().map(|t| t.1.exp()).sum();
        assert!((sum - 1.0).abs() < 1e-6 && all.top.len() == 5);
    }
}
