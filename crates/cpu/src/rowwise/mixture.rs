//! What a mixture of experts does with rows.
use super::{RowsMut, row_count, split};
use crate::threads::Threads;
use planish_tensor::mixture::{Routing, choose, sigmoid};

/// See [`choose`]: `logits[t, e]` to `experts` and `weights` `[t, c]`.
pub fn route(threads: &Threads, logits: &[f32], routing: &Routing, experts: &mut [i32], weights: &mut [f32]) {
    let (e, c) = (routing.experts, routing.chosen);
    let t = row_count(logits.len(), e);
    let (experts, weights) = (RowsMut::new(experts, t, c), RowsMut::new(weights, t, c));
    // Choosing looks at every logit once for each choice.
    split(threads, t, e * (c + 4), |rows| {
        for r in rows {
            // SAFETY: each row is in one range.
            let (experts, weights) = unsafe { (experts.row(r), weights.row(r)) };
            choose(&logits[r * e..][..e], routing, experts, weights);
        }
    });
}

/// `out[i] = x[rows[i]]`, rows of `size` bytes. Panics on a row that is not there.
pub fn select_rows(threads: &Threads, x: &[u8], rows: &[u32], size: usize, out: &mut [u8]) {
    let out = RowsMut::new(out, rows.len(), size);
    split(threads, rows.len(), size / 4, |range| {
        for i in range {
            // SAFETY: each row is in one range.
            unsafe { out.row(i) }.copy_from_slice(&x[rows[i] as usize * size..][..size]);
        }
    });
}

/// `out[t] = Σ_j weights[t, j] · y[rows[t, j]]`, from the first term on; `rows` and `weights` `[t, c]`, `y[t c, h]`.
pub fn combine(threads: &Threads, y: &[f32], rows: &[u32], weights: &[f32], c: usize, h: usize, out: &mut [f32]) {
    let t = row_count(rows.len(), c);
    let out = RowsMut::new(out, t, h);
    split(threads, t, (c + 1) * h, |range| {
        for t in range {
            // SAFETY: each row is in one range.
            let out = unsafe { out.row(t) };
            for j in 0..c {
                let (weight, y) = (weights[t * c + j], &y[rows[t * c + j] as usize * h..][..h]);
                match j {
                    0 => out.iter_mut().zip(y).for_each(|(sum, y)| *sum = weight * y),
                    _ => out.iter_mut().zip(y).for_each(|(sum, y)| *sum += weight * y),
                }
            }
        }
    });
}

/// `x[t] += y[t] · sigmoid(gates[t])`, rows of width `h`.
pub fn add_gated(threads: &Threads, x: &mut [f32], y: &[f32], gates: &[f32], h: usize) {
    let t = row_count(y.len(), h);
    let x = RowsMut::new(x, t, h);
    split(threads, t, 2 * h, |range| {
        for r in range {
            let factor = sigmoid(gates[r]);
            // SAFETY: each row is in one range.
            unsafe { x.row(r) }.iter_mut().zip(&y[r * h..][..h]).for_each(|(x, y)| *x += y * factor);
        }
    });
}
