//! Measurements as one HTML page: figures and pictures, nothing loaded from elsewhere, light and dark.
pub mod chart;
mod layers;
mod pictures;

use crate::compare::Comparison;
use crate::table::{plural, size};
use serde_json::Value;
use std::fmt::Write;

/// What stands beside the figures.
#[derive(Clone, Copy, Debug, Default)]
pub struct Page<'a> {
    /// Name of the original, as the user gave it.
    pub original: &'a str,
    /// Name of the quantized model.
    pub quantized: &'a str,
    /// The quantizer's `planish_report.json`. Pictures whose fields it lacks are left out.
    pub report: Option<&'a Value>,
}

impl Page<'_> {
    /// The page.
    pub fn render(&self, comparison: &Comparison) -> String {
        let title = format!("{} against {}", name(self.quantized), name(self.original));
        let mut html = headline(comparison);
        html.push_str(&pictures::divergences(comparison));
        html.push_str(&pictures::likelihoods(comparison));
        if let Some(report) = self.report {
            html.push_str(&layers::errors(report));
            html.push_str(&layers::outliers(report));
        }
        html.push_str(&tasks(comparison));
        html.push_str(&samples(comparison));
        html.push_str(&window_table(comparison));
        frame(&title, &html)
    }
}

/// A whole page of this title around HTML made by this module's parts.
pub fn frame(title: &str, body: &str) -> String {
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>{title}</title>\n<style>\n{STYLE}</style>\n\
         </head>\n<body>\n<main>\n<h1>{title}</h1>\n{body}</main>\n</body>\n</html>\n",
        title = escape(title),
    )
}

/// Headline figures: what, how much, and a note below it.
pub fn cards<'a>(figures: impl IntoIterator<Item = (&'a str, String, String)>) -> String {
    let mut html = String::from("<dl class=\"cards\">\n");
    for (term, value, note) in figures {
        let (value, note) = (escape(&value), escape(&note));
        let _ = writeln!(html, "<div><dt>{term}</dt><dd>{value}</dd><dd class=\"note\">{note}</dd></div>");
    }
    html + "</dl>\n"
}

const STYLE: &str = include_str!("html/style.css");

/// The last part of a path or hub id.
pub fn name(model: &str) -> &str {
    model.trim_end_matches('/').rsplit('/').next().filter(|n| !n.is_empty()).unwrap_or("model")
}

fn headline(c: &Comparison) -> String {
    let (p, q) = (&c.original, &c.quantized);
    let change = (q.perplexity / p.perplexity - 1.0) * 100.0;
    let mut figures = vec![
        ("perplexity", format!("{:.3}", q.perplexity), format!("original {:.3}, {change:+.2} %", p.perplexity)),
        ("mean KL", figure(c.kl.mean), format!("nats; p99 {}, max {}", figure(c.kl.p99), figure(c.kl.max))),
        ("top-1 agreement", format!("{:.2} %", c.top1_agreement * 100.0), "same likeliest next token".into()),
    ];
    if p.bytes > 0 && q.bytes > 0 {
        let share = q.bytes as f64 / p.bytes as f64 * 100.0;
        figures.push(("size", size(q.bytes), format!("original {}, {share:.1} %", size(p.bytes))));
    }
    let mut html = cards(figures);
    let _ = writeln!(html, "<p>Measured on {} tokens in {}.</p>", c.tokens, plural(c.windows, "window"));
    if let Some(note) = &c.note {
        let _ = writeln!(html, "<p>Note: {}.</p>", escape(note));
    }
    html
}

fn tasks(c: &Comparison) -> String {
    if c.tasks.is_empty() {
        return String::new();
    }
    let mut html = String::from(
        "<h2>Tasks side by side</h2>\n<table>\n<thead><tr><th>task</th><th>metric</th><th>documents</th><th>original</th>\
         <th>quantized</th><th>difference</th><th>95 % interval</th><th>recovery</th></tr></thead>\n<tbody>\n",
    );
    for t in &c.tasks {
        let metric = if t.filter == "none" { t.metric.to_owned() } else { format!("{}, {}", t.metric, t.filter) };
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td>{metric}</td><td>{}</td><td>{:.4}</td><td>{:.4}</td><td>{:+.4}</td><td>{}</td>\
             <td>{}</td></tr>",
            escape(&t.task),
            t.documents,
            t.original,
            t.quantized,
            t.difference,
            t.interval_text(),
            t.recovery_text(),
        );
    }
    html.push_str("</tbody>\n</table>\n");
    if let Some(recovery) = &c.accuracy_recovery {
        let _ = writeln!(html, "<p>{}</p>", escape(&recovery.to_text()));
    }
    html
}

fn samples(c: &Comparison) -> String {
    if c.samples.is_empty() {
        return String::new();
    }
    let mut html = String::from("<h2>Answers side by side</h2>\n");
    for s in &c.samples {
        let _ = writeln!(
            html,
            "<section class=\"sample\">\n<h3>{}</h3>\n<div class=\"pair\">\n<div><h4>original</h4><p>{}</p></div>\n\
             <div><h4>quantized</h4><p>{}</p></div>\n</div>\n</section>",
            escape(&s.prompt),
            escape(s.original.trim()),
            escape(s.quantized.trim()),
        );
    }
    html
}

fn window_table(c: &Comparison) -> String {
    let mut html = String::from(
        "<details>\n<summary>Figures of each window</summary>\n<table>\n<thead><tr><th>window</th><th>tokens</th>\
         <th>NLL original</th><th>NLL quantized</th><th>mean KL, nats</th><th>top-1 agreement</th></tr></thead>\n<tbody>\n",
    );
    for (i, w) in c.per_window.iter().enumerate() {
        let _ = writeln!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{:.5}</td><td>{:.5}</td><td>{}</td><td>{:.2} %</td></tr>",
            i + 1,
            w.tokens,
            w.original_nll,
            w.quantized_nll,
            figure(w.kl),
            w.top1_agreement * 100.0
        );
    }
    html.push_str("</tbody>\n</table>\n</details>\n");
    html
}

/// A number of any size in three or four significant digits.
pub fn figure(x: f64) -> String {
    match x.abs() {
        0.0 => "0".into(),
        a if !(1e-4..1e5).contains(&a) => format!("{x:.2e}"),
        a => {
            let digits = (3 - a.log10().floor() as i32).clamp(0, 7) as usize;
            let text = format!("{x:.digits$}");
            if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').into() } else { text }
        }
    }
}

/// Text as HTML text or attribute.
pub fn escape(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            _ => safe.push(c),
        }
    }
    safe
}

#[cfg(test)]
mod tests;
