//! Standard errors as the harness reports them.
use crate::random::Random;

/// Resamples of a bootstrap, and of one seed of it.
const RESAMPLES: usize = 100_000;
const OF_A_SEED: usize = 1000;

/// Of a mean: the sample's standard deviation over the root of its size.
pub fn of_mean(values: &[f64]) -> f64 {
    deviation(values) / (values.len() as f64).sqrt()
}

/// Of a statistic: its standard deviation over 100,000 resamples. Seeds are those of the harness, so the result is too.
pub fn bootstrap(values: &[f64], statistic: impl Fn(f64) -> f64 + Sync) -> f64 {
    let seeds = RESAMPLES / OF_A_SEED;
    let threads = std::thread::available_parallelism().map_or(1, usize::from).min(seeds);
    let mut found = vec![0.0; RESAMPLES];
    std::thread::scope(|scope| {
        for (first, part) in found.chunks_mut(seeds.div_ceil(threads) * OF_A_SEED).enumerate() {
            let first = first * seeds.div_ceil(threads);
            let statistic = &statistic;
            scope.spawn(move || {
                for (seed, part) in part.chunks_mut(OF_A_SEED).enumerate() {
                    resample(values, (first + seed) as u32, statistic, part);
                }
            });
        }
    });
    deviation(&found)
}

fn resample(values: &[f64], seed: u32, statistic: &impl Fn(f64) -> f64, found: &mut [f64]) {
    let mut random = Random::new(seed);
    for found in found {
        let sum: f64 = (0..values.len()).map(|_| values[(random.unit() * values.len() as f64) as usize]).sum();
        *found = statistic(sum / values.len() as f64);
    }
}

/// Of a mean over several tasks, each weighted by its size.
pub fn pooled(parts: &[(f64, usize)]) -> f64 {
    let sum: f64 = parts.iter().map(|&(stderr, size)| (size as f64 - 1.0) * stderr * stderr * size as f64).sum();
    let size: usize = parts.iter().map(|part| part.1).sum();
    (sum / (size - parts.len()) as f64 / size as f64).sqrt()
}

fn deviation(values: &[f64]) -> f64 {
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let sum: f64 = values.iter().map(|x| (x - mean) * (x - mean)).sum();
    (sum / (values.len() - 1) as f64).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(found: f64, expected: f64) {
        assert!((found / expected - 1.0).abs() < 1e-9, "{found}, expected {expected}");
    }

    /// Expected numbers: `lm_eval.api.metrics` 0.4.13 (`mean_stderr`, `pooled_sample_stderr`).
    #[test]
    fn errors_of_means() {
        close(of_mean(&[1.0, 0.0, 1.0, 1.0]), 0.25);
        close(pooled(&[(0.25, 4), (0.1, 9)]), 0.10138895541290621);
    }

    /// Expected number: `bootstrap_stderr(perplexity, [-1.5, -2.25, -0.125, -4.0], 100000)`.
    #[test]
    fn bootstrap_of_a_perplexity() {
        close(bootstrap(&[-1.5, -2.25, -0.125, -4.0], |mean| (-mean).exp()), 7.220148371838186);
    }
}
