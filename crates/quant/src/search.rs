//! `--smooth auto`: looks for the smoothing factors of one group of linears by the error that 8-bit activations and
//! weights make in what the linears put out, on sampled rows of their input. Plain arrays in, plain arrays out.
//!
//! First a strength: `s = a^α / w^(1−α)` for a grid of α. Then every channel by itself ([`descent`]), which is kept only
//! as far as the error on other rows falls. Tokens count by their relative error: a massive one must not decide for all others.
mod descent;
mod measure;

use crate::error::{Result, check_len};
use crate::smooth::{FACTOR_RANGE, SmoothingFactors, smoothing_factors};
use measure::Measure;
use planish_tensor::Q8;
use std::sync::Mutex;

/// Steps on the way to the refined factors that are tried.
const PARTS: usize = 4;

/// Linears that read one input, and what is known of it.
pub struct Group<'a> {
    /// 8-bit type of activations and weights.
    pub kind: Q8,
    /// Input channels `k`.
    pub k: usize,
    /// `[t, k]` sampled rows of the input, to search with.
    pub x: &'a [f32],
    /// `[t, k]` other rows, to choose by among what was found; none for `x`.
    pub check: &'a [f32],
    /// `[n, k]` rows of each linear, all or a sample.
    pub weights: &'a [Vec<f32>],
    /// Largest magnitude of each factor's channels over all calibration tokens.
    pub act_absmax: &'a [f32],
    /// Largest magnitude of each factor's columns in all weights.
    pub weight_absmax: &'a [f32],
    /// `[k]` factor of each channel; several channels may share one.
    pub factor_of: &'a [usize],
    /// What remains of the squared rounding error of the weights: 1 for round-to-nearest, less where GPTQ makes up for
    /// a part of it.
    pub weight_share: f64,
    /// Threads; the result is the same for every number.
    pub threads: usize,
}

/// What was found.
#[derive(Clone, Debug)]
pub struct Found {
    /// The factors.
    pub factors: SmoothingFactors,
    /// The best strength; `None` where factors of 1 are better than any.
    pub alpha: Option<f64>,
    /// Every strength that was tried and its error, by strength.
    pub tried: Vec<(f64, f64)>,
    /// Error without smoothing.
    pub unsmoothed: f64,
    /// Error with the factors: mean over tokens and linears of `‖y − ŷ‖² / ‖y‖²`.
    pub error: f64,
    /// How far they are from the strength's factors to those refined channel by channel, 0 to 1.
    pub refined: f64,
}

/// Searches.
///
/// # Errors
/// Array lengths that do not fit, and statistics that are not finite.
pub fn search(group: &Group<'_>) -> Result<Found> {
    check_len("sampled inputs", group.x.len(), &[group.x.len().checked_div(group.k).unwrap_or(0), group.k])?;
    check_len("factors of channels", group.factor_of.len(), &[group.k])?;
    let measure = Measure::new(group, group.x);
    let coarse: Vec<f64> = (0..=10).map(|i| f64::from(i) / 10.0).collect();
    let mut tried = strengths(group, &measure, &coarse)?;
    let best = least(&tried);
    let fine: Vec<f64> = [best - 0.05, best + 0.05].into_iter().filter(|a| (0.0..=1.0).contains(a)).collect();
    tried.extend(strengths(group, &measure, &fine)?);
    tried.sort_by(|a, b| a.0.total_cmp(&b.0));
    let alpha = least(&tried);
    let start = factors(group, alpha)?;
    let silent = |g: usize| group.act_absmax[g] == 0.0 || group.weight_absmax[g] == 0.0;
    let fixed: Vec<bool> = (0..start.s.len()).map(silent).collect();
    let end = match group.kind {
        Q8::Int8 => descent::descend(group, &measure, &start.s, &fixed),
        Q8::E4M3 | Q8::E5M2 => start.s.clone(),
    };
    drop(measure);
    Ok(choose(group, tried, alpha, start, &end))
}

/// Among no smoothing, the strength's factors and those on the way from them to the refined ones (on the logarithmic
/// scale), what is best on rows that neither has seen.
fn choose(group: &Group<'_>, tried: Vec<(f64, f64)>, alpha: f64, start: SmoothingFactors, end: &[f32]) -> Found {
    let measure = Measure::new(group, if group.check.is_empty() { group.x } else { group.check });
    let parts: Vec<f32> =
        if start.s == end { vec![0.0] } else { (0..=PARTS).map(|i| i as f32 / PARTS as f32).collect() };
    let part = |part: &f32| -> Vec<f32> {
        let mix = |(a, b): (&f32, &f32)| if *part == 0.0 { *a } else { a * (b / a).powf(*part) };
        start.s.iter().zip(end).map(mix).map(|s| s.clamp(FACTOR_RANGE[0], FACTOR_RANGE[1])).collect()
    };
    let mut candidates: Vec<Vec<f32>> = parts.iter().map(part).collect();
    candidates.push(vec![1.0; start.s.len()]);
    let errors = measure_all(group, &measure, &candidates);
    let unsmoothed = errors[parts.len()];
    let best = (0..errors.len()).min_by(|&a, &b| errors[a].total_cmp(&errors[b])).unwrap_or(parts.len());
    let refined = parts.get(best).copied().unwrap_or(0.0);
    let mut found = Found {
        factors: SmoothingFactors { s: candidates.swap_remove(best), ..start },
        alpha: (best < parts.len()).then_some(alpha),
        tried,
        unsmoothed,
        error: errors[best],
        refined: f64::from(refined),
    };
    if refined > 0.0 || found.alpha.is_none() {
        found.factors.clamped.clear();
    }
    found
}

fn factors(group: &Group<'_>, alpha: f64) -> Result<SmoothingFactors> {
    smoothing_factors(group.act_absmax, group.weight_absmax, alpha)
}

fn expand(group: &Group<'_>, s: &[f32]) -> Vec<f32> {
    group.factor_of.iter().map(|&g| s[g]).collect()
}

/// Strengths and their errors.
fn strengths(group: &Group<'_>, measure: &Measure<'_>, alphas: &[f64]) -> Result<Vec<(f64, f64)>> {
    let candidates: Vec<_> = alphas.iter().map(|&a| Ok(factors(group, a)?.s)).collect::<Result<_>>()?;
    Ok(alphas.iter().copied().zip(measure_all(group, measure, &candidates)).collect())
}

/// The error of each candidate; they are shared out among the threads.
fn measure_all(group: &Group<'_>, measure: &Measure<'_>, candidates: &[Vec<f32>]) -> Vec<f64> {
    let next = Mutex::new(candidates.iter().enumerate());
    let worker = || {
        let mut done = Vec::new();
        loop {
            let job = next.lock().unwrap_or_else(|e| e.into_inner()).next();
            let Some((i, s)) = job else { return done };
            done.push((i, measure.error(&expand(group, s))));
        }
    };
    let mut errors = std::thread::scope(|scope| {
        let others: Vec<_> = (1..group.threads.min(candidates.len())).map(|_| scope.spawn(worker)).collect();
        let mut errors = worker();
        for other in others {
            errors.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        errors
    });
    errors.sort_by_key(|(i, _)| *i);
    errors.into_iter().map(|(_, error)| error).collect()
}

/// The strength with the least error.
fn least(tried: &[(f64, f64)]) -> f64 {
    tried.iter().min_by(|a, b| a.1.total_cmp(&b.1)).map_or(0.5, |(alpha, _)| *alpha)
}

#[cfg(test)]
mod tests;
