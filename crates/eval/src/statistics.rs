//! Means and quantiles.

/// Mean; NaN of nothing.
pub(crate) fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
    let n = values.len() as f64;
    values.sum::<f64>() / n
}

/// The value below which a share `q` (0 to 1) of `sorted` (rising, not empty) lies, interpolated linearly between
/// neighbours, as `numpy.percentile` does by default.
pub(crate) fn quantile(sorted: &[f32], q: f64) -> f64 {
    let place = q * (sorted.len() - 1) as f64;
    let below = place.floor();
    let low = sorted[below as usize] as f64;
    let high = sorted[(below as usize + 1).min(sorted.len() - 1)] as f64;
    // Between equal neighbours there is nothing to interpolate (and infinity - infinity is NaN).
    if low == high || place == below { low } else { low + (high - low) * (place - below) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_equal_numpys() {
        // numpy.percentile([1, 2, 3, 4], [0, 50, 99, 100]) = [1, 2.5, 3.97, 4]
        let values = [1.0, 2.0, 3.0, 4.0];
        for (q, expected) in [(0.0, 1.0), (0.5, 2.5), (0.99, 3.97), (1.0, 4.0)] {
            assert!((quantile(&values, q) - expected).abs() < 1e-12);
        }
        assert_eq!(quantile(&[5.0], 0.99), 5.0);
        assert_eq!(quantile(&[1.0, f32::INFINITY, f32::INFINITY], 0.75), f64::INFINITY);
    }

    #[test]
    fn mean_of_values() {
        assert_eq!(mean([1.0, 2.0, 6.0].into_iter()), 3.0);
    }
}
