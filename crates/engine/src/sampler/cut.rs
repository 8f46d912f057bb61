//! Top-k, top-p and min-p as one threshold: the key from which tokens are kept.
use super::weights::{Weights, key, units, weight};
use planish_tensor::SampleRow;
use std::cmp::Reverse;

/// Where the search for top-p's threshold begins: tokens below it rarely matter.
const FIRST_GUESS: f32 = 1.0 / 4096.0;
/// So few candidates for that threshold are gathered.
const ENOUGH: usize = 2048;
/// So few keys are sorted.
const FEW: usize = 32;

/// The smallest key that is kept; 0 keeps all.
pub fn cutoff(weights: &Weights<'_>, row: &SampleRow) -> u64 {
    let mut cutoff = 0;
    if row.top_k > 0 && row.top_k < weights.each.len() {
        cutoff = kth(weights, row.top_k);
    }
    if row.top_p < 1.0 {
        cutoff = cutoff.max(nucleus(weights, row.top_p, cutoff));
    }
    if row.min_p > 0.0 {
        cutoff = cutoff.max(key(row.min_p, u32::MAX));
    }
    cutoff
}

/// The key of the `k`-th likeliest. At least `k` tokens reach the `k`-th largest of the blocks' largest.
fn kth(weights: &Weights<'_>, k: usize) -> u64 {
    let mut tops = weights.tops.clone();
    let floor = match k <= tops.len() {
        true => *tops.select_nth_unstable_by(k - 1, |a, b| b.total_cmp(a)).1,
        false => 0.0,
    };
    let mut keys = weights.keys_between(floor.max(f32::MIN_POSITIVE), f32::MAX);
    match k <= keys.len() {
        true => *keys.select_nth_unstable_by_key(k - 1, |&key| Reverse(key)).1,
        false => 0,
    }
}

/// The key of the last of the likeliest tokens that together reach `top_p` of the mass from `cutoff` up.
fn nucleus(weights: &Weights<'_>, top_p: f32, cutoff: u64) -> u64 {
    let limit = (top_p as f64 * weights.mass(cutoff) as f64).ceil() as u64;
    if cutoff > 0 {
        let mut keys = weights.keys_between(weight(cutoff), f32::MAX);
        keys.retain(|&key| key >= cutoff);
        return reach(&mut keys, limit);
    }
    let (low, high, before) = bracket(weights, limit);
    reach(&mut weights.keys_between(low, high), limit - before)
}

/// Weights between which the sum from above reaches `limit`: the lower one still reaches it, the upper one (excluded)
/// does not; and the sum from the upper one. Halves the range of bits until few tokens are inside, one vectorized pass
/// each, which is faster than gathering and partitioning.
fn bracket(weights: &Weights<'_>, limit: u64) -> (f32, f32, u64) {
    let (mut low, mut high) = (f32::MIN_POSITIVE.to_bits(), 1f32.to_bits() + 1);
    let (mut before, mut above_low, mut above_high) = (0, weights.each.len(), 0);
    let mut middle = FIRST_GUESS.to_bits();
    while above_low - above_high > ENOUGH && high - low > 1 {
        let (mass, count) = weights.above(f32::from_bits(middle));
        if mass >= limit {
            (low, above_low) = (middle, count);
        } else {
            (high, above_high, before) = (middle, count, mass);
        }
        middle = low + (high - low) / 2;
    }
    (f32::from_bits(low), f32::from_bits(high), before)
}

/// The key at which the sum of the largest reaches `limit` (the last one if it never does). Linear: each round halves
/// what is left.
fn reach(keys: &mut [u64], limit: u64) -> u64 {
    let (mut left, mut before) = (keys, 0);
    while left.len() > FEW {
        let middle = left.len() / 2;
        left.select_nth_unstable_by_key(middle, |&key| Reverse(key));
        let (upper, lower) = left.split_at_mut(middle + 1);
        let with_upper = before + mass(upper);
        if with_upper >= limit || lower.is_empty() {
            left = upper;
        } else {
            (left, before) = (lower, with_upper);
        }
    }
    left.sort_unstable_by_key(|&key| Reverse(key));
    for &key in left.iter() {
        before += units(weight(key) as f64);
        if before >= limit {
            return key;
        }
    }
    left.last().copied().unwrap_or(0)
}

fn mass(keys: &[u64]) -> u64 {
    keys.iter().map(|&key| units(weight(key) as f64)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(count: u32) -> Vec<u64> {
        (0..count).map(|i| key(1.0 / (1.0 + (i.wrapping_mul(2_654_435_761) % count) as f32), i)).collect()
    }

    #[test]
    fn reach_is_the_sorted_walk() {
        for count in [1, 2, 31, 33, 500, 4001] {
            let mut sorted = keys(count);
            sorted.sort_unstable_by_key(|&key| Reverse(key));
            for share in [1e-9, 0.1, 0.5, 0.93, 0.999999, 2.0] {
                let limit = (share * mass(&sorted) as f64).ceil() as u64;
                let mut sum = 0;
                let mut walk = sorted.iter().copied();
                let expected = walk.find(|&key| {
                    sum += units(weight(key) as f64);
                    sum >= limit
                });
                assert_eq!(reach(&mut keys(count), limit), expected.unwrap_or(sorted[count as usize - 1]));
            }
        }
    }
}
