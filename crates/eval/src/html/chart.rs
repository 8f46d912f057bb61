//! Axes, marks and legends of one SVG picture; its colours are those of [`super::frame`]'s page.
use super::{escape, figure};
use std::fmt::Write;

/// Room left of and below the plot for labels, above it for the legend, right of it for the last tick.
const LEFT: f64 = 66.0;
const BOTTOM: f64 = 46.0;
const TOP: f64 = 30.0;
const RIGHT: f64 = 14.0;

/// Series have a colour and a shape, so that neither must be told apart alone.
pub const SERIES: usize = 7;

/// A value range on one side of the plot.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Scale {
    low: f64,
    high: f64,
    log: bool,
    /// Only whole numbers mean something.
    whole: bool,
}

impl Scale {
    /// From `low` to `high`, a little wider when they are equal.
    pub fn linear(low: f64, high: f64) -> Scale {
        let pad = if high > low { 0.0 } else { low.abs().max(1.0) * 0.05 };
        Scale { low: low - pad, high: high + pad, log: false, whole: false }
    }

    /// The same for numbers of things: only whole values are marked.
    pub fn whole(low: f64, high: f64) -> Scale {
        Scale { whole: true, ..Scale::linear(low, high) }
    }

    /// The whole decades around positive `values`; none if no value is positive and finite.
    pub fn decades(values: impl Iterator<Item = f64>) -> Option<Scale> {
        let logs = values.filter(|x| *x > 0.0 && x.is_finite()).map(f64::log10);
        let (low, high) = logs.fold((f64::MAX, f64::MIN), |(l, h), x| (l.min(x), h.max(x)));
        (low <= high).then(|| {
            let (low, high) = (low.floor(), high.ceil());
            Scale { low, high: if high > low { high } else { low + 1.0 }, log: true, whole: false }
        })
    }

    /// Of `values` with some air; none if there is no finite value.
    pub fn around(values: impl Iterator<Item = f64>) -> Option<Scale> {
        let (low, high) = values.filter(|x| x.is_finite()).fold((f64::MAX, f64::MIN), |(l, h), x| (l.min(x), h.max(x)));
        (low <= high).then(|| Scale::linear(low - (high - low) * 0.06, high + (high - low) * 0.06))
    }

    /// 0 at the low end, 1 at the high end.
    fn place(&self, value: f64) -> f64 {
        let value = if self.log { value.log10() } else { value };
        ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0)
    }

    /// About five round values.
    fn ticks(&self) -> Vec<f64> {
        if self.log {
            let step = ((self.high - self.low) / 7.0).ceil().max(1.0) as usize;
            return (self.low as i32..=self.high as i32).step_by(step).map(|e| 10f64.powi(e)).collect();
        }
        let rough = (self.high - self.low) / 5.0;
        let decade = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * decade).into_iter().find(|s| *s >= rough * 0.999).unwrap_or(rough);
        let first = (self.low / step).ceil() as i64;
        let last = (self.high / step).floor() as i64;
        let ticks = (first..=last).map(|i| i as f64 * step);
        ticks.filter(|t| !self.whole || (t - t.round()).abs() < 1e-9).collect()
    }
}

/// One picture under construction.
pub struct Chart {
    width: f64,
    height: f64,
    x: Scale,
    y: Scale,
    body: String,
    legend: f64,
}

impl Chart {
    /// An empty plot, `[width, height]` units large, with both axes named.
    pub fn new([width, height]: [f64; 2], (x, x_label): (Scale, &str), (y, y_label): (Scale, &str)) -> Chart {
        let mut chart = Chart { width, height, x, y, body: String::new(), legend: LEFT };
        for tick in y.ticks() {
            let at = chart.down(tick);
            chart.line("grid", [LEFT, at], [width - RIGHT, at]);
            chart.text("tick", [LEFT - 7.0, at + 4.0], "end", &figure(tick));
        }
        let floor = height - BOTTOM;
        for tick in x.ticks() {
            let at = chart.across(tick);
            chart.line("axis", [at, floor], [at, floor + 5.0]);
            chart.text("tick", [at, floor + 19.0], "middle", &figure(tick));
        }
        chart.line("axis", [LEFT, floor], [width - RIGHT, floor]);
        chart.text("name", [(LEFT + width - RIGHT) / 2.0, height - 6.0], "middle", x_label);
        let middle = (TOP + floor) / 2.0;
        let turn = format!("transform=\"rotate(-90 15 {middle:.1})\"");
        let _ = writeln!(
            chart.body,
            "<text x=\"15\" y=\"{middle:.1}\" text-anchor=\"middle\" {turn}>{}</text>",
            escape(y_label)
        );
        chart
    }

    /// A bar between two values of x, from 0 (or the axis' low end) to `y`; `hint` shows when pointed at.
    pub fn bar(&mut self, series: usize, [from, to]: [f64; 2], y: f64, hint: &str) {
        let zero = self.down(if self.y.log { 0.0 } else { 0f64.clamp(self.y.low, self.y.high) });
        let (left, right, end) = (self.across(from), self.across(to), self.down(y));
        let _ = writeln!(
            self.body,
            "<rect x=\"{:.1}\" y=\"{:.1}\" width=\"{:.1}\" height=\"{:.1}\" fill=\"var(--s{series})\"><title>{}</title></rect>",
            left + 0.5,
            zero.min(end),
            (right - left - 1.0).max(0.5),
            (zero - end).abs(),
            escape(hint)
        );
    }

    /// Points joined by a line; values that are not finite are gaps. `hint` words each point.
    pub fn series(&mut self, series: usize, points: &[[f64; 2]], hint: impl Fn(f64, f64) -> String) {
        let log = self.y.log;
        let shows = |[x, y]: &[f64; 2]| x.is_finite() && y.is_finite() && (!log || *y > 0.0);
        for run in points.split(|p| !shows(p)).filter(|run| !run.is_empty()) {
            let places: Vec<String> =
                run.iter().map(|p| format!("{:.1},{:.1}", self.across(p[0]), self.down(p[1]))).collect();
            let _ = writeln!(
                self.body,
                "<polyline points=\"{}\" fill=\"none\" stroke=\"var(--s{series})\" stroke-width=\"1.5\"/>",
                places.join(" ")
            );
            for p in run {
                let shape = shape(series, self.across(p[0]), self.down(p[1]));
                let _ = writeln!(self.body, "<g><title>{}</title>{shape}</g>", escape(&hint(p[0], p[1])));
            }
        }
    }

    /// Points joined by a line without marks: for so many that marks would hide it.
    pub fn curve(&mut self, series: usize, points: &[[f64; 2]]) {
        let places: Vec<String> =
            points.iter().map(|p| format!("{:.1},{:.1}", self.across(p[0]), self.down(p[1]))).collect();
        let _ = writeln!(
            self.body,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"var(--s{series})\" stroke-width=\"2\"/>",
            places.join(" ")
        );
    }

    /// Named vertical lines, their names below each other.
    pub fn rules(&mut self, rules: &[(f64, String)]) {
        for (x, _) in rules {
            let at = self.across(*x);
            self.line("rule", [at, TOP], [at, self.height - BOTTOM]);
        }
        for (row, (x, name)) in rules.iter().enumerate() {
            let at = self.across(*x);
            let (anchor, shift) = if at > self.width * 0.75 { ("end", -5.0) } else { ("start", 5.0) };
            self.text("name", [at + shift, TOP + 12.0 + 17.0 * row as f64], anchor, name);
        }
    }

    /// A sample of a series and its name, right of those before.
    pub fn legend(&mut self, series: usize, name: &str) {
        self.body.push_str(&shape(series, self.legend + 6.0, 13.0));
        self.text("name", [self.legend + 16.0, 17.5], "start", name);
        self.legend += 34.0 + 7.2 * name.chars().count() as f64;
    }

    /// The picture, described by `label` for those who do not see it.
    pub fn finish(self, label: &str) -> String {
        format!(
            "<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"{}\">\n{}</svg>\n",
            self.width,
            self.height,
            escape(label),
            self.body
        )
    }

    fn across(&self, x: f64) -> f64 {
        LEFT + self.x.place(x) * (self.width - LEFT - RIGHT)
    }

    fn down(&self, y: f64) -> f64 {
        let floor = self.height - BOTTOM;
        floor - self.y.place(y) * (floor - TOP)
    }

    fn line(&mut self, class: &str, [x1, y1]: [f64; 2], [x2, y2]: [f64; 2]) {
        let _ = writeln!(
            self.body,
            "<line class=\"{class}\" x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\"/>"
        );
    }

    fn text(&mut self, class: &str, [x, y]: [f64; 2], anchor: &str, text: &str) {
        let text = escape(text);
        let _ = writeln!(
            self.body,
            "<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\">{text}</text>"
        );
    }
}

/// The mark of a series around a point.
fn shape(series: usize, x: f64, y: f64) -> String {
    let path = match series % SERIES {
        0 => return format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4\" {}/>", mark(series, false)),
        1 => "m-3.5 -3.5h7v7h-7z",
        2 => "m0 -4.5l4.5 8h-9z",
        3 => "m0 -5l5 5l-5 5l-5 -5z",
        4 => "m0 4.5l4.5 -8h-9z",
        5 => return format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"3.5\" {}/>", mark(series, true)),
        _ => "m-4 -4l8 8m0 -8l-8 8",
    };
    format!("<path d=\"M{x:.1} {y:.1}{path}\" {}/>", mark(series, series == 1))
}

fn mark(series: usize, filled: bool) -> String {
    let fill = if filled { format!("var(--s{series})") } else { "var(--paper)".into() };
    format!("fill=\"{fill}\" stroke=\"var(--s{series})\" stroke-width=\"1.8\"")
}
