//! SmoothQuant (Xiao et al., 2022, arXiv 2211.10438): moves the outliers of activations into the weights.
//! `Y = (X / s) (W s)`: each input channel is divided by `s_j` where it is made and multiplied where it is read.
//! Everything here works on plain arrays, in f32, and keeps the function of the model the same.
use crate::error::{Error, Result, check_len};

/// Smallest and largest factor.
pub const FACTOR_RANGE: [f32; 2] = [1e-5, 1e5];

/// The smoothing factors of one group of linears that read the same input.
#[derive(Clone, Debug, PartialEq)]
pub struct SmoothingFactors {
    /// One factor per input channel, finite and within [`FACTOR_RANGE`].
    pub s: Vec<f32>,
    /// Channels that no calibration token used (absolute maximum 0): their factor is 1.
    pub dead_channels: Vec<usize>,
    /// Channels that no weight of the group reads (column of zeros): their factor is 1.
    pub zero_columns: Vec<usize>,
    /// Channels whose factor was cut to [`FACTOR_RANGE`].
    pub clamped: Vec<usize>,
}

/// `s_j = max|X_j|^alpha / max|W_j|^(1 - alpha)`, the paper's formula.
///
/// `act_absmax` and `weight_col_absmax` `[k]` are magnitudes of the input channels and of the columns of all weights
/// of the group; another tool's statistics may be given instead (llm-compressor: `max - min` and `2 max|W|`).
/// A channel where either is 0 says nothing about the balance, and keeps the factor 1.
///
/// # Errors
/// The lengths differ, alpha is outside [0, 1], or a magnitude is negative, NaN or infinite.
pub fn smoothing_factors(act_absmax: &[f32], weight_col_absmax: &[f32], alpha: f64) -> Result<SmoothingFactors> {
    check_len("weight column maxima", weight_col_absmax.len(), &[act_absmax.len()])?;
    if !(0.0..=1.0).contains(&alpha) {
        let expected = "a number from 0 to 1".to_string();
        return Err(Error::Setting { name: "smoothing strength".into(), expected, found: alpha.to_string() });
    }
    check_magnitudes("activation maximum", act_absmax)?;
    check_magnitudes("weight column maximum", weight_col_absmax)?;
    let mut out = SmoothingFactors { s: vec![], dead_channels: vec![], zero_columns: vec![], clamped: vec![] };
    for (j, (&a, &w)) in act_absmax.iter().zip(weight_col_absmax).enumerate() {
        if a == 0.0 {
            out.dead_channels.push(j);
        }
        if w == 0.0 {
            out.zero_columns.push(j);
        }
        if a == 0.0 || w == 0.0 {
            out.s.push(1.0);
            continue;
        }
        // Powers in f64, rounded once: the same f32 on every platform's mathematical library.
        let s = (f64::from(a).powf(alpha) / f64::from(w).powf(1.0 - alpha)) as f32;
        let kept = s.clamp(FACTOR_RANGE[0], FACTOR_RANGE[1]);
        if kept != s {
            out.clamped.push(j);
        }
        out.s.push(kept);
    }
    Ok(out)
}

/// Rounds every factor to the nearest power of two (on the logarithmic scale).
/// Multiplying and dividing by it is then exact, also in bfloat16 (subnormal numbers aside).
pub fn round_to_power_of_two(s: &mut [f32]) {
    for s in s {
        *s = f64::from(*s).log2().round().exp2() as f32;
    }
}

/// Ties the `nq * d` input channels of `o` to the `nkv * d` output rows of `v` that feed them: the maximum over the
/// query heads of each key/value head. Query head `h` reads key/value head `h / (nq / nkv)`.
///
/// # Errors
/// `values` has not `nq * d` elements, or `nq` is not a multiple of `nkv`.
pub fn tie_groups(values: &[f32], nq: usize, nkv: usize, d: usize) -> Result<Vec<f32>> {
    check_heads(values.len(), nq, nkv, d, nq)?;
    let mut tied = vec![0.0f32; nkv * d];
    for (head, channels) in values.chunks_exact(d.max(1)).enumerate() {
        let kv = head / (nq / nkv);
        larger(&mut tied[kv * d..][..d], channels);
    }
    Ok(tied)
}

/// Repeats factors per key/value head `[nkv * d]` for every query head `[nq * d]`: the inverse of [`tie_groups`].
///
/// # Errors
/// `values` has not `nkv * d` elements, or `nq` is not a multiple of `nkv`.
pub fn expand_groups(values: &[f32], nq: usize, nkv: usize, d: usize) -> Result<Vec<f32>> {
    check_heads(values.len(), nq, nkv, d, nkv)?;
    Ok((0..nq * d).map(|i| values[i / d / (nq / nkv) * d + i % d]).collect())
}

/// Largest magnitude of every column of `w` `[n, k]`; NaN where a column has one.
///
/// # Errors
/// `w` has not `n * k` elements.
pub fn column_absmax(w: &[f32], n: usize, k: usize) -> Result<Vec<f32>> {
    check_len("weight", w.len(), &[n, k])?;
    let mut max = vec![0.0; k];
    w.chunks_exact(k.max(1)).for_each(|row| larger(&mut max, row));
    Ok(max)
}

/// Folds factors into the columns of a linear that reads the smoothed input: `W_j *= s_j`, `w` is `[n, k]`.
///
/// # Errors
/// `w` is not a whole number of rows of length `k`, or `s` has not `k` elements.
pub fn scale_columns(w: &mut [f32], k: usize, s: &[f32]) -> Result<()> {
    check_len("smoothing factors", s.len(), &[k])?;
    check_len("weight", w.len(), &[w.len().checked_div(k).unwrap_or(0), k])?;
    for row in w.chunks_exact_mut(k.max(1)) {
        row.iter_mut().zip(s).for_each(|(w, s)| *w *= s);
    }
    Ok(())
}

/// Folds factors into the rows of the linear that makes the smoothed input: `W_i /= s_i`, `w` is `[n, k]`.
/// A bias `[n]` is folded by the same call with `k = 1`.
///
/// # Errors
/// `w` has not `n * k` elements, or `s` has not `n`.
pub fn divide_rows(w: &mut [f32], n: usize, k: usize, s: &[f32]) -> Result<()> {
    check_len("weight", w.len(), &[n, k])?;
    check_len("smoothing factors", s.len(), &[n])?;
    for (row, s) in w.chunks_exact_mut(k.max(1)).zip(s) {
        row.iter_mut().for_each(|w| *w /= s);
    }
    Ok(())
}

/// Folds factors into the norm that makes the smoothed input. `offset` is what the norm adds to its saved weight:
/// 0, or 1 for a norm that multiplies by `1 + w`, which is saved as `(1 + w) / s - 1`.
///
/// # Errors
/// The lengths differ.
pub fn divide_norm(weight: &mut [f32], s: &[f32], offset: f32) -> Result<()> {
    check_len("smoothing factors", s.len(), &[weight.len()])?;
    for (w, s) in weight.iter_mut().zip(s) {
        *w = (offset + *w) / s - offset;
    }
    Ok(())
}

/// The Gram matrix of the smoothed input, `G_ij / (s_i s_j)`, from that of the original: no second pass over the data.
/// `gram` is `[k, k]`; only its lower triangle is read and written.
///
/// # Errors
/// `gram` has not `k * k` elements, or `s` has not `k`.
pub fn divide_gram(gram: &mut [f32], k: usize, s: &[f32]) -> Result<()> {
    check_len("Gram matrix", gram.len(), &[k, k])?;
    check_len("smoothing factors", s.len(), &[k])?;
    for (i, row) in gram.chunks_exact_mut(k.max(1)).enumerate() {
        row[..=i].iter_mut().zip(s).for_each(|(g, sj)| *g = *g / s[i] / sj);
    }
    Ok(())
}

fn larger(max: &mut [f32], values: &[f32]) {
    for (m, x) in max.iter_mut().zip(values) {
        let x = x.abs();
        *m = if x > *m || x.is_nan() { x } else { *m };
    }
}

fn check_magnitudes(what: &'static str, values: &[f32]) -> Result<()> {
    match values.iter().position(|x| !(x.is_finite() && *x >= 0.0)) {
        Some(channel) => Err(Error::Statistic { what, channel, value: values[channel] }),
        None => Ok(()),
    }
}

fn check_heads(len: usize, nq: usize, nkv: usize, d: usize, heads: usize) -> Result<()> {
    if nkv == 0 || !nq.is_multiple_of(nkv) {
        let expected = format!("a multiple of the {nkv} key/value heads");
        return Err(Error::Setting { name: "query heads".into(), expected, found: nq.to_string() });
    }
    check_len("channels of all heads", len, &[heads, d])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formula_and_its_limits() {
        let got = smoothing_factors(&[16.0, 0.0, 3.0, 1e-30, 1e30], &[4.0, 2.0, 0.0, 1e30, 1e-30], 0.75).unwrap();
        let s0 = 8.0 / 2.0f32.sqrt();
        assert!((got.s[0] - s0).abs() < 1e-6 * s0, "{}", got.s[0]);
        assert_eq!(got.s[1..], [1.0, 1.0, 1e-5, 1e5]);
        assert_eq!((got.dead_channels, got.zero_columns, got.clamped), (vec![1], vec![2], vec![3, 4]));
        // alpha 1 moves the whole range into the weights, alpha 0 moves that of the weights into the activations.
        assert_eq!(smoothing_factors(&[8.0], &[0.5], 1.0).unwrap().s, [8.0]);
        assert_eq!(smoothing_factors(&[8.0], &[0.5], 0.0).unwrap().s, [2.0]);
    }

    #[test]
    fn refuses_what_is_no_magnitude() {
        let message = smoothing_factors(&[1.0, f32::NAN], &[1.0, 1.0], 0.5).unwrap_err().to_string();
        assert_eq!(message, "activation maximum of channel 1 is NaN; a finite number of at least 0 is needed");
        assert!(smoothing_factors(&[1.0], &[f32::INFINITY], 0.5).is_err());
        assert!(smoothing_factors(&[1.0], &[-1.0], 0.5).is_err());
        assert!(smoothing_factors(&[1.0], &[1.0], 1.5).unwrap_err().to_string().contains("found 1.5"));
        assert!(smoothing_factors(&[1.0], &[1.0], f64::NAN).is_err());
        assert!(smoothing_factors(&[1.0], &[1.0, 2.0], 0.5).is_err());
        assert!(tie_groups(&[0.0; 6], 3, 2, 2).unwrap_err().to_string().contains("multiple of the 2"));
        assert!(expand_groups(&[0.0; 5], 4, 2, 2).is_err());
    }

    #[test]
    fn groups_share_their_factors() {
        let tied = tie_groups(&[1.0, -8.0, 5.0, 2.0, 3.0, 4.0, 7.0, 6.0], 4, 2, 2).unwrap();
        assert_eq!(tied, [5.0, 8.0, 7.0, 6.0]);
        assert_eq!(expand_groups(&tied, 4, 2, 2).unwrap(), [5.0, 8.0, 5.0, 8.0, 7.0, 6.0, 7.0, 6.0]);
    }

    #[test]
    fn folding_by_powers_of_two_is_an_exact_identity() {
        let x = [0.3f32, -70.1, 1.25];
        let (w, norm) = ([0.7f32, 0.011, -0.4, 0.5, 0.02, 0.9], [1.5f32, 12.3, 0.8]);
        let mut s = smoothing_factors(&x.map(f32::abs), &column_absmax(&w, 2, 3).unwrap(), 0.5).unwrap().s;
        round_to_power_of_two(&mut s);
        assert!(s.iter().all(|s| s.to_bits() & 0x7f_ffff == 0), "{s:?}");
        let (mut ws, mut ns, mut offset) = (w, norm, norm.map(|n| n - 1.0));
        scale_columns(&mut ws, 3, &s).unwrap();
        divide_norm(&mut ns, &s, 0.0).unwrap();
        divide_norm(&mut offset, &s, 1.0).unwrap();
        let run = |w: &[f32], norm: &[f32], row: usize| (0..3).map(|j| x[j] * norm[j] * w[row * 3 + j]).sum::<f32>();
        for row in 0..2 {
            assert_eq!(run(&w, &norm, row), run(&ws, &ns, row));
        }
        for (a, b) in ns.iter().zip(offset) {
            assert!((a - (1.0 + b)).abs() < 1e-6, "{a} {b}");
        }
        assert_ne!(ws, w);
    }

    #[test]
    fn rows_bias_and_gram() {
        let (mut w, mut bias) = ([2.0, 4.0, 6.0, 8.0], [10.0, 20.0]);
        divide_rows(&mut w, 2, 2, &[2.0, 4.0]).unwrap();
        divide_rows(&mut bias, 2, 1, &[2.0, 4.0]).unwrap();
        assert_eq!((w, bias), ([1.0, 2.0, 1.5, 2.0], [5.0, 5.0]));
        let mut gram = [4.0, 99.0, 8.0, 16.0];
        divide_gram(&mut gram, 2, &[2.0, 4.0]).unwrap();
        assert_eq!(gram, [1.0, 99.0, 1.0, 1.0]);
        assert!(divide_gram(&mut gram, 2, &[2.0]).is_err());
        assert!(scale_columns(&mut w, 3, &[1.0; 3]).is_err());
        assert!(column_absmax(&[1.0, f32::NAN], 1, 2).unwrap()[1].is_nan());
    }
}
