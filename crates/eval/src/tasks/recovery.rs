//! How much of its accuracy a quantized model keeps over all tasks, in the one figure that model cards quote.
use super::Metric;
use super::paired::Paired;
use super::results::Results;
use serde::Serialize;

/// The mean accuracy of both models over tasks; a group counts as one.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Recovery {
    /// What it is the mean of: each task or group with the metric that speaks for it.
    pub tasks: Vec<String>,
    /// Mean of the original's accuracies.
    pub original: f64,
    /// Mean of the quantized model's.
    pub quantized: f64,
    /// The quotient: less is worse.
    pub recovery: f64,
    /// Its 95 % confidence interval, from the paired differences of all tasks.
    pub interval: Option<[f64; 2]>,
}

/// Metrics that speak for a task, the best first.
const SPEAKERS: [Metric; 3] = [Metric::AccNorm, Metric::ExactMatch, Metric::Acc];

/// The mean over the tasks of `results`, whose lines these are. None if no task has an accuracy, or the original's are 0.
pub fn recovery(results: &Results, lines: &[Paired]) -> Option<Recovery> {
    let is_inner = |name: &str| results.groups.iter().any(|g| g.members.iter().any(|m| m == name));
    let names = results.groups.iter().map(|g| g.name).chain(results.tasks.iter().map(|t| t.task.name.as_str()));
    let speakers = names.filter(|name| !is_inner(name)).filter_map(|name| speaker(name, lines));
    of_lines(&speakers.collect::<Vec<_>>())
}

fn speaker<'a>(name: &str, lines: &'a [Paired]) -> Option<&'a Paired> {
    SPEAKERS.iter().find_map(|metric| lines.iter().find(|l| l.task == name && l.metric == metric.name()))
}

fn of_lines(lines: &[&Paired]) -> Option<Recovery> {
    let n = lines.len() as f64;
    let mean = |value: fn(&Paired) -> f64| lines.iter().map(|l| value(l)).sum::<f64>() / n;
    let (original, quantized) = (mean(|l| l.original), mean(|l| l.quantized));
    let recovery = quantized / original;
    if !recovery.is_finite() {
        return None;
    }
    // Tasks have different documents, so their errors are independent.
    let errors: Option<Vec<f64>> = lines.iter().map(|l| l.interval.map(|[low, high]| (high - low) / 2.0)).collect();
    let error = errors.map(|errors| errors.iter().map(|e| e * e).sum::<f64>().sqrt() / n / original);
    let named = |l: &&Paired| format!("{} {}", l.task, l.metric);
    Some(Recovery {
        tasks: lines.iter().map(named).collect(),
        original,
        quantized,
        recovery,
        interval: error.map(|error| [recovery - error, recovery + error]),
    })
}

impl Recovery {
    /// One line for people.
    pub fn to_text(&self) -> String {
        let interval = self.interval.map_or(String::new(), |[low, high]| {
            format!(" (95 % interval {:.2} % to {:.2} %)", low * 100.0, high * 100.0)
        });
        format!("accuracy recovery: {:.2} %{interval}, of {}", self.recovery * 100.0, self.tasks.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::super::select;
    use super::*;

    fn line(task: &str, metric: &'static str, original: f64, quantized: f64, half: f64) -> Paired {
        let difference = quantized - original;
        Paired {
            task: task.into(),
            metric,
            filter: "none",
            documents: 100,
            original,
            quantized,
            difference,
            interval: Some([difference - half, difference + half]),
            recovery: None,
        }
    }

    #[test]
    fn one_figure_speaks_for_all_tasks() {
        let chosen = select::select(&["piqa", "wikitext", "mmlu_stem"]).unwrap();
        let results = Results { tasks: Vec::new(), groups: chosen.groups };
        let lines = [
            line("piqa", "acc", 0.9, 0.1, 0.5),
            line("piqa", "acc_norm", 0.6, 0.54, 0.03),
            line("wikitext", "word_perplexity", 20.0, 21.0, 0.1),
            line("mmlu_anatomy", "acc", 0.9, 0.0, 0.5),
            line("mmlu_stem", "acc", 0.4, 0.41, 0.04),
        ];
        // Only groups are in `results`: piqa's lines are of no task of it.
        let stem = recovery(&results, &lines).unwrap();
        assert_eq!((stem.tasks, stem.original), (vec!["mmlu_stem acc".to_owned()], 0.4));
        let both = of_lines(&[&lines[1], &lines[4]]).unwrap();
        assert!((both.recovery - 0.95 / 1.0).abs() < 1e-12);
        let [low, high] = both.interval.unwrap();
        // Errors 0.03 and 0.04 make 0.05, of two tasks with mean 0.5.
        assert!((low - 0.9).abs() < 1e-9 && (high - 1.0).abs() < 1e-9, "{low} {high}");
        assert!(
            both.to_text()
                .starts_with("accuracy recovery: 95.00 % (95 % interval 90.00 % to 100.00 %), of piqa acc_norm,")
        );
        assert_eq!(speaker("piqa", &lines).unwrap().metric, "acc_norm");
        assert!(speaker("wikitext", &lines).is_none() && of_lines(&[]).is_none());
        assert!(of_lines(&[&line("piqa", "acc", 0.0, 0.0, 0.0)]).is_none());
    }
}
