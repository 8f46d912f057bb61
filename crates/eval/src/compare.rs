//! Two models on the same text, position by position: is the quantized one still the same model?
use crate::divergence::divergence;
use crate::error::{Error, Model, Result};
use crate::perplexity::count;
use crate::score::Rows;
use crate::statistics::{mean, quantile};
use crate::tasks::paired::Paired;
use crate::tasks::recovery::Recovery;
use planish_engine::Handle;
use serde::Serialize;

pub use crate::window::{shortage, windows};

/// Numbers in a piece of rows from which on a second thread pays.
const TWO_THREADS: usize = 1 << 18;

/// Two models, measured. Its JSON is what `planish compare --json` prints; infinite numbers are `null` there.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Comparison {
    /// Windows measured.
    pub windows: usize,
    /// Tokens of all windows. Each gives one pair of distributions; all but the first of a window are predicted.
    pub tokens: usize,
    /// The model measured against.
    pub original: Side,
    /// The model measured.
    pub quantized: Side,
    /// Divergence from the original's distributions.
    pub kl: Kl,
    /// Share of positions at which both models find the same token likeliest, 0 to 1.
    pub top1_agreement: f64,
    /// Answers side by side.
    pub samples: Vec<Sample>,
    /// Tasks side by side, if any were asked for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<Paired>,
    /// How much of its accuracy the quantized model keeps over all of them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub accuracy_recovery: Option<Recovery>,
    /// Each window's figures.
    pub per_window: Vec<Window>,
    /// Why fewer windows were measured than asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// The divergence at each position of each window, nats, in their order; not in the JSON.
    #[serde(skip)]
    pub kl_positions: Vec<f32>,
}

/// One model of a comparison.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Side {
    /// `exp` of the mean over windows of the mean negative log-likelihood of a window's tokens but its first.
    pub perplexity: f64,
    /// Bytes of the model's weight files; 0 until the caller fills it in.
    pub bytes: u64,
}

/// KL(original || quantized) of next-token distributions, nats, over all positions of all windows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Kl {
    /// Mean.
    pub mean: f64,
    /// 99th percentile, interpolated linearly.
    pub p99: f64,
    /// Greatest.
    pub max: f64,
}

/// The answers of both models to one prompt.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Sample {
    /// What both were asked.
    pub prompt: String,
    /// The original's answer.
    pub original: String,
    /// The quantized model's answer.
    pub quantized: String,
}

/// Figures of one window.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Window {
    /// Tokens.
    pub tokens: usize,
    /// Mean negative log-likelihood under the original, nats per token.
    pub original_nll: f64,
    /// The same under the quantized model.
    pub quantized_nll: f64,
    /// Mean divergence over all positions, nats.
    pub kl: f64,
    /// Share of positions with the same likeliest token.
    pub top1_agreement: f64,
}

/// Runs both models over `windows` side by side; a few chunks of rows are in memory at a time. `progress` is told
/// positions done and of how many.
///
/// # Errors
/// There is no window, one is shorter than two tokens, the vocabularies differ, the handles are one, or a model fails
/// or gives NaN.
pub fn run(
    original: &Handle,
    quantized: &Handle,
    windows: &[&[u32]],
    progress: &mut dyn FnMut(usize, usize),
) -> Result<Comparison> {
    let tokens = count(windows)?;
    if std::ptr::eq(original, quantized) {
        return Err(Error::SameHandle);
    }
    let (vocab, other) = (original.info().plan.vocab, quantized.info().plan.vocab);
    if vocab != other {
        return Err(Error::Vocabulary { original: vocab, quantized: other });
    }
    let mut positions = Vec::with_capacity(tokens);
    for (window, text) in windows.iter().enumerate() {
        let mut p = Rows::start(original, Model::Original, window, text)?;
        let mut q = Rows::start(quantized, Model::Quantized, window, text)?;
        let first = positions.len();
        while positions.len() - first < text.len() {
            let (rows_p, rows_q) = (p.rows()?, q.rows()?);
            let n = rows_p.len().min(rows_q.len()) / vocab;
            let position = positions.len() - first;
            measure(&rows_p[..n * vocab], &rows_q[..n * vocab], vocab, &text[position + 1..], &mut positions);
            check(&positions[first..], position, window)?;
            p.advance(n);
            q.advance(n);
            progress(positions.len(), tokens);
        }
    }
    Ok(Comparison::new(windows, &positions))
}

impl Comparison {
    fn new(windows: &[&[u32]], positions: &[Position]) -> Comparison {
        let mut rest = positions;
        let per_window: Vec<Window> = windows
            .iter()
            .map(|text| {
                let (window, after) = rest.split_at(text.len());
                rest = after;
                Window::new(window)
            })
            .collect();
        let side = |nll: fn(&Window) -> f64| Side { perplexity: mean(per_window.iter().map(nll)).exp(), bytes: 0 };
        let kl_positions: Vec<f32> = positions.iter().map(|p| p.kl).collect();
        Comparison {
            windows: windows.len(),
            tokens: positions.len(),
            original: side(|w| w.original_nll),
            quantized: side(|w| w.quantized_nll),
            kl: Kl::of(&kl_positions),
            top1_agreement: mean(positions.iter().map(|p| p.agrees as u8 as f64)),
            samples: Vec::new(),
            tasks: Vec::new(),
            accuracy_recovery: None,
            per_window,
            note: None,
            kl_positions,
        }
    }
}

impl Kl {
    fn of(positions: &[f32]) -> Kl {
        let mut sorted = positions.to_vec();
        sorted.sort_unstable_by(f32::total_cmp);
        let mean = mean(positions.iter().map(|&x| x as f64));
        Kl { mean, p99: quantile(&sorted, 0.99), max: quantile(&sorted, 1.0) }
    }
}

impl Window {
    fn new(positions: &[Position]) -> Window {
        // The last position's next token is not in the window.
        let predicted = &positions[..positions.len() - 1];
        Window {
            tokens: positions.len(),
            original_nll: mean(predicted.iter().map(|p| -p.original as f64)),
            quantized_nll: mean(predicted.iter().map(|p| -p.quantized as f64)),
            kl: mean(positions.iter().map(|p| p.kl as f64)),
            top1_agreement: mean(positions.iter().map(|p| p.agrees as u8 as f64)),
        }
    }
}

/// What is kept of two rows.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Position {
    /// Divergence, nats.
    kl: f32,
    /// Log-probability of the text's next token; 0 at a window's end.
    original: f32,
    quantized: f32,
    agrees: bool,
}

/// Compares rows `[n, v]` of both models, on two threads when there is enough to do. `next` are the tokens that
/// follow each row's position; it may be one short.
fn measure(p: &[f32], q: &[f32], vocab: usize, next: &[u32], into: &mut Vec<Position>) {
    let half = p.len() / vocab / 2 * vocab;
    if p.len() < TWO_THREADS || half == 0 {
        return into.extend(measure_rows(p, q, vocab, next));
    }
    std::thread::scope(|scope| {
        let first = scope.spawn(move || measure_rows(&p[..half], &q[..half], vocab, next).collect::<Vec<_>>());
        let second: Vec<_> = measure_rows(&p[half..], &q[half..], vocab, &next[half / vocab..]).collect();
        into.extend(first.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        into.extend(second);
    });
}

fn measure_rows(p: &[f32], q: &[f32], vocab: usize, next: &[u32]) -> impl Iterator<Item = Position> {
    p.chunks_exact(vocab).zip(q.chunks_exact(vocab)).enumerate().map(move |(i, (p, q))| {
        let found = divergence(p, q);
        let of = |row: &[f32]| next.get(i).map_or(0.0, |&token| row[token as usize]);
        Position { kl: found.kl as f32, original: of(p), quantized: of(q), agrees: found.top_p == found.top_q }
    })
}

/// Refuses NaN among the positions of a window from `from` on.
fn check(positions: &[Position], from: usize, window: usize) -> Result<()> {
    for (position, found) in positions.iter().enumerate().skip(from) {
        if found.kl.is_nan() || found.original.is_nan() || found.quantized.is_nan() {
            let model = if found.original.is_nan() { Model::Original } else { Model::Quantized };
            return Err(Error::NotANumber { model, window, position });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Enough rows for two threads, an odd number, the last without a next token.
    #[test]
    fn two_threads_equal_one() {
        let (vocab, rows) = (40_000, 7);
        let row = |a: f32| move |i: usize| -11.0 + (i as f32 * a).sin();
        let p: Vec<f32> = (0..rows * vocab).map(row(0.37)).collect();
        let q: Vec<f32> = (0..rows * vocab).map(row(0.371)).collect();
        let next: Vec<u32> = (1..rows as u32).map(|i| i * 5000).collect();
        assert!(p.len() >= TWO_THREADS);
        let mut found = Vec::new();
        measure(&p, &q, vocab, &next, &mut found);
        assert_eq!(found, measure_rows(&p, &q, vocab, &next).collect::<Vec<_>>());
        assert_eq!(found.len(), rows);
        assert_eq!(found[5].original, p[5 * vocab + 30_000]);
        assert_eq!((found[6].original, found[6].quantized), (0.0, 0.0));
    }

    #[test]
    fn nan_is_named() {
        let fine = Position { kl: 0.0, original: -1.0, quantized: -1.0, agrees: true };
        let broken = Position { quantized: f32::NAN, ..fine };
        let message = check(&[fine, fine, broken], 1, 4).unwrap_err().to_string();
        assert_eq!(message, "window 4, position 2: the quantized model gave NaN");
        assert!(check(&[broken, fine, fine], 1, 4).is_ok());
    }
}
