//! A measured load as a page: the speed over time, and how the waiting times are spread.
use super::drive::Run;
use super::statistics::Distribution;
use planish_eval::html::chart::{Chart, Scale};
use planish_eval::html::{cards, escape, figure, frame, name};
use serde_json::Value;

const WIDE: [f64; 2] = [760.0, 280.0];
const LOW: [f64; 2] = [760.0, 210.0];
/// Slices of time.
const SLICES: usize = 60;
/// Bars of a histogram.
const BARS: usize = 40;

/// The page of a run and its figures.
pub fn render(run: &Run, figures: &Value) -> String {
    let model = figures["model"].as_str().unwrap_or_default();
    let number = |v: &Value| v.as_f64().unwrap_or(0.0);
    let median = |key: &str| time(number(&figures[key]["p50"]));
    let percentiles = |key: &str| format!("median; p99 {}", time(number(&figures[key]["p99"])));
    let head = cards([
        (
            "output tokens/s",
            figure(number(&figures["output_tokens_per_s"])),
            format!("with prompts {}", figure(number(&figures["total_tokens_per_s"]))),
        ),
        (
            "requests/s",
            figure(number(&figures["requests_per_s"])),
            format!("{} in {} s", figures["num_prompts"], figure(run.seconds())),
        ),
        ("first token", median("ttft_ms"), percentiles("ttft_ms")),
        ("each token", median("tpot_ms"), percentiles("tpot_ms")),
    ]);
    let what = format!(
        "<p>{} tokens of prompts and {} of answers on {}.</p>\n",
        figures["prompt_tokens"],
        figures["completion_tokens"],
        escape(figures["device"].as_str().unwrap_or_default())
    );
    let first = run.of(|r| Some(r.first()));
    let each = run.of(|r| r.each());
    let body = [
        head,
        what,
        speed(run),
        histogram("Time to the first token", "from sending a request to its first token", 0, &first),
        histogram("Time for each token after the first", "mean of a request", 1, &each),
        table(figures),
    ];
    frame(&format!("Throughput of {}", name(model)), &body.concat())
}

/// Tokens per second and requests being answered, over time.
fn speed(run: &Run) -> String {
    let seconds = run.seconds();
    let slice = seconds / SLICES as f64;
    if slice <= 0.0 {
        return String::new();
    }
    let since = |at: &std::time::Instant| at.duration_since(run.start).as_secs_f64();
    let mut counts = [0usize; SLICES];
    for at in run.requests.iter().flat_map(|r| &r.tokens) {
        counts[((since(at) / slice) as usize).min(SLICES - 1)] += 1;
    }
    let middle = |i: usize| (i as f64 + 0.5) * slice;
    let rates: Vec<[f64; 2]> = counts.iter().enumerate().map(|(i, n)| [middle(i), *n as f64 / slice]).collect();
    let answering = |at: f64| {
        let runs =
            |r: &&super::drive::Timeline| r.tokens.first().is_some_and(|t| since(t) <= at) && since(&r.ended) > at;
        run.requests.iter().filter(runs).count() as f64
    };
    let running: Vec<[f64; 2]> = (0..SLICES).map(|i| [middle(i), answering(middle(i))]).collect();
    let picture = |size, points: &[[f64; 2]], series, label: &str, y: fn(f64, f64) -> Scale| {
        let top = points.iter().map(|p| p[1]).fold(0.0, f64::max).max(1.0);
        let mut chart = Chart::new(size, (Scale::linear(0.0, seconds), "seconds"), (y(0.0, top * 1.05), label));
        chart.curve(series, points);
        chart.finish(&format!("{label} over time"))
    };
    format!(
        "<h2>Speed over time</h2>\n<figure>\n{}{}<figcaption>Tokens of answers in each of {SLICES} slices of time; \
         below, requests between their first token and their last.</figcaption>\n</figure>\n",
        picture(WIDE, &rates, 0, "output tokens/s", Scale::linear),
        picture(LOW, &running, 2, "requests being answered", Scale::whole),
    )
}

/// How often each time occurred.
fn histogram(title: &str, what: &str, series: usize, times: &Distribution) -> String {
    if times.values().is_empty() {
        return String::new();
    }
    let (per, unit) = unit(times.at(0.99));
    let times: Distribution = times.values().iter().map(|t| t / per).collect();
    let (least, most) = (times.least(), times.most());
    // All of them alike: one bar.
    let width = if most > least { (most - least) / BARS as f64 } else { least.max(1.0) * 0.01 };
    let mut counts = [0usize; BARS];
    for time in times.values() {
        counts[(((time - least) / width) as usize).min(BARS - 1)] += 1;
    }
    let top = counts.iter().max().copied().unwrap_or(0) as f64;
    let x = Scale::linear(least, least + width * BARS as f64);
    let mut chart = Chart::new(WIDE, (x, unit), (Scale::whole(0.0, top * 1.05), "requests"));
    for (i, count) in counts.iter().enumerate().filter(|(_, n)| **n > 0) {
        let edges = [least + i as f64 * width, least + (i + 1) as f64 * width];
        let hint = format!("{} to {} {unit}: {count}", figure(edges[0]), figure(edges[1]));
        chart.bar(series, edges, *count as f64, &hint);
    }
    let rules = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99)];
    chart.rules(&rules.map(|(name, q)| (times.at(q), format!("{name} {} {unit}", figure(times.at(q))))));
    format!(
        "<h2>{title}</h2>\n<figure>\n{}<figcaption>Requests by time {what}; left is better.</figcaption>\n</figure>\n",
        chart.finish(&format!("Histogram: {title}"))
    )
}

/// What to divide milliseconds by, and the name of what comes out: long times are read in seconds.
fn unit(milliseconds: f64) -> (f64, &'static str) {
    if milliseconds < 10_000.0 { (1.0, "ms") } else { (1000.0, "s") }
}

fn time(milliseconds: f64) -> String {
    let (per, unit) = unit(milliseconds);
    format!("{} {unit}", figure(milliseconds / per))
}

fn table(figures: &Value) -> String {
    let mut html = String::from(
        "<details open>\n<summary>All times</summary>\n<table>\n<thead><tr><th></th><th>mean</th><th>p50</th>\
         <th>p90</th><th>p99</th></tr></thead>\n<tbody>\n",
    );
    let rows = [
        ("first token (TTFT)", "ttft_ms"),
        ("each token, mean of a request (TPOT)", "tpot_ms"),
        ("between two tokens (ITL)", "itl_ms"),
        ("whole request", "e2e_ms"),
    ];
    for (name, key) in rows {
        let cells: String = ["mean", "p50", "p90", "p99"]
            .iter()
            .map(|p| format!("<td>{}</td>", time(figures[key][p].as_f64().unwrap_or(0.0))))
            .collect();
        html += &format!("<tr><td>{name}</td>{cells}</tr>\n");
    }
    html + "</tbody>\n</table>\n</details>\n"
}
