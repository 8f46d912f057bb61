//! Pictures of the quantizer's report, read with patience: what is not there is not drawn.
use super::chart::{Chart, SERIES, Scale};
use super::{escape, figure};
use serde_json::Value;

const WIDE: [f64; 2] = [760.0, 320.0];
const SMALL: [f64; 2] = [440.0, 260.0];

/// A name and its `[layer, value]` points.
type Line = (String, Vec<[f64; 2]>);

/// The output error of each kind of linear over the layers.
pub fn errors(report: &Value) -> String {
    let mut lines: Vec<Line> = Vec::new();
    for (layer, fields) in layers(report) {
        for linear in list(fields, "linears") {
            if let (Some(name), Some(error)) = (linear["name"].as_str(), linear["output_error"].as_f64()) {
                point(&mut lines, last(name), [layer, error]);
            }
        }
    }
    // More kinds than colours (experts): the picture would say nothing.
    lines.truncate(SERIES);
    let Some(y) = Scale::decades(lines.iter().flat_map(|l| &l.1).map(|p| p[1])) else {
        return String::new();
    };
    let x = (span(&lines), "layer");
    let mut chart = Chart::new(WIDE, x, (y, "output error (logarithmic)"));
    for (series, (name, points)) in lines.iter().enumerate() {
        chart.series(series, points, |x, y| format!("layer {x}, {name}: {}", figure(y)));
        chart.legend(series, name);
    }
    format!(
        "<h2>Error of each layer's linears</h2>\n<figure>\n{}<figcaption>What quantization changed in each linear's \
         output, as the quantizer reported it; lower is better.</figcaption>\n</figure>\n",
        chart.finish("Output error of each kind of linear over the layers")
    )
}

/// Outliers of each smoothed input before and after smoothing, one picture for each kind of input.
pub fn outliers(report: &Value) -> String {
    let mut entries: Vec<(f64, &Value)> = Vec::new();
    for (layer, fields) in layers(report) {
        entries.extend(list(fields, "smoothing").iter().map(|entry| (layer, entry)));
    }
    // The ratio says more; it is drawn when every entry has it.
    let ratio = !entries.is_empty() && entries.iter().all(|(_, e)| value(e, "before", true).is_some());
    let (mut before, mut after): (Vec<Line>, Vec<Line>) = Default::default();
    for (layer, entry) in entries {
        let name = entry["smooth"].as_str().map_or("input", last);
        if let (Some(b), Some(a)) = (value(entry, "before", ratio), value(entry, "after", ratio)) {
            point(&mut before, name, [layer, b]);
            point(&mut after, name, [layer, a]);
        }
    }
    let Some(y) = Scale::decades(before.iter().chain(&after).flat_map(|l| &l.1).map(|p| p[1])) else {
        return String::new();
    };
    let (unit, caption) = match ratio {
        true => ("largest / median channel", "The largest channel's magnitude over the median channel's"),
        false => ("largest magnitude", "The largest magnitude of any channel"),
    };
    let x = span(&before);
    let pictures: String = before.iter().zip(&after).map(|(b, a)| panel(b, a, (x, "layer"), (y, unit))).collect();
    format!(
        "<h2>Activation outliers before and after smoothing</h2>\n<div class=\"small\">\n{pictures}</div>\n<p>{caption} of \
         each smoothed input, logarithmic, the same axes everywhere; lower is easier to quantize.</p>\n"
    )
}

fn panel((name, before): &Line, (_, after): &Line, x: (Scale, &str), y: (Scale, &str)) -> String {
    let mut chart = Chart::new(SMALL, x, y);
    for (series, word, points) in [(0, "before", before), (1, "after", after)] {
        chart.series(series, points, |x, y| format!("layer {x}, {word}: {}", figure(y)));
        chart.legend(series, word);
    }
    let picture = chart.finish(&format!("Outliers of {name} before and after smoothing"));
    format!("<figure>\n<h3>{}</h3>\n{picture}</figure>\n", escape(name))
}

/// The largest of a smoothing entry's channel maxima, or its ratio to their median.
fn value(entry: &Value, when: &str, ratio: bool) -> Option<f64> {
    let maxima = &entry[format!("act_absmax_{when}")];
    let field = |name: &str| maxima[name].as_f64().filter(|x| *x > 0.0);
    let max = field("max")?;
    if ratio { Some(max / field("median")?) } else { Some(max) }
}

/// The report's layers with their numbers: from `layer`, or the digits of `name`, or their order.
fn layers(report: &Value) -> Vec<(f64, &Value)> {
    let number = |fields: &Value| {
        let of = |field: &str| match &fields[field] {
            Value::Number(n) => n.as_f64(),
            Value::String(s) => s.split(|c: char| !c.is_ascii_digit()).find(|d| !d.is_empty())?.parse().ok(),
            _ => None,
        };
        of("layer").or_else(|| of("name")).or_else(|| of("index"))
    };
    list(report, "layers").iter().enumerate().map(|(i, f)| (number(f).unwrap_or(i as f64), f)).collect()
}

fn list<'a>(value: &'a Value, field: &str) -> &'a [Value] {
    value[field].as_array().map_or(&[], Vec::as_slice)
}

/// The last part of a module's name.
fn last(name: &str) -> &str {
    name.rsplit('.').find(|part| *part != "weight").unwrap_or(name)
}

/// Adds a point to the line of that name.
fn point(lines: &mut Vec<Line>, name: &str, at: [f64; 2]) {
    match lines.iter_mut().find(|line| line.0 == name) {
        Some(line) => line.1.push(at),
        None => lines.push((name.into(), vec![at])),
    }
}

/// All layers, with half a layer of air.
fn span(lines: &[Line]) -> Scale {
    let (low, high) =
        lines.iter().flat_map(|l| &l.1).fold((f64::MAX, f64::MIN), |(l, h), p| (l.min(p[0]), h.max(p[0])));
    Scale::whole(low - 0.5, high + 0.5)
}
