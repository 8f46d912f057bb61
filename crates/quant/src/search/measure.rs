//! The error itself: products of rounded activations and rounded weights against the float ones.
use super::Group;
use crate::grid;
use crate::rtn::row_absmax;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};

/// Everything about a group that does not depend on the factors.
pub(super) struct Measure<'a> {
    group: &'a Group<'a>,
    /// `[t, k]`.
    x: &'a [f32],
    /// Tokens.
    t: usize,
    /// For each linear `[t]`: what a squared error of the token counts.
    pub weights: Vec<Vec<f64>>,
}

impl<'a> Measure<'a> {
    /// Computes the float outputs' sizes.
    pub fn new(group: &'a Group<'a>, x: &'a [f32]) -> Measure<'a> {
        let t = x.len() / group.k.max(1);
        let weights = group.weights.iter().map(|w| {
            let n = w.len() / group.k;
            let mut y = vec![0.0; t * n];
            product(&mut y, Accum::Replace, x, w, group.k);
            token_weights(&y, n)
        });
        Measure { group, x, t, weights: weights.collect() }
    }

    /// Mean over linears and tokens of the relative squared error with factors `s[k]`.
    pub fn error(&self, s: &[f32]) -> f64 {
        let (k, kind) = (self.group.k, self.group.kind);
        let (lost, rounded) = self.activations(s);
        let mut sum = 0.0;
        for (w, weights) in self.group.weights.iter().zip(&self.weights) {
            let n = w.len() / k;
            let share = self.group.weight_share.sqrt() as f32;
            let mut lost_w = w.clone();
            let (mut codes, mut units) = (vec![0; k], vec![0.0; k]);
            for row in lost_w.chunks_exact_mut(k) {
                row.iter_mut().zip(s).for_each(|(w, s)| *w *= s);
                let scale = kind.weight_scale(row_absmax(row));
                encode(kind, row, scale, &mut codes, &mut units);
                row.iter_mut().zip(&units).zip(s).for_each(|((w, u), s)| *w = (u * scale - *w) / s * share);
            }
            let mut y = vec![0.0; self.t * n];
            product(&mut y, Accum::Replace, &lost, w, k);
            product(&mut y, Accum::Add, &rounded, &lost_w, k);
            sum += y.chunks_exact(n).zip(weights).map(|(row, weight)| weight * squares(row)).sum::<f64>();
        }
        sum / (self.t * self.group.weights.len()).max(1) as f64
    }

    /// `[t, k]` rounding errors of the smoothed input, and the rounded input, both with the factors taken out again.
    fn activations(&self, s: &[f32]) -> (Vec<f32>, Vec<f32>) {
        let (k, kind) = (self.group.k, self.group.kind);
        let (mut lost, mut rounded) = (self.x.to_vec(), self.x.to_vec());
        let (mut codes, mut units, mut smoothed) = (vec![0; k], vec![0.0; k], vec![0.0f32; k]);
        for (lost, rounded) in lost.chunks_exact_mut(k).zip(rounded.chunks_exact_mut(k)) {
            smoothed.iter_mut().zip(&*rounded).zip(s).for_each(|((v, x), s)| *v = x / s);
            let most = row_absmax(&smoothed);
            if most == 0.0 {
                lost.fill(0.0);
                continue;
            }
            let scale = most / kind.activation_range();
            encode(kind, &smoothed, scale, &mut codes, &mut units);
            for (((lost, rounded), u), s) in lost.iter_mut().zip(rounded).zip(&units).zip(s) {
                let x = *rounded;
                *rounded = u * scale * s;
                *lost = *rounded - x;
            }
        }
        (lost, rounded)
    }
}

fn encode(kind: planish_tensor::Q8, row: &[f32], scale: f32, codes: &mut [u8], units: &mut [f32]) {
    grid::vectorised(
        #[inline(always)]
        || grid::encode_row_into(kind, row, scale, codes, units),
    );
}

/// `y[t, n]` from `x[t, k]` and `w[n, k]`.
fn product(y: &mut [f32], accum: Accum, x: &[f32], w: &[f32], k: usize) {
    let (t, n) = (x.len() / k, w.len() / k);
    let (x, w) = (MatRef::from_row_major_slice(x, t, k), MatRef::from_column_major_slice(w, k, n));
    matmul(MatMut::from_row_major_slice_mut(y, t, n), accum, x, w, 1.0, Par::Seq);
}

fn squares(row: &[f32]) -> f64 {
    row.iter().map(|&v| f64::from(v).powi(2)).sum()
}

/// One over the squared norm of each token's output; tokens whose output is smaller than the median count by that.
fn token_weights(y: &[f32], n: usize) -> Vec<f64> {
    let norms: Vec<f64> = y.chunks_exact(n.max(1)).map(squares).collect();
    let mut sorted = norms.clone();
    sorted.sort_by(f64::total_cmp);
    let median = sorted.get(sorted.len() / 2).copied().unwrap_or(0.0);
    norms.iter().map(|norm| norm.max(median)).map(|norm| if norm > 0.0 { 1.0 / norm } else { 0.0 }).collect()
}
