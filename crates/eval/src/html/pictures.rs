//! The pictures of a comparison itself.
use super::chart::{Chart, Scale};
use super::figure;
use crate::compare::Comparison;
use crate::table::plural;

const WIDE: [f64; 2] = [760.0, 300.0];
const LOW: [f64; 2] = [760.0, 210.0];
/// Bars in a decade of the histogram.
const PER_DECADE: i32 = 5;
/// Divergences below this are rounding, and 0 has no logarithm: they share the first bar.
const LEAST: f64 = 1e-8;

/// The histogram of divergences, on a logarithmic axis.
pub fn divergences(c: &Comparison) -> String {
    let finite: Vec<f64> = c.kl_positions.iter().map(|&x| x as f64).filter(|x| x.is_finite()).collect();
    let infinite = c.kl_positions.len() - finite.len();
    let title = "<h2>How far the next-token distributions are apart</h2>\n";
    let differ = finite.iter().any(|x| *x > 0.0);
    let Some(x) = Scale::decades(finite.iter().map(|x| x.max(LEAST))).filter(|_| differ || infinite > 0) else {
        let all = if infinite > 0 {
            "Infinitely: at every position"
        } else {
            "Not at all: the divergence is 0 at every position"
        };
        return format!("{title}<p>{all}.</p>\n");
    };
    let bins = count(&finite);
    let shares: Vec<(i32, f64)> =
        bins.iter().map(|&(bin, n)| (bin, n as f64 / c.kl_positions.len() as f64 * 100.0)).collect();
    let top = shares.iter().map(|s| s.1).fold(0.0, f64::max);
    let y = (Scale::linear(0.0, top * 1.05), "share of positions, %");
    let mut chart = Chart::new(WIDE, (x, "KL(original || quantized) at one position, nats (logarithmic)"), y);
    for ((bin, share), (_, n)) in shares.iter().zip(&bins) {
        let edges = [edge(*bin), edge(bin + 1)];
        let hint =
            format!("{} to {} nats: {}, {share:.2} %", figure(edges[0]), figure(edges[1]), plural(*n, "position"));
        chart.bar(0, edges, *share, &hint);
    }
    let rules = [("mean", c.kl.mean), ("p99", c.kl.p99), ("max", c.kl.max)];
    let drawn = rules.into_iter().filter(|(_, at)| at.is_finite() && *at > 0.0);
    chart.rules(&drawn.map(|(name, at)| (at, format!("{name} {}", figure(at)))).collect::<Vec<_>>());
    let label = format!("Histogram of the divergence at {} positions", finite.len());
    let outside = match infinite {
        0 => String::new(),
        n => format!(" Not shown: {}, infinitely far apart.", plural(n, "position")),
    };
    let caption = format!(
        "One count per position of the text; left is better. The first bar has what is below {least}, if anything is.{outside}",
        least = figure(LEAST)
    );
    format!("{title}<figure>\n{}<figcaption>{caption}</figcaption>\n</figure>\n", chart.finish(&label))
}

/// Bars that are not empty: number and positions, rising.
fn count(values: &[f64]) -> Vec<(i32, usize)> {
    let mut bins = std::collections::BTreeMap::new();
    for value in values {
        let bin = (value.max(LEAST).log10() * PER_DECADE as f64).floor() as i32;
        *bins.entry(bin).or_default() += 1;
    }
    bins.into_iter().collect()
}

fn edge(bin: i32) -> f64 {
    10f64.powf(bin as f64 / PER_DECADE as f64)
}

/// The negative log-likelihood of each window under both models, and their difference.
pub fn likelihoods(c: &Comparison) -> String {
    let n = c.per_window.len() as f64;
    let original: Vec<[f64; 2]> = (1..).zip(&c.per_window).map(|(i, w)| [i as f64, w.original_nll]).collect();
    let quantized: Vec<[f64; 2]> = (1..).zip(&c.per_window).map(|(i, w)| [i as f64, w.quantized_nll]).collect();
    let Some(y) = Scale::around(original.iter().chain(&quantized).map(|p| p[1])) else {
        return String::new();
    };
    let x = (Scale::whole(0.5, n + 0.5), "window of the text");
    let mut both = Chart::new(WIDE, x, (y, "NLL, nats per token"));
    for (series, name, points) in [(0, "original", &original), (1, "quantized", &quantized)] {
        both.series(series, points, |x, y| format!("window {x}, {name}: {y:.4}"));
        both.legend(series, name);
    }
    let differences: Vec<f64> = original.iter().zip(&quantized).map(|(p, q)| q[1] - p[1]).collect();
    let lost = Scale::around(differences.iter().copied().chain([0.0])).map(|y| {
        let mut chart = Chart::new(LOW, x, (y, "difference, nats"));
        for (i, difference) in differences.iter().enumerate().filter(|(_, d)| d.is_finite()) {
            let at = i as f64 + 1.0;
            chart.bar(1, [at - 0.4, at + 0.4], *difference, &format!("window {at}: {difference:+.5}"));
        }
        chart.finish("Difference of the negative log-likelihood in each window")
    });
    format!(
        "<h2>How well each window of the text is predicted</h2>\n<figure>\n{}{}<figcaption>Mean negative log-likelihood; \
         lower is better. Below: quantized minus original, above 0 is what quantization lost.</figcaption>\n</figure>\n",
        both.finish("Negative log-likelihood of each window under both models"),
        lost.unwrap_or_default()
    )
}
