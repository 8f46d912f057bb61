//! A comparison as text for a terminal.
use crate::compare::Comparison;
use std::fmt::Write;

impl Comparison {
    /// The headline figures as a table, then the samples.
    pub fn to_text(&self) -> String {
        let mut text = String::new();
        let (p, q) = (&self.original, &self.quantized);
        let change = (q.perplexity / p.perplexity - 1.0) * 100.0;
        line(&mut text, "", "original", "quantized", "");
        let perplexity = [p, q].map(|side| format!("{:.4}", side.perplexity));
        line(&mut text, "perplexity", &perplexity[0], &perplexity[1], &format!("{change:+.2} %"));
        if p.bytes > 0 && q.bytes > 0 {
            let share = format!("{:.1} %", q.bytes as f64 / p.bytes as f64 * 100.0);
            line(&mut text, "size", &size(p.bytes), &size(q.bytes), &share);
        }
        for (name, value) in [("mean", self.kl.mean), ("p99", self.kl.p99), ("max", self.kl.max)] {
            line(&mut text, &format!("KL {name}, nats"), "", &format!("{value:.5}"), "");
        }
        line(&mut text, "top-1 agreement", "", &format!("{:.2} %", self.top1_agreement * 100.0), "");
        let _ = writeln!(text, "\n{} tokens in {}", self.tokens, plural(self.windows, "window"));
        if let Some(note) = &self.note {
            let _ = writeln!(text, "note: {note}");
        }
        if !self.tasks.is_empty() {
            let _ = write!(text, "\n{}", crate::tasks::paired::to_text(&self.tasks));
        }
        if let Some(recovery) = &self.accuracy_recovery {
            let _ = writeln!(text, "{}", recovery.to_text());
        }
        for sample in &self.samples {
            let _ = writeln!(text, "\nprompt     {}", indent(&sample.prompt));
            let _ = writeln!(text, "original   {}", indent(&sample.original));
            let _ = writeln!(text, "quantized  {}", indent(&sample.quantized));
        }
        text
    }
}

fn line(text: &mut String, name: &str, original: &str, quantized: &str, change: &str) {
    let row = format!("{name:<18}{original:>12}{quantized:>12}{change:>12}");
    let _ = writeln!(text, "{}", row.trim_end());
}

/// Lines after the first stand under it.
fn indent(text: &str) -> String {
    text.trim_end().replace('\n', "\n           ")
}

/// "1 window", "2 windows".
pub(crate) fn plural(n: usize, word: &str) -> String {
    format!("{n} {word}{}", if n == 1 { "" } else { "s" })
}

/// Bytes in the unit that leaves one to three digits before the point.
pub(crate) fn size(bytes: u64) -> String {
    let (mut value, mut unit) = (bytes as f64, "B");
    for next in ["kB", "MB", "GB", "TB"] {
        if value < 1000.0 {
            break;
        }
        (value, unit) = (value / 1000.0, next);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units() {
        assert_eq!(size(999), "999 B");
        assert_eq!(size(1500), "1.5 kB");
        assert_eq!(size(269_060_552), "269.1 MB");
        assert_eq!(size(16_060_000_000), "16.1 GB");
    }
}
