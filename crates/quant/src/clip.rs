//! Scales below that of a row's largest weight: a few weights are cut, and the steps of all others become smaller.
//! A scale is chosen for each output channel by what its rounding errors `e` do behind the calibration's inputs,
//! `e G eᵀ`: screened with the diagonal of the Gram matrix, and kept only where the whole matrix agrees.
use crate::error::{Result, check_len};
use crate::grid;
use crate::rtn::{QuantizedWeight, row_scales};
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use planish_tensor::Q8;
use std::sync::Mutex;

/// Rows that are looked at together. Fixed, so that the result does not depend on the number of threads.
const CHUNK_ROWS: usize = 128;
/// Scales that are tried, as parts of the full one; for floats also some that are no shorter than half a binade.
const PARTS: [f32; 10] = [0.98, 0.96, 0.94, 0.92, 0.90, 0.87, 0.84, 0.80, 0.76, 0.71];

/// A weight rounded to nearest on scales that were searched.
#[derive(Clone, Debug, PartialEq)]
pub struct Clipped {
    /// Codes and scales.
    pub weight: QuantizedWeight,
    /// Rows whose scale is below that of their largest weight.
    pub rows: usize,
    /// `tr(E G Eᵀ)` with the scales as chosen.
    pub loss: f64,
    /// The same with full scales.
    pub full_loss: f64,
}

/// Rounds the weight `[n, k]`; `gram` is `[k, k]`, of which the lower triangle is read.
///
/// # Errors
/// Lengths that do not fit, or a weight that is NaN or infinite.
pub fn quantize_rows(kind: Q8, w: &[f32], n: usize, gram: &[f32], k: usize, threads: usize) -> Result<Clipped> {
    check_len("Gram matrix", gram.len(), &[k, k])?;
    let (scales, zero_rows) = row_scales(kind, w, n, k)?;
    let full: Vec<f32> = (0..k * k).map(|i| gram[(i / k).max(i % k) * k + (i / k).min(i % k)]).collect();
    let weight = QuantizedWeight { kind, n, k, codes: vec![0; w.len()], scales, zero_rows };
    let mut out = Clipped { weight, rows: 0, loss: 0.0, full_loss: 0.0 };
    let codes = out.weight.codes.chunks_mut((CHUNK_ROWS * k).max(1));
    let chunks = w.chunks((CHUNK_ROWS * k).max(1)).zip(codes).zip(out.weight.scales.chunks_mut(CHUNK_ROWS));
    let count = chunks.len();
    let chunks = Mutex::new(chunks.enumerate());
    let worker = || {
        let mut done = Vec::new();
        loop {
            let next = chunks.lock().unwrap_or_else(|e| e.into_inner()).next();
            let Some((i, ((w, codes), scales))) = next else { return done };
            done.push((i, Chunk { kind, k, gram: &full, w }.solve(scales, codes)));
        }
    };
    let mut losses = std::thread::scope(|scope| {
        let others: Vec<_> = (1..threads.min(count)).map(|_| scope.spawn(worker)).collect();
        let mut losses = worker();
        for other in others {
            losses.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        losses
    });
    losses.sort_by_key(|(i, _)| *i);
    for (_, (rows, loss, full_loss)) in losses {
        (out.rows, out.loss, out.full_loss) = (out.rows + rows, out.loss + loss, out.full_loss + full_loss);
    }
    Ok(out)
}

/// A few rows of a weight.
struct Chunk<'a> {
    kind: Q8,
    k: usize,
    /// `[k, k]`, both triangles.
    gram: &'a [f32],
    w: &'a [f32],
}

impl Chunk<'_> {
    /// Sets codes and scales (full ones on entry); rows that were cut, their loss and that of full scales.
    fn solve(&self, scales: &mut [f32], codes: &mut [u8]) -> (usize, f64, f64) {
        let screened: Vec<f32> =
            self.w.chunks_exact(self.k).zip(&*scales).map(|(row, &s)| self.screen(row, s)).collect();
        let (full, cut) = (self.losses(scales, codes), self.losses(&screened, codes));
        let (mut rows, mut loss) = (0, 0.0);
        for (i, scale) in scales.iter_mut().enumerate() {
            if cut[i] < full[i] && screened[i] < *scale {
                (*scale, rows) = (screened[i], rows + 1);
            }
            loss += cut[i].min(full[i]);
        }
        for ((row, scale), codes) in self.w.chunks_exact(self.k).zip(&*scales).zip(codes.chunks_exact_mut(self.k)) {
            grid::encode_row(self.kind, row, *scale, codes);
        }
        (rows, loss, full.iter().sum())
    }

    /// The scale with the least `Σ_j G_jj e_j²`.
    fn screen(&self, row: &[f32], full: f32) -> f32 {
        let (mut codes, mut units) = (vec![0; self.k], vec![0.0; self.k]);
        let mut best = (f64::INFINITY, full);
        for part in std::iter::once(1.0).chain(PARTS) {
            let scale = full * part;
            self.round(row, scale, &mut codes, &mut units);
            let lost =
                |(j, (w, u)): (usize, (&f32, &f32))| f64::from(self.gram[j * (self.k + 1)] * (w - u * scale).powi(2));
            let loss: f64 = row.iter().zip(&units).enumerate().map(lost).sum();
            if loss < best.0 {
                best = (loss, scale);
            }
        }
        best.1
    }

    /// `e G eᵀ` of every row on these scales.
    fn losses(&self, scales: &[f32], codes: &mut [u8]) -> Vec<f64> {
        let (rows, k) = (scales.len(), self.k);
        let (mut errors, mut units) = (self.w.to_vec(), vec![0.0; k]);
        for (i, row) in errors.chunks_exact_mut(k).enumerate() {
            self.round(&self.w[i * k..][..k], scales[i], &mut codes[i * k..][..k], &mut units);
            row.iter_mut().zip(&units).for_each(|(e, u)| *e -= u * scales[i]);
        }
        let mut behind = vec![0.0f32; rows * k];
        let (e, g) = (MatRef::from_row_major_slice(&errors, rows, k), MatRef::from_row_major_slice(self.gram, k, k));
        matmul(MatMut::from_row_major_slice_mut(&mut behind, rows, k), Accum::Replace, e, g, 1.0, Par::Seq);
        let dot = |(a, b): (&[f32], &[f32])| a.iter().zip(b).map(|(a, b)| f64::from(*a) * f64::from(*b)).sum();
        errors.chunks_exact(k).zip(behind.chunks_exact(k)).map(dot).collect()
    }

    fn round(&self, row: &[f32], scale: f32, codes: &mut [u8], units: &mut [f32]) {
        grid::vectorised(
            #[inline(always)]
            || grid::encode_row_into(self.kind, row, scale, codes, units),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::samples::SplitMix64;

    fn noise(n: usize, seed: u64) -> Vec<f32> {
        let mut random = SplitMix64::new(seed);
        let mut uniform = || (random.next_u64() >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
        (0..n).map(|_| (0..4).map(|_| uniform()).sum::<f32>()).collect()
    }

    /// Rows with one large weight that reads a silent input.
    fn case(n: usize, k: usize) -> (Vec<f32>, Vec<f32>) {
        let (mut w, x) = (noise(n * k, 1), noise(64 * k, 2));
        w.iter_mut().step_by(k).for_each(|w| *w = 1.6);
        let gram = (0..k * k).map(|i| {
            let size = |j: usize| if j == 0 { 0.01 } else { 1.0 };
            let (a, b) = (i / k, i % k);
            if b > a { f32::NAN } else { (0..64).map(|t| x[t * k + a] * size(a) * x[t * k + b] * size(b)).sum() }
        });
        (w, gram.collect())
    }

    fn loss(w: &[f32], q: &[f32], gram: &[f32], k: usize) -> f64 {
        let g = |a: usize, b: usize| f64::from(gram[a.max(b) * k + a.min(b)]);
        let row = |(w, q): (&[f32], &[f32])| -> f64 {
            let e: Vec<f64> = w.iter().zip(q).map(|(a, b)| f64::from(a - b)).collect();
            (0..k).map(|a| (0..k).map(|b| e[a] * g(a, b) * e[b]).sum::<f64>()).sum()
        };
        w.chunks(k).zip(q.chunks(k)).map(row).sum()
    }

    #[test]
    fn losses_are_true_and_fall() {
        let (n, k) = (150, 32);
        let (w, gram) = case(n, k);
        for kind in [Q8::Int8, Q8::E4M3] {
            let got = quantize_rows(kind, &w, n, &gram, k, 1).unwrap();
            let plain = crate::rtn::quantize_rows(kind, &w, n, k).unwrap();
            let (cut, full) = (loss(&w, &got.weight.dequantize(), &gram, k), loss(&w, &plain.dequantize(), &gram, k));
            assert!((got.loss / cut - 1.0).abs() < 1e-3 && (got.full_loss / full - 1.0).abs() < 1e-3, "{got:?}");
            assert!(got.rows > 0 && cut < full, "{kind:?}: {cut} {full}");
            if kind == Q8::Int8 {
                assert!(cut < 0.7 * full, "{cut} {full}");
            }
            assert_eq!(got, quantize_rows(kind, &w, n, &gram, k, 5).unwrap());
        }
    }

    #[test]
    fn rows_that_cannot_gain_stay() {
        let (n, k) = (3, 8);
        let w = vec![1.0; n * k];
        let gram: Vec<f32> = (0..k * k).map(|i| if i / k == i % k { 1.0 } else { 0.0 }).collect();
        let got = quantize_rows(Q8::Int8, &w, n, &gram, k, 2).unwrap();
        let plain = crate::rtn::quantize_rows(Q8::Int8, &w, n, k).unwrap();
        assert!(got.loss <= got.full_loss);
        if got.rows == 0 {
            assert_eq!(got.weight, plain);
        }
        assert!(quantize_rows(Q8::Int8, &w, n, &gram[1..], k, 1).unwrap_err().to_string().contains("Gram"));
        assert!(quantize_rows(Q8::Int8, &[f32::NAN; 8], 1, &gram, k, 1).is_err());
    }
}
