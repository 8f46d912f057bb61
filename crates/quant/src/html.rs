//! The report as one HTML page: inline SVG, no scripts, nothing from outside, light and dark.
use crate::calibrate::probe::LayerShare;
use crate::report::{GroupReport, LayerReport, Report};
use std::fmt::Write;

const STYLE: &str = "\
:root{color-scheme:light dark;--ink:#1c2430;--soft:#5b6675;--paper:#fff;--line:#d8dee6;--a:#3465a4;--b:#c4722b;--bad:#b3261e}\
@media(prefers-color-scheme:dark){:root{--ink:#e6eaf0;--soft:#9aa6b5;--paper:#14181f;--line:#303845;--a:#7aa7e0;--b:#e3a063;--bad:#f2867e}}\
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);max-width:62rem;margin:2rem auto;padding:0 1rem}\
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}p.note,td.note{color:var(--soft)}p.bad{color:var(--bad)}\
table{border-collapse:collapse;width:100%}td,th{padding:.2rem .7rem .2rem 0;text-align:left;border-bottom:1px solid var(--line)}\
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}svg{width:100%;height:auto;display:block}\
svg text{font:11px system-ui,sans-serif;fill:var(--soft)}.a{fill:var(--a)}.b{fill:var(--b)}.axis{stroke:var(--line)}.scroll{overflow-x:auto}";

/// What `planish sensitivity` found, for [`render_shares`].
pub struct Shares<'a> {
    /// As the user named it.
    pub model: &'a str,
    /// 8-bit type.
    pub dtype: &'a str,
    /// Held-back tokens.
    pub tokens: usize,
    /// In the order of the model.
    pub layers: &'a [LayerShare],
}

/// Renders the shares as a page that needs nothing else.
pub fn render_shares(shares: &Shares<'_>) -> String {
    let title = escape(&format!("{} in {}: share of each layer", shares.model, shares.dtype));
    let mut out = head(&title);
    let _ = writeln!(
        out,
        "<p class=\"note\">KL divergence from the original, nats, mean over {} held-back tokens, when ",
        shares.tokens
    );
    out += "one layer alone is quantized. Within a layer it is shared out by what each group of linears, which run as one ";
    out += "product, alone changes in the layer's output.</p>\n";
    let bars: Vec<_> = shares.layers.iter().map(|l| (l.name.clone(), vec![l.divergence.mean])).collect();
    chart(&mut out, &bars, "KL divergence");
    let all: f64 = shares.layers.iter().map(|l| l.divergence.mean).sum();
    out += "<h2>Groups</h2>\n<div class=\"scroll\"><table>\n<tr><th>linears</th><th class=\"n\">weights</th>";
    out += "<th class=\"n\">KL</th><th class=\"n\">share</th></tr>\n";
    for group in shares.layers.iter().flat_map(|l| &l.groups) {
        let share = if all > 0.0 { 100.0 * group.kl / all } else { 0.0 };
        let _ = write!(out, "<tr><td>{}</td><td class=\"n\">{}</td>", escape(&group.linears.join(", ")), group.weights);
        let _ = writeln!(out, "<td class=\"n\">{}</td><td class=\"n\">{share:.1} %</td></tr>", number(Some(group.kl)));
    }
    out += "</table></div>\n</body></html>\n";
    out
}

/// A page up to its heading; `title` is escaped.
fn head(title: &str) -> String {
    let mut out = String::from("<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">");
    out += "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">";
    out += &format!("<title>{title}</title><style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n");
    out
}

/// Height of the bars of a chart, in SVG units.
const HEIGHT: f64 = 160.0;

/// Renders the report as a page that needs nothing else.
pub fn render_html(report: &Report) -> String {
    let mut out = head(&escape(&format!("{} in {}", report.model, report.settings.quant_dtype)));
    for warning in &report.warnings {
        out += &format!("<p class=\"bad\">{}</p>\n", escape(warning));
    }
    summary(&mut out, report);
    errors(&mut out, &report.layers);
    smoothing(&mut out, &report.layers);
    linears(&mut out, &report.layers);
    out += &format!("<p class=\"note\">planish {}</p>\n</body></html>\n", escape(&report.version));
    out
}

fn summary(out: &mut String, report: &Report) {
    let (s, c, t) = (&report.settings, &report.self_checks, &report.totals);
    let mut rows = vec![
        ("Smoothing", s.smooth.clone()),
        ("Weights", s.weights.clone()),
        ("Activations", s.activations.clone()),
        ("Kept in float", s.ignore.join(", ")),
        ("Size", format!("{} → {}", bytes(t.bytes_before), bytes(t.bytes_after))),
        ("KL divergence from the original, smoothed only", number(c.smoothing_kl)),
        ("KL divergence from the original, quantized: mean", number(c.quantized_kl_mean)),
        ("KL divergence from the original, quantized: largest", number(c.quantized_kl_max)),
        ("Same first choice as the original", c.top1_agreement.map_or("–".into(), |x| format!("{:.2} %", 100.0 * x))),
    ];
    if let Some(dtype) = &s.kv_scales {
        rows.push(("Scales of keys and values", dtype.clone()));
    }
    if let Some(b) = &report.budget {
        let (kl, error) = (number(Some(b.kl)), number(Some(b.standard_error)));
        let (fp8, float) = (b.fp8.len(), b.kept.len());
        let kept = format!("{fp8} linears in FP8, {float} in float, {} more; measured {kl} ± {error}", bytes(b.bytes));
        rows.push(("Budget", format!("KL {}: {kept}", number(Some(b.target)))));
    }
    if let Some(data) = &report.calibration {
        rows.push(("Calibration", format!("{} (sha256 {})", data.source, data.sha256)));
    }
    *out += "<table>\n";
    for (name, value) in rows {
        let _ = writeln!(out, "<tr><th>{name}</th><td>{}</td></tr>", escape(&value));
    }
    *out += "</table>\n";
}

/// Per layer the mean error of its linears: of the output where measured, of the weights otherwise.
fn errors(out: &mut String, layers: &[LayerReport]) {
    let mean = |layer: &LayerReport| {
        let all: Vec<f64> = layer.linears.iter().filter_map(|l| l.output_error.or(l.weight_error)).collect();
        if all.is_empty() { 0.0 } else { all.iter().sum::<f64>() / all.len() as f64 }
    };
    let bars: Vec<_> = layers.iter().map(|l| (l.name.clone(), vec![mean(l)])).collect();
    *out += "<h2>Error of each layer</h2>\n<p class=\"note\">Mean over its linears of ‖Y − Yq‖ / ‖Y‖.</p>\n";
    chart(out, &bars, "relative error");
}

fn smoothing(out: &mut String, layers: &[LayerReport]) {
    let groups: Vec<&GroupReport> = layers.iter().flat_map(|l| &l.smoothing).collect();
    if groups.is_empty() {
        return;
    }
    let pair = |g: &GroupReport| vec![f64::from(g.act_absmax_before.max), f64::from(g.act_absmax_after.max)];
    let bars: Vec<_> = groups.iter().map(|g| (g.smooth.clone(), pair(g))).collect();
    *out += "<h2>Largest activation before and after smoothing</h2>\n";
    *out += "<p class=\"note\">One pair per smoothed group: left before, right after.</p>\n";
    chart(out, &bars, "absolute maximum");
}

fn linears(out: &mut String, layers: &[LayerReport]) {
    *out += "<h2>Linears</h2>\n<div class=\"scroll\"><table>\n<tr><th>name</th><th>shape</th><th>method</th>";
    *out += "<th class=\"n\">output error</th><th class=\"n\">weight error</th><th class=\"n\">loss</th>";
    *out += "<th class=\"n\">loss of rounding</th><th>note</th></tr>\n";
    for l in layers.iter().flat_map(|l| &l.linears) {
        let mut notes = Vec::new();
        if l.fallback {
            notes.push("GPTQ was not possible".to_string());
        }
        if !l.zero_rows.is_empty() {
            notes.push(format!("{} zero rows", l.zero_rows.len()));
        }
        if !l.dead_columns.is_empty() {
            notes.push(format!("{} unused inputs", l.dead_columns.len()));
        }
        let _ = write!(out, "<tr><td>{}</td><td>{} × {}</td>", escape(&l.name), l.shape[0], l.shape[1]);
        let _ = write!(out, "<td>{} {}</td>", escape(&l.scheme), escape(&l.algorithm));
        for value in [l.output_error, l.weight_error, l.proxy_loss, l.rtn_proxy_loss] {
            let _ = write!(out, "<td class=\"n\">{}</td>", number(value));
        }
        let _ = writeln!(out, "<td class=\"note\">{}</td></tr>", notes.join(", "));
    }
    *out += "</table></div>\n";
}

/// Bars from zero, one group of them per name; each tells its value on hovering.
fn chart(out: &mut String, bars: &[(String, Vec<f64>)], unit: &str) {
    let top = bars.iter().flat_map(|(_, v)| v).copied().filter(|x| x.is_finite()).fold(0.0f64, f64::max);
    if top <= 0.0 {
        *out += "<p class=\"note\">Nothing was measured.</p>\n";
        return;
    }
    let per_group = bars.iter().map(|(_, v)| v.len()).max().unwrap_or(1) as f64;
    let step = (900.0 / bars.len() as f64).min(48.0);
    let width = step * 0.8 / per_group;
    let bottom = HEIGHT + 16.0;
    let _ = writeln!(out, "<svg viewBox=\"0 0 960 {:.0}\" role=\"img\" aria-label=\"{unit}\">", bottom + 18.0);
    let _ = writeln!(out, "<text x=\"0\" y=\"10\">{} {unit}</text>", number(Some(top)));
    let _ = writeln!(out, "<line class=\"axis\" x1=\"0\" y1=\"{bottom}\" x2=\"960\" y2=\"{bottom}\"/>");
    for (i, (name, values)) in bars.iter().enumerate() {
        for (j, value) in values.iter().enumerate().filter(|(_, v)| v.is_finite()) {
            let (x, h) = (i as f64 * step + j as f64 * width, value.max(0.0) / top * HEIGHT);
            let class = if j == 0 { "a" } else { "b" };
            let _ = write!(out, "<rect class=\"{class}\" x=\"{x:.1}\" y=\"{:.1}\"", bottom - h);
            let _ = write!(out, " width=\"{:.1}\" height=\"{h:.1}\">", width * 0.94);
            let _ = writeln!(out, "<title>{}: {}</title></rect>", escape(name), number(Some(*value)));
        }
    }
    for i in [0, bars.len() - 1] {
        let anchor = if i == 0 { "start" } else { "end" };
        let x = if i == 0 { 0.0 } else { (i as f64 + 1.0) * step };
        let (y, name) = (bottom + 14.0, escape(&bars[i].0));
        let _ = writeln!(out, "<text x=\"{x:.0}\" y=\"{y:.0}\" text-anchor=\"{anchor}\">{name}</text>");
        if bars.len() < 12 {
            break; // too narrow for two names
        }
    }
    *out += "</svg>\n";
}

fn number(value: Option<f64>) -> String {
    match value {
        None => "–".into(),
        Some(x) if x == 0.0 || (0.001..100_000.0).contains(&x.abs()) => {
            let digits = (3 - x.abs().max(1e-3).log10().floor() as i32).clamp(0, 6) as usize;
            format!("{x:.digits$}")
        }
        Some(x) => format!("{x:.2e}"),
    }
}

fn bytes(n: u64) -> String {
    let mut value = n as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if value < 1000.0 {
            return if unit == "B" { format!("{n} B") } else { format!("{value:.1} {unit}") };
        }
        value /= 1000.0;
    }
    format!("{value:.2} TB")
}

fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out += "&amp;",
            '<' => out += "&lt;",
            '>' => out += "&gt;",
            '"' => out += "&quot;",
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calibrate::check::Divergence;
    use crate::calibrate::probe::GroupShare;
    use crate::report::{LinearReport, Spread};

    fn report() -> Report {
        let mut report = Report { model: "a <b> & \"c\"".into(), ..Report::default() };
        (report.totals.bytes_before, report.totals.bytes_after) = (269_000_000, 163_200);
        report.self_checks.top1_agreement = Some(0.9307);
        for i in 0..30 {
            let linear = LinearReport {
                name: format!("layers.{i}.q"),
                output_error: Some(0.01 * f64::from(i)),
                fallback: i == 3,
                ..LinearReport::default()
            };
            let spread = |max| Spread { min: 0.0, median: 1.0, max };
            let group = GroupReport {
                smooth: format!("norm.{i}"),
                act_absmax_before: spread(40.0),
                act_absmax_after: spread(10.0),
                ..GroupReport::default()
            };
            let name = format!("layers.{i}");
            report.layers.push(LayerReport {
                name,
                smoothing: vec![group],
                linears: vec![linear],
                ..LayerReport::default()
            });
        }
        report
    }

    #[test]
    fn draws_a_bar_per_value_and_escapes_names() {
        let html = render_html(&report());
        assert_eq!(html.matches("<rect ").count(), 30 + 60);
        assert!(html.contains("a &lt;b&gt; &amp; &quot;c&quot;") && !html.contains("<b>"));
        assert!(
            html.contains("269.0 MB → 163.2 kB") && html.contains("93.07 %") && html.contains("GPTQ was not possible")
        );
        // 10 of 40 is a quarter of the height.
        assert!(html.contains("height=\"40.0\"><title>norm.0: 10.00</title>"), "{html}");
        for outside in ["<script", "http:", "https:", "url(", "@import", "src="] {
            assert!(!html.contains(outside), "{outside}");
        }
        for tag in ["table", "svg", "tr", "td", "div", "title"] {
            assert_eq!(
                html.matches(&format!("<{tag}>")).count() + html.matches(&format!("<{tag} ")).count(),
                html.matches(&format!("</{tag}>")).count(),
                "{tag}"
            );
        }
    }

    #[test]
    fn shares_are_drawn() {
        let share = |name: &str, mean: f64| LayerShare {
            name: name.into(),
            divergence: Divergence { mean, ..Divergence::default() },
            groups: vec![GroupShare { linears: vec![format!("{name}.<q>")], weights: 12, rows: 3, kl: mean }],
        };
        let layers = [share("a", 0.003), share("b", 0.001)];
        let html = render_shares(&Shares { model: "m & n", dtype: "int8", tokens: 256, layers: &layers });
        assert!(html.contains("m &amp; n") && html.contains("a.&lt;q&gt;") && html.contains("75.0 %"), "{html}");
        assert_eq!(html.matches("<rect ").count(), 2);
        assert!(html.contains("256 held-back tokens") && html.ends_with("</html>\n"));
    }

    #[test]
    fn an_empty_report_is_a_page() {
        let html = render_html(&Report::default());
        assert!(html.contains("Nothing was measured") && html.ends_with("</html>\n") && !html.contains("NaN"));
    }
}
