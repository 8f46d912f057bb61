//! The router's choice, and tokens grouped by expert.
use super::Routing;
use crate::{Error, Result};

/// One token: its experts, ascending, and their weights, from the router's logits `[e]`.
///
/// The experts are those with the largest logits; of equals the one with the lower index. A weight is
/// `exp(logit - max) / Σ exp(logit - max)` over all experts, or over the chosen ones when normalized; every sum is in
/// ascending order. A row with NaN goes to the first experts, with weights of NaN.
pub fn choose(logits: &[f32], routing: &Routing, experts: &mut [i32], weights: &mut [f32]) {
    if logits.iter().any(|l| l.is_nan()) {
        experts.iter_mut().enumerate().for_each(|(i, e)| *e = i as i32);
        return weights.fill(f32::NAN);
    }
    for i in 0..experts.len() {
        let (taken, rest) = experts.split_at_mut(i);
        let free = |e: &usize| !taken.contains(&(*e as i32));
        let better = |best: usize, e: usize| if logits[e] > logits[best] { e } else { best };
        rest[0] = (0..logits.len()).filter(free).reduce(better).map_or(0, |e| e as i32);
    }
    experts.sort_unstable();
    let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let power = |e: usize| (logits[e] - max).exp();
    for (weight, &expert) in weights.iter_mut().zip(&*experts) {
        *weight = power(expert as usize);
    }
    let sum: f32 = if routing.normalize { weights.iter().sum() } else { (0..logits.len()).map(power).sum() };
    weights.iter_mut().for_each(|w| *w /= sum);
}

/// The rows of a step's tokens, grouped by expert: row `i` is `places[i] = t c + j`, the `j`-th choice of token `t`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Groups {
    /// `[t c]` by expert, then by token.
    pub places: Vec<u32>,
    /// `[e + 1]` first row of each expert.
    pub starts: Vec<usize>,
    chosen: usize,
}

impl Groups {
    /// Groups `chosen` experts of each token, `[t, c]`. Fails on an expert that does not exist.
    pub fn new(experts: &[i32], chosen: usize, count: usize) -> Result<Groups> {
        let mut starts = vec![0; count + 1];
        for &expert in experts {
            match starts[1..].get_mut(expert as usize) {
                Some(rows) => *rows += 1,
                None => return Err(Error::shape(format!("expert {expert} of a mixture of {count}"))),
            }
        }
        for e in 0..count {
            starts[e + 1] += starts[e];
        }
        let (mut next, mut places) = (starts.clone(), vec![0; experts.len()]);
        for (place, &expert) in experts.iter().enumerate() {
            places[next[expert as usize]] = place as u32;
            next[expert as usize] += 1;
        }
        Ok(Groups { places, starts, chosen: chosen.max(1) })
    }

    /// Experts that have rows, with their rows, ascending.
    pub fn used(&self) -> impl Iterator<Item = (usize, std::ops::Range<usize>)> + '_ {
        let rows = |e: usize| (e, self.starts[e]..self.starts[e + 1]);
        (0..self.starts.len().saturating_sub(1)).map(rows).filter(|(_, rows)| !rows.is_empty())
    }

    /// Tokens of these rows.
    pub fn tokens(&self, rows: std::ops::Range<usize>) -> Vec<u32> {
        self.places[rows].iter().map(|p| p / self.chosen as u32).collect()
    }

    /// `[t c]` the row of each place.
    pub fn rows_of_places(&self) -> Vec<u32> {
        let mut rows = vec![0; self.places.len()];
        self.places.iter().enumerate().for_each(|(row, &place)| rows[place as usize] = row as u32);
        rows
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chosen(logits: &[f32], chosen: usize, normalize: bool) -> (Vec<i32>, Vec<f32>) {
        let (mut experts, mut weights) = (vec![0; chosen], vec![0.0; chosen]);
        choose(logits, &Routing { experts: logits.len(), chosen, normalize }, &mut experts, &mut weights);
        (experts, weights)
    }

    #[test]
    fn the_largest_are_chosen_and_of_equals_the_first() {
        let ln = f32::ln;
        let (experts, weights) = chosen(&[ln(1.0), ln(4.0), ln(2.0), ln(1.0)], 2, false);
        assert_eq!(experts, [1, 2]);
        assert!((weights[0] - 0.5).abs() < 1e-6 && (weights[1] - 0.25).abs() < 1e-6, "{weights:?}");
        let (_, weights) = chosen(&[ln(1.0), ln(4.0), ln(2.0), ln(1.0)], 2, true);
        assert!((weights[0] - 2.0 / 3.0).abs() < 1e-6 && (weights[1] - 1.0 / 3.0).abs() < 1e-6, "{weights:?}");
        assert_eq!(chosen(&[3.0, 7.0, 7.0, 7.0], 2, true), (vec![1, 2], vec![0.5, 0.5]));
        assert_eq!(chosen(&[0.0; 5], 5, false).0, [0, 1, 2, 3, 4]);
        assert_eq!(chosen(&[f32::NEG_INFINITY, 1.0, f32::NEG_INFINITY], 2, true), (vec![0, 1], vec![0.0, 1.0]));
    }

    #[test]
    fn nan_reaches_the_weights() {
        for logits in [[1.0, f32::NAN, 2.0], [f32::INFINITY, 0.0, f32::INFINITY], [f32::NEG_INFINITY; 3]] {
            let (experts, weights) = chosen(&logits, 2, true);
            assert!(weights.iter().any(|w| w.is_nan()), "{logits:?}: {weights:?}");
            assert!(experts.iter().all(|&e| (0..3).contains(&e)) && experts[0] < experts[1]);
        }
    }

    #[test]
    fn groups_are_by_expert_then_by_token() {
        let groups = Groups::new(&[1, 3, 0, 3, 1, 3], 2, 5).unwrap();
        assert_eq!(groups.places, [2, 0, 4, 1, 3, 5]);
        assert_eq!(groups.used().collect::<Vec<_>>(), [(0, 0..1), (1, 1..3), (3, 3..6)]);
        assert_eq!(groups.tokens(3..6), [0, 1, 2]);
        let back = groups.rows_of_places();
        assert!((0..6).all(|row| back[groups.places[row] as usize] == row as u32));
        assert!(Groups::new(&[5], 1, 5).is_err() && Groups::new(&[-1], 1, 5).is_err());
        assert_eq!(Groups::new(&[], 2, 3).unwrap().used().count(), 0);
    }
}
