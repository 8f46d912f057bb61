//! Two models on the same tasks, document by document: what quantizing changed, and how sure that is. Both answer the same
//! questions, so the difference has a far smaller error than either result has by itself.
use super::metric::Series;
use super::results::{Results, TaskResult};
use super::table::{Cell, markdown};
use crate::error::{Error, Result};
use serde::Serialize;

/// One metric of both models.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Paired {
    /// Task or group.
    pub task: String,
    /// Metric.
    pub metric: &'static str,
    /// Filter.
    pub filter: &'static str,
    /// Documents that both answered.
    pub documents: usize,
    /// The original's value.
    pub original: f64,
    /// The quantized model's.
    pub quantized: f64,
    /// The quantized model's less the original's.
    pub difference: f64,
    /// 95 % confidence interval of the difference, from the differences of single documents.
    pub interval: Option<[f64; 2]>,
    /// What is left of the original's quality: the quotient, so that less is worse.
    pub recovery: Option<f64>,
}

/// 97.5 % of a normal distribution lie below so many deviations.
const DEVIATIONS: f64 = 1.959963984540054;

/// Every metric of tasks and groups.
///
/// # Errors
/// The two did not answer the same documents.
pub fn compare(original: &Results, quantized: &Results) -> Result<Vec<Paired>> {
    let mut found = Vec::new();
    for task in &original.tasks {
        found.extend(line(&task.task.name, &original.leaves(&task.task.name), &quantized.leaves(&task.task.name))?);
    }
    for group in &original.groups {
        found.extend(line(group.name, &original.leaves(group.name), &quantized.leaves(group.name))?);
    }
    Ok(found)
}

fn line(name: &str, original: &[&TaskResult], quantized: &[&TaskResult]) -> Result<Vec<Paired>> {
    let documents = |tasks: &[&TaskResult]| tasks.iter().map(|t| t.documents).collect::<Vec<_>>();
    let (p, q) = (documents(original), documents(quantized));
    if p != q {
        let (original, quantized) = (p.iter().sum(), q.iter().sum());
        return Err(Error::Unpaired { task: name.into(), original, quantized });
    }
    let metrics = original.first().map_or(0, |t| t.measured.len());
    let pooled = |tasks: &[&TaskResult], i: usize| {
        let mut all = tasks[0].measured[i].series.clone();
        for task in &tasks[1..] {
            all.values.extend(&task.measured[i].series.values);
            all.weights.extend(&task.measured[i].series.weights);
        }
        all
    };
    Ok((0..metrics).map(|i| pair(name, &pooled(original, i), &pooled(quantized, i))).collect())
}

fn pair(task: &str, p: &Series, q: &Series) -> Paired {
    let (original, quantized) = (p.value(), q.value());
    let difference = quantized - original;
    let error = error(p, q) * slope(q);
    let interval = error.is_finite().then_some([difference - DEVIATIONS * error, difference + DEVIATIONS * error]);
    let quotient = if p.metric.higher_is_better() { quantized / original } else { original / quantized };
    Paired {
        task: task.into(),
        metric: p.metric.name(),
        filter: p.filter,
        documents: p.values.len(),
        original,
        quantized,
        difference,
        interval,
        recovery: quotient.is_finite().then_some(quotient),
    }
}

/// Standard error of the difference of the two weighted means (a ratio of sums over documents; Cochran 1977, 6.4).
fn error(p: &Series, q: &Series) -> f64 {
    let n = p.values.len() as f64;
    let weight: f64 = p.weights.iter().sum();
    let differences: Vec<f64> = p.values.iter().zip(&q.values).map(|(p, q)| q - p).collect();
    let mean = differences.iter().sum::<f64>() / weight;
    let squares: f64 = differences.iter().zip(&p.weights).map(|(d, w)| (d - mean * w).powi(2)).sum();
    (squares * n / (n - 1.0)).sqrt() / weight
}

/// How much a metric moves with the mean behind it.
fn slope(series: &Series) -> f64 {
    let mean = series.values.iter().sum::<f64>() / series.weights.iter().sum::<f64>();
    const STEP: f64 = 1e-6;
    ((series.of_mean(mean + STEP) - series.of_mean(mean - STEP)) / (2.0 * STEP)).abs()
}

/// The table that `planish compare` prints.
pub fn to_text(lines: &[Paired]) -> String {
    let headers = ["Tasks", "Filter", "Metric", "Original", "Quantized", "Difference", "95 % interval", "Recovery"];
    let row = |p: &Paired| {
        vec![
            Cell::text(&p.task),
            Cell::text(p.filter),
            Cell::text(p.metric),
            Cell::Number(p.original),
            Cell::Number(p.quantized),
            Cell::Number(p.difference),
            Cell::text(p.interval_text()),
            Cell::text(p.recovery_text()),
        ]
    };
    markdown(&headers, &lines.iter().map(row).collect::<Vec<_>>())
}

impl Paired {
    /// The interval for people.
    pub fn interval_text(&self) -> String {
        self.interval.map_or("N/A".into(), |[low, high]| format!("{low:+.4} to {high:+.4}"))
    }

    /// The recovery in percent.
    pub fn recovery_text(&self) -> String {
        self.recovery.map_or("N/A".into(), |share| format!("{:.2} %", share * 100.0))
    }
}

#[cfg(test)]
mod tests {
    use super::super::Metric;
    use super::*;

    fn series(metric: Metric, values: &[f64], weights: &[f64]) -> Series {
        Series { metric, filter: "none", values: values.into(), weights: weights.into() }
    }

    #[test]
    fn accuracies_are_paired() {
        let ones = [1.0; 4];
        let p = series(Metric::Acc, &[1.0, 1.0, 0.0, 1.0], &ones);
        let found = pair("t", &p, &series(Metric::Acc, &[1.0, 0.0, 0.0, 1.0], &ones));
        // Differences 0, -1, 0, 0: mean -0.25, standard error 0.25.
        assert_eq!((found.difference, found.recovery), (-0.25, Some(0.5 / 0.75)));
        let [low, high] = found.interval.unwrap();
        assert!((low + 0.25 + 0.25 * DEVIATIONS).abs() < 1e-9 && (high + 0.25 - 0.25 * DEVIATIONS).abs() < 1e-9);
        let same = pair("t", &p, &p);
        assert_eq!((same.difference, same.interval, same.recovery), (0.0, Some([0.0, 0.0]), Some(1.0)));
        let one = pair("t", &series(Metric::Acc, &[0.0], &[1.0]), &series(Metric::Acc, &[0.0], &[1.0]));
        assert_eq!((one.interval, one.recovery), (None, None));
    }

    #[test]
    fn perplexities_weigh_their_words() {
        let words = [10.0, 30.0];
        let p = series(Metric::WordPerplexity, &[-20.0, -60.0], &words);
        let q = series(Metric::WordPerplexity, &[-22.0, -66.0], &words);
        let found = pair("wikitext", &p, &q);
        assert!((found.original - 2f64.exp()).abs() < 1e-9 && (found.quantized - 2.2f64.exp()).abs() < 1e-9);
        // Each document changes by the same share of its words: the difference is certain.
        let [low, high] = found.interval.unwrap();
        assert!((high - low) < 1e-9 && (found.recovery.unwrap() - (-0.2f64).exp()).abs() < 1e-9);
    }
}
