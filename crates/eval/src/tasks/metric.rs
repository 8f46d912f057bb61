//! From answers to numbers: what each document contributes, and what that comes to.
use super::filter::{self, Filters};
use super::run::Answer;
use super::{Doc, Metric, Output, Task, python, stderr};
use crate::error::{Error, Result};

/// What each document contributes to one metric.
#[derive(Clone, Debug, PartialEq)]
pub struct Series {
    /// What is measured.
    pub metric: Metric,
    /// The filter whose answers count.
    pub filter: &'static str,
    /// A share or a log-likelihood, one a document.
    pub values: Vec<f64>,
    /// What each value is a likelihood of: documents, words or bytes.
    pub weights: Vec<f64>,
}

impl Series {
    /// The metric's value.
    pub fn value(&self) -> f64 {
        let mean = self.values.iter().sum::<f64>() / self.weights.iter().sum::<f64>();
        self.of_mean(mean)
    }

    /// From the mean of the values to the metric.
    pub fn of_mean(&self, mean: f64) -> f64 {
        match self.metric {
            Metric::Acc | Metric::AccNorm | Metric::ExactMatch => mean,
            Metric::Perplexity | Metric::WordPerplexity | Metric::BytePerplexity => (-mean).exp(),
            Metric::BitsPerByte => -mean / std::f64::consts::LN_2,
        }
    }

    /// Its standard error; none where the harness has none.
    pub fn stderr(&self) -> Option<f64> {
        match self.metric {
            _ if self.values.len() < 2 => None,
            Metric::Acc | Metric::AccNorm | Metric::ExactMatch => Some(stderr::of_mean(&self.values)),
            Metric::Perplexity => Some(stderr::bootstrap(&self.values, |mean| (-mean).exp())),
            Metric::WordPerplexity | Metric::BytePerplexity | Metric::BitsPerByte => None,
        }
    }
}

/// The numbers of a task: for each filter its metrics, in the harness' order.
pub(super) fn score(task: &Task, docs: &[Doc], answers: &[Answer]) -> Result<Vec<Series>> {
    let filters = match task.output {
        Output::Generate { filters, .. } => Filters::new(filters)?,
        _ => Filters::new(&[])?,
    };
    let mut series = Vec::new();
    for filter in task.filters() {
        for &metric in task.metrics {
            series.push(Series { metric, filter, values: Vec::new(), weights: Vec::new() });
        }
    }
    for (item, (doc, answer)) in docs.iter().zip(answers).enumerate() {
        let texts = match answer {
            Answer::Text { text } => filters.answers(text),
            _ => Vec::new(),
        };
        for (i, series) in series.iter_mut().enumerate() {
            let text = texts.get(i / task.metrics.len()).map(String::as_str);
            let found = one(series.metric, doc, answer, text);
            let (value, weight) = found.ok_or_else(|| Error::Mismatch { task: task.name.clone(), item })?;
            series.values.push(value);
            series.weights.push(weight);
        }
    }
    Ok(series)
}

/// What one document contributes, and its weight; none if the answer is none to such a question.
fn one(metric: Metric, doc: &Doc, answer: &Answer, text: Option<&str>) -> Option<(f64, f64)> {
    let share = |right: bool| Some((right as u8 as f64, 1.0));
    match (metric, doc, answer) {
        (Metric::Acc, Doc::Choice { gold, .. } | Doc::Blank { gold, .. }, Answer::Likelihoods { ll, .. }) => {
            share(largest(ll.iter().copied()) == *gold)
        }
        (Metric::AccNorm, Doc::Choice { gold, choices, .. }, Answer::Likelihoods { ll, .. }) => {
            let lengths = choices.iter().map(|choice| choice.chars().count() as f64);
            share(largest(ll.iter().zip(lengths).map(|(ll, length)| ll / length)) == *gold)
        }
        (Metric::Acc, Doc::Text { .. }, Answer::Likelihoods { greedy, .. }) => share(*greedy.first()?),
        (Metric::Perplexity, Doc::Text { .. }, Answer::Likelihoods { ll, .. }) => Some((*ll.first()?, 1.0)),
        (Metric::ExactMatch, Doc::Text { target, .. }, Answer::Text { .. }) => share(filter::equal(text?, target)),
        (Metric::WordPerplexity, Doc::Page { original, .. }, Answer::Rolling { total }) => {
            Some((*total, python::count_words(original) as f64))
        }
        (Metric::BytePerplexity | Metric::BitsPerByte, Doc::Page { original, .. }, Answer::Rolling { total }) => {
            Some((*total, original.len() as f64))
        }
        _ => None,
    }
}

/// Place of the first of the largest numbers.
fn largest(numbers: impl Iterator<Item = f64>) -> usize {
    let mut best = (0, f64::NEG_INFINITY);
    for (i, x) in numbers.enumerate() {
        if x > best.1 {
            best = (i, x);
        }
    }
    best.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn choices_are_judged_with_and_without_their_lengths() {
        let doc = Doc::Choice { query: "q".into(), choices: vec!["ü".into(), "long".into()], gold: 1 };
        let answer = Answer::Likelihoods { ll: vec![-2.0, -3.0], greedy: vec![true, false] };
        let of = |metric, answer: &Answer| one(metric, &doc, answer, None).unwrap().0;
        assert_eq!((of(Metric::Acc, &answer), of(Metric::AccNorm, &answer)), (0.0, 1.0));
        let equals = Answer::Likelihoods { ll: vec![-2.0, -2.0], greedy: vec![true, false] };
        assert_eq!(of(Metric::Acc, &equals), 0.0, "the first of equals");
        assert_eq!(one(Metric::Perplexity, &doc, &answer, None), None);
    }

    #[test]
    fn perplexities_weigh_words_and_bytes() {
        let page = |text: &str| Doc::Page { original: text.into(), text: String::new() };
        let answer = |total| Answer::Rolling { total };
        let tasks = super::super::list::tasks();
        let docs = [page(" a b"), page("cü")];
        let found = score(&tasks[1], &docs, &[answer(-4.0), answer(-2.0)]).unwrap();
        let values: Vec<f64> = found.iter().map(Series::value).collect();
        let expected = [(6.0f64 / 4.0).exp(), (6.0f64 / 7.0).exp(), 6.0 / 7.0 / 2f64.ln()];
        for (found, expected) in values.iter().zip(expected) {
            assert!((found - expected).abs() < 1e-12, "{values:?}");
        }
        assert!(found.iter().all(|series| series.stderr().is_none()));
    }
}
