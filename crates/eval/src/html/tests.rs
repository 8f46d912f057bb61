//! The page's parts, from a made-up comparison.
use super::*;
use crate::compare::{Kl, Sample, Side, Window};
use serde_json::json;

fn comparison() -> Comparison {
    let window =
        |nll: f64| Window { tokens: 64, original_nll: nll, quantized_nll: nll + 0.02, kl: 0.01, top1_agreement: 0.9 };
    Comparison {
        windows: 2,
        tokens: 128,
        original: Side { perplexity: 20.0, bytes: 2_000_000 },
        quantized: Side { perplexity: 20.5, bytes: 1_000_000 },
        kl: Kl { mean: 0.01, p99: 0.1, max: 0.2 },
        top1_agreement: 0.9,
        samples: vec![Sample { prompt: "<b>&".into(), original: "one".into(), quantized: "\"two\"".into() }],
        tasks: Vec::new(),
        accuracy_recovery: None,
        per_window: vec![window(3.0), window(3.1)],
        note: None,
        kl_positions: (0..128).map(|i| i as f32 * 1e-3).collect(),
    }
}

fn render(comparison: &Comparison, report: Option<&Value>) -> String {
    Page { original: "org/small", quantized: "/tmp/small-INT8/", report }.render(comparison)
}

#[test]
fn the_page_stands_alone() {
    let html = render(&comparison(), None);
    for part in ["<title>small-INT8 against small</title>", "20.500", "+2.50 %", "90.00 %", "1.0 MB", "p99 0.1"] {
        assert!(html.contains(part), "{part}");
    }
    for part in ["http", "<script", "url(", "@import", "NaN"] {
        assert!(!html.contains(part), "{part}");
    }
    assert!(html.contains("&lt;b&gt;&amp;") && html.contains("&quot;two&quot;") && !html.contains("<b>"));
    assert_eq!(html.matches("<svg").count(), 3);
    assert_eq!(html.matches("<svg").count(), html.matches("</svg>").count());
    assert!(html.contains("1.00e-8 to 1.58e-8 nats: 1 position,"), "the position without divergence");
    // Every position is counted once.
    let counted: usize =
        html.split(" nats: ").skip(1).map(|rest| rest.split(' ').next().unwrap().parse::<usize>().unwrap()).sum();
    assert_eq!(counted, 128);
}

#[test]
fn equal_and_infinitely_different_models() {
    let mut c = comparison();
    c.kl_positions = vec![0.0; 128];
    (c.kl, c.per_window[0].quantized_nll) = (Kl { mean: 0.0, p99: 0.0, max: 0.0 }, f64::INFINITY);
    let html = render(&c, None);
    assert!(html.contains("the divergence is 0 at every position"));
    c.kl_positions[5] = f32::INFINITY;
    c.kl_positions[6] = 0.25;
    c.kl.max = f64::INFINITY;
    let html = render(&c, None);
    assert!(html.contains("1 position, infinitely far apart") && html.contains("max inf"));
    assert!(!html.contains("NaN"));
    c.kl_positions.fill(f32::INFINITY);
    assert!(render(&c, None).contains("Infinitely: at every position"));
}

#[test]
fn a_report_gives_pictures_of_its_layers() {
    let layer = |i: usize| {
        json!({"name": format!("model.layers.{i}"), "smoothing": [
                {"smooth": format!("model.layers.{i}.input_layernorm"), "alpha": 0.8,
                 "act_absmax_before": {"min": 0.1, "median": 1.0, "max": 40.0},
                 "act_absmax_after": {"min": 0.1, "median": 0.5, "max": 4.0}},
                {"smooth": "mlp.up_proj", "act_absmax_before": {"median": 1.0, "max": 9.0},
                 "act_absmax_after": {"median": 1.0, "max": 3.0}}],
            "linears": [{"name": "self_attn.q_proj", "output_error": 0.01}, {"name": "mlp.down_proj", "output_error": 0.05}]})
    };
    let report = json!({"layers": [layer(0), layer(1), layer(12)]});
    let html = render(&comparison(), Some(&report));
    for part in ["layer 12, q_proj: 0.01", "layer 0, down_proj: 0.05", "layer 1, before: 40", "layer 1, after: 8"] {
        assert!(html.contains(part), "{part}");
    }
    assert_eq!(html.matches("<svg").count(), 3 + 1 + 2);
    assert!(html.contains("largest / median channel"));
}

#[test]
fn an_incomplete_report_leaves_pictures_out() {
    let pictures = |report: Value| render(&comparison(), Some(&report)).matches("<svg").count() - 3;
    assert_eq!(pictures(json!(null)), 0);
    assert_eq!(pictures(json!({"layers": 3})), 0);
    assert_eq!(pictures(json!({"layers": [{"linears": [{"name": 1, "output_error": "x"}], "smoothing": [{}]}]})), 0);
    assert_eq!(pictures(json!({"layers": [{"linears": [{"name": "o", "output_error": 0.5}]}]})), 1);
    // Without medians the magnitudes themselves.
    let smoothing = json!({"layers": [{"layer": 0, "smoothing": [{"act_absmax_before": {"max": 9.0}, "act_absmax_after": {"max": 2.0}}]}]});
    assert_eq!(pictures(smoothing.clone()), 1);
    assert!(render(&comparison(), Some(&smoothing)).contains("largest magnitude"));
}

#[test]
fn figures_are_short() {
    for (x, text) in
        [(0.0, "0"), (0.02044891, "0.02045"), (5.0, "5"), (1234567.0, "1.23e6"), (1e-5, "1.00e-5"), (20.0, "20")]
    {
        assert_eq!(figure(x), text);
    }
}

#[test]
fn tasks_stand_side_by_side() {
    let mut comparison = comparison();
    assert!(!render(&comparison, None).contains("Tasks side by side"));
    comparison.tasks.push(crate::tasks::paired::Paired {
        task: "gsm8k".into(),
        metric: "exact_match",
        filter: "strict-match",
        documents: 200,
        original: 0.5,
        quantized: 0.49,
        difference: -0.01,
        interval: Some([-0.03, 0.01]),
        recovery: Some(0.98),
    });
    comparison.accuracy_recovery = Some(crate::tasks::recovery::Recovery {
        tasks: vec!["gsm8k exact_match".into()],
        original: 0.5,
        quantized: 0.49,
        recovery: 0.98,
        interval: None,
    });
    let html = render(&comparison, None);
    assert!(html.contains("<p>accuracy recovery: 98.00 %, of gsm8k exact_match</p>"));
    for part in ["<td>gsm8k</td><td>exact_match, strict-match</td><td>200</td>", "-0.0300 to +0.0100", "98.00 %"] {
        assert!(html.contains(part), "{part}");
    }
    assert!(comparison.to_text().contains("98.00 %"));
}
