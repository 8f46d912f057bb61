//! Unnormalized probabilities of a row of logits, in blocks whose largest and sum are kept, so that most blocks need
//! not be looked at again.
//!
//! The sums of blocks, and single weights where they are compared with them, are integers: multiples of 2^-40. They can
//! be added in any order, so that a GPU, which samples by the same rules, comes to the same token.

/// Tokens in a block.
pub const BLOCK: usize = 64;
const LANES: usize = 8;

/// `exp((logit - max) / temperature)` per token, in place of the logits; the likeliest token has 1.
pub struct Weights<'a> {
    /// `[v]`, in [0, 1].
    pub each: &'a [f32],
    /// `[v / BLOCK]` largest of each block.
    pub tops: Vec<f32>,
    /// `[v / BLOCK]` sum of each block, in units.
    sums: Vec<u64>,
}

impl<'a> Weights<'a> {
    /// Replaces `logits[v]`, whose largest is `max` (finite), by their weights.
    pub fn of(logits: &'a mut [f32], max: f32, temperature: f32) -> Weights<'a> {
        let inverse = 1.0 / temperature;
        let mut sums = Vec::with_capacity(logits.len().div_ceil(BLOCK));
        for block in logits.chunks_mut(BLOCK) {
            block.iter_mut().for_each(|x| *x = exp((*x - max) * inverse));
            sums.push(units(sum(block)));
        }
        Weights { tops: block_tops(logits), each: logits, sums }
    }

    /// The sum of all weights from `cutoff` up, in units.
    pub fn mass(&self, cutoff: u64) -> u64 {
        (0..self.sums.len()).map(|b| self.block_mass(b, cutoff)).sum()
    }

    /// The token at share `point` (in [0, 1)) of the mass from `cutoff` up, by id.
    pub fn draw(&self, cutoff: u64, point: f64) -> u32 {
        let masses: Vec<u64> = (0..self.sums.len()).map(|b| self.block_mass(b, cutoff)).collect();
        let total = masses.iter().sum::<u64>();
        let mut left = ((point * total as f64) as u64).min(total.saturating_sub(1));
        let mut block = 0;
        while block + 1 < masses.len() && left >= masses[block] {
            left -= masses[block];
            block += 1;
        }
        self.draw_in(block, cutoff, left)
    }

    /// All tokens of weights from `low` (above 0) to `high` (excluded), as keys, by id.
    pub fn keys_between(&self, low: f32, high: f32) -> Vec<u64> {
        let mut keys = Vec::new();
        for (b, block) in self.each.chunks(BLOCK).enumerate().filter(|(b, _)| self.tops[*b] >= low) {
            let ids = (b * BLOCK) as u32..;
            for (ids, few) in ids.step_by(LANES).zip(block.chunks(LANES)) {
                if few.iter().fold(false, |any, &w| any | ((w >= low) & (w < high))) {
                    let inside = (ids..).zip(few).filter(|(_, w)| **w >= low && **w < high);
                    keys.extend(inside.map(|(id, &w)| key(w, id)));
                }
            }
        }
        keys
    }

    /// The sum in units and the number of the weights from `low` (above 0) up.
    pub fn above(&self, low: f32) -> (u64, usize) {
        let blocks = self.each.chunks(BLOCK).zip(&self.tops).filter(|(_, top)| **top >= low);
        let sums = blocks.map(|(block, _)| sum_from(block, low));
        sums.fold((0, 0), |all, one| (all.0 + units(one.0), all.1 + one.1))
    }

    /// The token that `left` units of the block's mass lie before; the last one kept if there is none, as single
    /// weights are rounded otherwise than their sum.
    fn draw_in(&self, block: usize, cutoff: u64, mut left: u64) -> u32 {
        let first = (block * BLOCK) as u32;
        let block = &self.each[block * BLOCK..self.each.len().min((block + 1) * BLOCK)];
        let mut last = first;
        for (id, &w) in (first..).zip(block).filter(|(id, w)| **w > 0.0 && key(**w, *id) >= cutoff) {
            last = id;
            let mass = units(w as f64);
            if left < mass {
                break;
            }
            left -= mass;
        }
        last
    }

    /// Tokens of exactly the cutoff's weight count up to its id.
    fn block_mass(&self, b: usize, cutoff: u64) -> u64 {
        let (low, last) = (weight(cutoff), !(cutoff as u32) as usize);
        if cutoff == 0 || self.tops[b] < low {
            return if cutoff == 0 { self.sums[b] } else { 0 };
        }
        let first = b * BLOCK;
        let block = &self.each[first..self.each.len().min(first + BLOCK)];
        if last >= first + BLOCK - 1 {
            return units(sum_from(block, low).0);
        }
        let mut kept = [0.0; BLOCK];
        for ((to, &w), id) in kept.iter_mut().zip(block).zip(first as u32..) {
            *to = if w > 0.0 && key(w, id) >= cutoff { w } else { 0.0 };
        }
        units(sum(&kept[..block.len()]))
    }
}

/// A sum of weights in units of 2^-40, rounded down.
pub fn units(sum: f64) -> u64 {
    (sum * (1u64 << 40) as f64) as u64
}

/// A number that orders tokens by weight, the smaller id first among equals. Weights are not negative, so their bits
/// are in the order of their values.
pub fn key(weight: f32, id: u32) -> u64 {
    (weight.to_bits() as u64) << 32 | !id as u64
}

/// The weight in a key.
pub fn weight(key: u64) -> f32 {
    f32::from_bits((key >> 32) as u32)
}

/// Whether any is NaN or +inf.
pub fn any_not_a_number(logits: &[f32]) -> bool {
    logits.chunks(1024).any(|chunk| chunk.iter().fold(false, |bad, &x| bad | x.is_nan() | (x == f32::INFINITY)))
}

/// The largest of each block.
pub fn block_tops(values: &[f32]) -> Vec<f32> {
    values.chunks(BLOCK).map(largest).collect()
}

/// The largest, or -inf if there are none.
pub fn largest(values: &[f32]) -> f32 {
    let larger = |a: f32, b: f32| if b > a { b } else { a };
    let mut lanes = [f32::NEG_INFINITY; LANES];
    let chunks = values.chunks_exact(LANES);
    let rest = chunks.remainder().iter().copied().fold(f32::NEG_INFINITY, larger);
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] = larger(lanes[i], chunk[i]);
        }
    }
    lanes.into_iter().fold(rest, larger)
}

/// The smallest id whose value is `max`, which is one of `tops`.
pub fn first_of(values: &[f32], tops: &[f32], max: f32) -> u32 {
    let start = tops.iter().position(|&top| top == max).unwrap_or(0) * BLOCK;
    let offset = values[start..].iter().position(|&x| x == max).unwrap_or(0);
    (start + offset) as u32
}

/// Sum of `exp(x - max)`.
pub fn sum_of_exp(logits: &[f32], max: f32) -> f64 {
    let mut scratch = [0.0; BLOCK];
    let of_block = |block: &[f32]| {
        let scratch = &mut scratch[..block.len()];
        scratch.iter_mut().zip(block).for_each(|(w, x)| *w = exp(x - max));
        sum(scratch)
    };
    logits.chunks(BLOCK).map(of_block).sum()
}

/// A fixed order of addition, whatever the machine.
fn sum(block: &[f32]) -> f64 {
    let mut lanes = [0f32; LANES];
    let chunks = block.chunks_exact(LANES);
    let rest: f64 = chunks.remainder().iter().map(|&w| w as f64).sum();
    for chunk in chunks {
        for i in 0..LANES {
            lanes[i] += chunk[i];
        }
    }
    across(lanes) as f64 + rest
}

/// The sum of the lanes, in a fixed order that suits vectors.
fn across(lanes: [f32; LANES]) -> f32 {
    let four: [f32; 4] = std::array::from_fn(|i| lanes[i] + lanes[i + 4]);
    (four[0] + four[2]) + (four[1] + four[3])
}

/// The sum and the number of those from `low` up, in a fixed order.
fn sum_from(block: &[f32], low: f32) -> (f64, usize) {
    let (mut lanes, mut counts) = ([0f32; LANES], [0u32; LANES]);
    let just_below = low.to_bits() as i32 - 1;
    let chunks = block.chunks_exact(LANES);
    let rest = chunks.remainder().iter().filter(|w| **w >= low);
    let (rest, more) = rest.fold((0.0, 0), |(sum, n), &w| (sum + w as f64, n + 1));
    for chunk in chunks {
        for i in 0..LANES {
            // All ones from `low` up: the bits of weights are ordered as the weights are. A comparison would become a
            // branch here, which is mispredicted half of the time.
            let kept = ((just_below - chunk[i].to_bits() as i32) >> 31) as u32;
            lanes[i] += f32::from_bits(chunk[i].to_bits() & kept);
            counts[i] += kept & 1;
        }
    }
    let count = counts.iter().sum::<u32>() as usize;
    (across(lanes) as f64 + rest, count + more)
}

/// e to a power of at most 0, within 2 units in the last place; 0 below e^-86. Only IEEE additions and products, so
/// that every machine gives the same bits: 2^n by the exponent field, the rest (|r| <= ln 2 / 2) by Taylor's series.
fn exp(x: f32) -> f32 {
    const MAGIC: f32 = 12_582_912.0; // 1.5 * 2^23: adding it rounds to an integer
    const LN2_HIGH: f32 = 0.693_359_4; // 10 bits, so that its products with n are exact
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let clamped = if x > -86.0 { x } else { -86.0 };
    let shifted = clamped * std::f32::consts::LOG2_E + MAGIC;
    let n = shifted - MAGIC;
    let r = (clamped - n * LN2_HIGH) - n * LN2_LOW;
    let mut p = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        p = p * r + c;
    }
    let scaled = f32::from_bits(p.to_bits().wrapping_add(shifted.to_bits() << 23));
    if x > -86.0 { scaled } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exp_is_exp() {
        assert_eq!((exp(0.0), exp(f32::NEG_INFINITY), exp(-86.5)), (1.0, 0.0, 0.0));
        for i in 0..860_000 {
            let x = -(i as f32) * 1e-4;
            let exact = (x as f64).exp();
            assert!((exp(x) as f64 - exact).abs() <= exact * 2.4e-7, "{x}: {} {exact}", exp(x));
        }
    }

    #[test]
    fn keys_order_by_weight_then_id() {
        assert!(key(0.5, 9) > key(0.25, 1) && key(0.5, 1) > key(0.5, 2) && key(1.0, 70_000) > key(0.99, 0));
        assert_eq!(weight(key(0.75, 12)), 0.75);
    }

    #[test]
    fn not_a_number_is_found_anywhere() {
        for place in [0, 1023, 1024, 4999] {
            for bad in [f32::NAN, -f32::NAN, f32::INFINITY] {
                let mut row = vec![f32::NEG_INFINITY; 5000];
                assert!(!any_not_a_number(&row));
                row[place] = bad;
                assert!(any_not_a_number(&row));
            }
        }
    }
}
