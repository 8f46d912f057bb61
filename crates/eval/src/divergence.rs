//! The Kullback-Leibler divergence of rows of log-probabilities: plain loops that the compiler turns into vector
//! instructions, with the exponential written out for that.

/// Elements summed in f32 before the sum goes on in f64.
const BLOCK: usize = 512;
/// Sums kept side by side, so that one does not wait for the other.
const LANES: usize = 8;
/// Below this a log-probability counts as probability 0: `exp` of it is the smallest normal f32.
const FLOOR: f32 = -87.0;

/// Two distributions over one vocabulary, compared.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Divergence {
    /// `sum_i p_i (ln p_i - ln q_i)`, nats. Infinite where `q` rules out what `p` allows; NaN if a number is NaN.
    pub kl: f64,
    /// The likeliest token of `p`; the first of equals.
    pub top_p: usize,
    /// The likeliest token of `q`; the first of equals.
    pub top_q: usize,
}

/// Compares two rows `[v]` of natural-log probabilities. A term whose `p` is 0 is 0.
///
/// # Panics
/// The rows have different lengths.
pub fn divergence(p: &[f32], q: &[f32]) -> Divergence {
    assert_eq!(p.len(), q.len(), "rows of one vocabulary");
    let mut kl = 0.0;
    let (mut best_p, mut best_q) = (Top::default(), Top::default());
    for (block, (p, q)) in p.chunks(BLOCK).zip(q.chunks(BLOCK)).enumerate() {
        let (sum, max_p, max_q) = sum_block(p, q);
        kl += sum;
        best_p.see(block, max_p);
        best_q.see(block, max_q);
    }
    // Terms of both signs cancel: what is below 0 is rounding. (NaN stays NaN.)
    let kl = if kl < 0.0 { 0.0 } else { kl };
    Divergence { kl, top_p: best_p.find(p), top_q: best_q.find(q) }
}

/// The greatest value so far, and the first block it was seen in.
struct Top {
    block: usize,
    value: f32,
}

impl Default for Top {
    fn default() -> Self {
        Top { block: 0, value: f32::NEG_INFINITY }
    }
}

impl Top {
    fn see(&mut self, block: usize, value: f32) {
        if value > self.value {
            *self = Top { block, value };
        }
    }

    fn find(&self, row: &[f32]) -> usize {
        let start = self.block * BLOCK;
        row.iter().skip(start).take(BLOCK).position(|x| *x == self.value).map_or(0, |i| start + i)
    }
}

/// The divergence's terms of one block, and each side's maximum.
fn sum_block(p: &[f32], q: &[f32]) -> (f64, f32, f32) {
    let mut lanes = Lanes { sum: [0.0; LANES], p: [f32::NEG_INFINITY; LANES], q: [f32::NEG_INFINITY; LANES] };
    let ((p, p_rest), (q, q_rest)) = (p.as_chunks::<LANES>(), q.as_chunks::<LANES>());
    for (p, q) in p.iter().zip(q) {
        lanes.add(p, q);
    }
    if !p_rest.is_empty() {
        let (mut p, mut q) = ([f32::NEG_INFINITY; LANES], [f32::NEG_INFINITY; LANES]);
        p[..p_rest.len()].copy_from_slice(p_rest);
        q[..q_rest.len()].copy_from_slice(q_rest);
        lanes.add(&p, &q);
    }
    let max = |xs: [f32; LANES]| xs.into_iter().fold(f32::NEG_INFINITY, f32::max);
    (lanes.sum.iter().map(|&x| x as f64).sum(), max(lanes.p), max(lanes.q))
}

struct Lanes {
    sum: [f32; LANES],
    p: [f32; LANES],
    q: [f32; LANES],
}

impl Lanes {
    #[inline(always)]
    fn add(&mut self, p: &[f32; LANES], q: &[f32; LANES]) {
        for i in 0..LANES {
            let term = exp(p[i]) * (p[i] - q[i]);
            // Written so that NaN is not below the floor and stays in the sum.
            self.sum[i] += if p[i] <= FLOOR { 0.0 } else { term };
            self.p[i] = if p[i] > self.p[i] { p[i] } else { self.p[i] };
            self.q[i] = if q[i] > self.q[i] { q[i] } else { self.q[i] };
        }
    }
}

/// `e^x` for `x` from [`FLOOR`] (lower is taken as that) to about 80, relative error about 1e-7:
/// `2^n e^r`, `|r| <= ln 2 / 2`, the second factor by its Taylor series.
#[inline(always)]
fn exp(x: f32) -> f32 {
    /// Adding 1.5 * 2^23 leaves no bits after the point: the sum's low bits are the rounded number.
    const ROUND: f32 = 12_582_912.0;
    /// ln 2 in two parts: a product of the first with a small integer is exact.
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    let x = if x > FLOOR { x } else { FLOOR };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut series = 1.0 / 5040.0;
    for c in [1.0 / 720.0, 1.0 / 120.0, 1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0] {
        series = series * r + c;
    }
    let exponent = shifted.to_bits().wrapping_sub(ROUND.to_bits()).wrapping_add(127);
    series * f32::from_bits(exponent << 23)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn log_softmax(logits: &[f64]) -> Vec<f32> {
        let sum: f64 = logits.iter().map(|x| x.exp()).sum();
        logits.iter().map(|x| (x - sum.ln()) as f32).collect()
    }

    #[test]
    fn exp_is_accurate() {
        for i in 0..=870_000 {
            let x = -(i as f32) * 1e-4;
            let expected = (x as f64).exp();
            assert!((exp(x) as f64 - expected).abs() <= 1.5e-7 * expected, "{x}: {} not {expected}", exp(x));
        }
        assert_eq!(exp(0.0), 1.0);
    }

    /// Two-sided coins have a closed form.
    #[test]
    fn coins() {
        for (p, q) in [(0.5f64, 0.25f64), (0.9, 0.9), (0.01, 0.99)] {
            let row = |p: f64| [p.ln() as f32, (1.0 - p).ln() as f32];
            let expected = p * (p / q).ln() + (1.0 - p) * ((1.0 - p) / (1.0 - q)).ln();
            assert!((divergence(&row(p), &row(q)).kl - expected).abs() < 3e-7 * expected.max(1.0));
        }
    }

    /// Every length around the block and lane sizes, against f64.
    #[test]
    fn rows_of_any_length() {
        for v in [1, 2, 7, 8, 9, 511, 512, 513, 1025, 49152] {
            let wave = |i: usize, a: f64| 6.0 * (i as f64 * 0.37).sin() + a * (i as f64 * 1.7).cos();
            let p = log_softmax(&(0..v).map(|i| wave(i, 0.0)).collect::<Vec<_>>());
            let q = log_softmax(&(0..v).map(|i| wave(i, 0.2)).collect::<Vec<_>>());
            let expected: f64 = p.iter().zip(&q).map(|(&p, &q)| (p as f64).exp() * (p as f64 - q as f64)).sum();
            let top = |row: &[f32]| (0..v).rev().max_by(|&a, &b| row[a].total_cmp(&row[b])).unwrap();
            let found = divergence(&p, &q);
            assert!((found.kl - expected.max(0.0)).abs() < 1e-7, "{v}: {} not {expected}", found.kl);
            assert_eq!((found.top_p, found.top_q), (top(&p), top(&q)), "{v}");
        }
    }

    #[test]
    fn impossible_tokens() {
        const NO: f32 = f32::NEG_INFINITY;
        let half = 0.5f32.ln();
        // What p rules out costs nothing, whatever q says of it.
        assert_eq!(divergence(&[0.0, NO, NO], &[half, half, NO]).kl, -half as f64);
        // What q rules out and p does not is infinitely bad.
        assert_eq!(divergence(&[half, half], &[0.0, NO]).kl, f64::INFINITY);
        assert!(divergence(&[f32::NAN, half], &[half, half]).kl.is_nan());
        assert!(divergence(&[half, half], &[half, f32::NAN]).kl.is_nan());
        assert_eq!(divergence(&[], &[]).kl, 0.0);
    }

    #[test]
    fn the_first_of_equals_is_the_likeliest() {
        let mut row = vec![-10.0; 2000];
        (row[700], row[1500]) = (-1.0, -1.0);
        let found = divergence(&row, &row);
        assert_eq!((found.top_p, found.top_q, found.kl), (700, 700, 0.0));
    }
}
