//! The few likeliest tokens of a row, in order.
use super::weights::{BLOCK, block_tops};
use std::cmp::Reverse;

/// Ids of the `count` largest logits, falling; equals by id. Whole blocks below the `count`-th largest of the blocks'
/// largest are skipped.
pub fn likeliest(logits: &[f32], count: usize) -> Vec<u32> {
    let count = count.min(logits.len());
    if count == 0 {
        return Vec::new();
    }
    let tops = block_tops(logits);
    let floor = match count <= tops.len() {
        true => *tops.clone().select_nth_unstable_by(count - 1, |a, b| b.total_cmp(a)).1,
        false => f32::NEG_INFINITY,
    };
    let mut keys = Vec::new();
    for (b, block) in logits.chunks(BLOCK).enumerate().filter(|(b, _)| tops[*b] >= floor) {
        let ids = (b * BLOCK) as u32..;
        keys.extend(ids.zip(block).filter(|(_, x)| **x >= floor).map(|(id, &x)| Reverse(key(x, id))));
    }
    if count < keys.len() {
        keys.select_nth_unstable(count);
        keys.truncate(count);
    }
    keys.sort_unstable();
    keys.into_iter().map(|Reverse(key)| !(key as u32)).collect()
}

/// Orders by value, then the smaller id first. The bits of negative numbers fall as their values rise.
fn key(x: f32, id: u32) -> u64 {
    let bits = (x + 0.0).to_bits();
    let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
    (ordered as u64) << 32 | !id as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_are_those_of_a_full_sort() {
        let logits: Vec<f32> = (0..1000u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 24) as f32 - 128.0).collect();
        let mut sorted: Vec<u32> = (0..1000).collect();
        sorted.sort_by(|a, b| logits[*b as usize].total_cmp(&logits[*a as usize]).then(a.cmp(b)));
        for count in [0, 1, 5, 16, 17, 400, 1000, 2000] {
            assert_eq!(likeliest(&logits, count), sorted[..count.min(1000)], "{count}");
        }
        assert_eq!(likeliest(&[f32::NEG_INFINITY, 0.0, -0.0], 3), [1, 2, 0]);
    }
}
