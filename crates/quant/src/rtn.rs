//! Round-to-nearest: one scale per output channel, every weight to the nearest code.
use crate::error::{Error, Result, check_len};
use crate::grid;
use planish_tensor::{Q8, q8};

/// The weight `[n, k]` of one linear in 8 bits, and its channel scales.
#[derive(Clone, Debug, PartialEq)]
pub struct QuantizedWeight {
    /// The grid of the codes.
    pub kind: Q8,
    /// Output channels.
    pub n: usize,
    /// Input channels.
    pub k: usize,
    /// Codes `[n, k]`, row-major.
    pub codes: Vec<u8>,
    /// One scale per output channel, `[n]`.
    pub scales: Vec<f32>,
    /// Output channels whose weights are all zero (their scale is `q8::ZERO_ROW_SCALE`).
    pub zero_rows: Vec<usize>,
}

impl QuantizedWeight {
    /// The weights that the codes stand for, `[n, k]`.
    pub fn dequantize(&self) -> Vec<f32> {
        let table: Vec<f32> = (0..=255).map(|c| self.kind.decode(c)).collect();
        let mut out = Vec::with_capacity(self.codes.len());
        for (row, &scale) in self.codes.chunks_exact(self.k.max(1)).zip(&self.scales) {
            out.extend(row.iter().map(|&c| table[c as usize] * scale));
        }
        out
    }

    /// `||W - Wq|| / ||W||` in the Frobenius norm, against the original `[n, k]`; 0 for a matrix of zeros.
    pub fn relative_error(&self, w: &[f32]) -> f64 {
        let (mut lost, mut total) = (0.0f64, 0.0f64);
        for (&a, b) in w.iter().zip(self.dequantize()) {
            lost += f64::from(a - b).powi(2);
            total += f64::from(a).powi(2);
        }
        if total == 0.0 { 0.0 } else { (lost / total).sqrt() }
    }
}

/// Quantizes a weight `[n, k]` to the nearest codes; identical to `q8::quantize_weight_row` row by row.
///
/// # Errors
/// `w` has not `n * k` elements, or one of them is NaN or infinite.
pub fn quantize_rows(kind: Q8, w: &[f32], n: usize, k: usize) -> Result<QuantizedWeight> {
    let (scales, zero_rows) = row_scales(kind, w, n, k)?;
    let mut codes = vec![0; w.len()];
    for ((row, out), &scale) in w.chunks_exact(k.max(1)).zip(codes.chunks_exact_mut(k.max(1))).zip(&scales) {
        grid::encode_row(kind, row, scale, out);
    }
    Ok(QuantizedWeight { kind, n, k, codes, scales, zero_rows })
}

/// The scale of every row, and the rows of zeros; refuses what is not finite.
pub(crate) fn row_scales(kind: Q8, w: &[f32], n: usize, k: usize) -> Result<(Vec<f32>, Vec<usize>)> {
    check_len("weight", w.len(), &[n, k])?;
    let (mut scales, mut zero_rows) = (Vec::with_capacity(n), Vec::new());
    for (row, values) in w.chunks_exact(k.max(1)).enumerate() {
        let absmax = row_absmax(values);
        if !absmax.is_finite() {
            let column = values.iter().position(|x| !x.is_finite()).unwrap_or(0);
            return Err(Error::Weight { row, column, value: values[column] });
        }
        if absmax == 0.0 {
            zero_rows.push(row);
        }
        scales.push(kind.weight_scale(absmax));
    }
    if k == 0 {
        scales.resize(n, q8::ZERO_ROW_SCALE);
        zero_rows.extend(0..n);
    }
    Ok((scales, zero_rows))
}

/// `q8::absmax` by comparing bit patterns: the patterns of magnitudes sort like the magnitudes, NaN above infinity.
pub(crate) fn row_absmax(row: &[f32]) -> f32 {
    grid::vectorised(
        #[inline(always)]
        || f32::from_bits(row.iter().fold(0u32, |m, x| m.max(x.to_bits() & 0x7fff_ffff))),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equals_the_definition() {
        let (n, k) = (5, 37);
        let mut w: Vec<f32> = (0..n * k).map(|i| ((i * 7919 % 1013) as f32 - 506.0) / 300.0).collect();
        w[2 * k..3 * k].fill(-0.0);
        for kind in Q8::ALL {
            let got = quantize_rows(kind, &w, n, k).unwrap();
            assert_eq!(got.zero_rows, [2]);
            for row in 0..n {
                let mut codes = vec![0; k];
                let scale = q8::quantize_weight_row(kind, &w[row * k..][..k], &mut codes);
                assert_eq!(got.scales[row], scale);
                assert_eq!(got.codes[row * k..][..k], codes);
            }
            let error = got.relative_error(&w);
            assert!(error > 1e-4 && error < 0.1, "{kind:?} {error}");
        }
    }

    #[test]
    fn names_the_bad_weight() {
        let mut w = vec![1.0; 12];
        w[7] = f32::NAN;
        let message = quantize_rows(Q8::Int8, &w, 3, 4).unwrap_err().to_string();
        assert_eq!(message, "weight row 1, column 3 is NaN; a finite number is needed");
        w[7] = f32::NEG_INFINITY;
        assert!(quantize_rows(Q8::E4M3, &w, 3, 4).unwrap_err().to_string().contains("-inf"));
        let message = quantize_rows(Q8::Int8, &w, 4, 4).unwrap_err().to_string();
        assert_eq!(message, "weight: expected 16 elements, found 12");
    }
}
