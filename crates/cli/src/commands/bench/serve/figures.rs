//! The figures of a load: vLLM's measures, by its definitions and names, and the contract's.
use super::super::statistics::Distribution;
use super::Flags;
use super::arrivals::Run;
use super::request::{Outcome, Target};
use crate::commands::bench::drive::milliseconds;
use serde_json::{Value, json};
use std::str::FromStr;

/// A measure of one request and how large it may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Goal {
    measure: Measure,
    most: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Measure {
    Ttft,
    Tpot,
    E2el,
}

impl FromStr for Goal {
    type Err = String;

    fn from_str(text: &str) -> Result<Goal, String> {
        let parsed = text.split_once(':').and_then(|(name, most)| {
            let measure = match name {
                "ttft" => Measure::Ttft,
                "tpot" => Measure::Tpot,
                "e2el" => Measure::E2el,
                _ => return None,
            };
            let most = most.parse().ok().filter(|most: &f64| *most >= 0.0)?;
            Some(Goal { measure, most })
        });
        parsed.ok_or_else(|| "expected ttft, tpot or e2el, a colon and milliseconds, such as ttft:500".into())
    }
}

/// Milliseconds to the first part.
fn ttft(outcome: &Outcome) -> f64 {
    milliseconds(outcome.parts.first().copied().unwrap_or_default())
}

/// Milliseconds to the last part.
fn e2el(outcome: &Outcome) -> f64 {
    milliseconds(outcome.parts.last().copied().unwrap_or_default())
}

/// Milliseconds for each token after the first.
fn tpot(outcome: &Outcome) -> Option<f64> {
    (outcome.output > 1).then(|| (e2el(outcome) - ttft(outcome)) / (outcome.output - 1) as f64)
}

fn is_good(outcome: &Outcome, goals: &[Goal]) -> bool {
    goals.iter().all(|goal| {
        let found = match goal.measure {
            Measure::Ttft => ttft(outcome),
            // vLLM counts an answer of one token as 0.
            Measure::Tpot => tpot(outcome).unwrap_or(0.0),
            Measure::E2el => e2el(outcome),
        };
        found <= goal.most
    })
}

/// Everything that was measured. Failed requests count as failed and nowhere else.
pub fn document(run: &Run, flags: &Flags, target: &Target) -> Value {
    let done: Vec<&Outcome> = run.outcomes.iter().filter(|outcome| outcome.error.is_none()).collect();
    let seconds = run.elapsed.as_secs_f64();
    let (input, output): (usize, usize) = (done.iter().map(|o| o.input).sum(), done.iter().map(|o| o.output).sum());
    let good = done.iter().filter(|outcome| is_good(outcome, &flags.goodput)).count();
    let gaps = |o: &&Outcome| o.parts.windows(2).map(|w| milliseconds(w[1] - w[0])).collect::<Vec<_>>();
    let measures: [(&str, &str, Distribution); 4] = [
        ("ttft", "ttft_ms", done.iter().map(|o| ttft(o)).collect()),
        ("tpot", "tpot_ms", done.iter().filter_map(|o| tpot(o)).collect()),
        ("itl", "itl_ms", done.iter().flat_map(gaps).collect()),
        ("e2el", "e2e_ms", done.iter().map(|o| e2el(o)).collect()),
    ];
    let rate = |count: usize| count as f64 / seconds;
    let mut document = json!({
        "url": target.connection.base(),
        "model_id": target.model,
        "seed": flags.seed,
        "num_prompts": run.outcomes.len(),
        "request_rate": if flags.request_rate.is_finite() { json!(flags.request_rate) } else { json!("inf") },
        "max_concurrency": flags.concurrency,
        "seconds": seconds,
        "duration": seconds,
        "completed": done.len(),
        "failed": run.outcomes.len() - done.len(),
        "total_input_tokens": input,
        "total_output_tokens": output,
        "requests_per_s": rate(done.len()),
        "request_throughput": rate(done.len()),
        "request_goodput": if flags.goodput.is_empty() { Value::Null } else { json!(rate(good)) },
        "output_tokens_per_s": rate(output),
        "output_throughput": rate(output),
        "total_tokens_per_s": rate(input + output),
        "total_token_throughput": rate(input + output),
    });
    for (name, ours, values) in measures {
        document[format!("mean_{name}_ms")] = json!(values.mean());
        document[format!("median_{name}_ms")] = json!(values.median());
        document[format!("std_{name}_ms")] = json!(values.deviation());
        document[format!("p99_{name}_ms")] = json!(values.at(0.99));
        document[ours] = values.json();
    }
    document
}

/// For people.
pub fn table(d: &Value) -> String {
    let number = |v: &Value| v.as_f64().unwrap_or(0.0);
    let mut text = format!(
        "{} at {}\n{} requests done, {} failed, {} tokens in, {} out, {:.1} s\noutput    {:>10.1} tokens/s\n\
         total     {:>10.1} tokens/s\nrequests  {:>10.3} /s\n",
        d["model_id"].as_str().unwrap_or_default(),
        d["url"].as_str().unwrap_or_default(),
        d["completed"],
        d["failed"],
        d["total_input_tokens"],
        d["total_output_tokens"],
        number(&d["duration"]),
        number(&d["output_throughput"]),
        number(&d["total_token_throughput"]),
        number(&d["request_throughput"]),
    );
    if let Some(good) = d["request_goodput"].as_f64() {
        text += &format!("good      {good:>10.3} /s\n");
    }
    text += &format!("{:<10}{:>10}{:>10}{:>10}{:>10}\n", "ms", "mean", "median", "p90", "p99");
    for (name, key) in [("TTFT", "ttft_ms"), ("TPOT", "tpot_ms"), ("ITL", "itl_ms"), ("E2EL", "e2e_ms")] {
        let [mean, p50, p90, p99] = ["mean", "p50", "p90", "p99"].map(|p| number(&d[key][p]));
        text += &format!("{name:<10}{mean:>10.2}{p50:>10.2}{p90:>10.2}{p99:>10.2}\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn outcome(output: usize, parts: &[u64]) -> Outcome {
        let parts = parts.iter().map(|&ms| Duration::from_millis(ms)).collect();
        Outcome { input: 3, output, parts, error: None }
    }

    #[test]
    fn measures_are_vllm_s() {
        // Four tokens in three parts: a part may hold several.
        let four = outcome(4, &[100, 110, 160]);
        assert_eq!((ttft(&four), tpot(&four), e2el(&four)), (100.0, Some(20.0), 160.0));
        assert_eq!(tpot(&outcome(1, &[5])), None);
        let goals = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<Goal>>();
        assert!(is_good(&four, &goals(&["ttft:100", "tpot:20", "e2el:160"])));
        for bad in ["ttft:99", "tpot:19.9", "e2el:159"] {
            assert!(!is_good(&four, &goals(&["ttft:1000", bad])), "{bad}");
        }
        for wrong in ["", "ttft", "itl:5", "ttft:-1", "ttft:NaN", "ttft:x"] {
            assert!(wrong.parse::<Goal>().is_err(), "{wrong}");
        }
    }
}
