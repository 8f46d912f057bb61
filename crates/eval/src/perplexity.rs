//! How well a model predicts a text.
use crate::error::{Error, Model, Result};
use crate::score::Rows;
use crate::statistics::mean;
use planish_engine::Handle;
use serde::Serialize;

pub use crate::window::{shortage, windows};

/// A model's perplexity on windows of a text. An infinite number is `null` in JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Perplexity {
    /// `exp` of the mean of `nll`.
    pub perplexity: f64,
    /// Windows measured.
    pub windows: usize,
    /// Tokens of all windows; all but the first of each window are predicted.
    pub tokens: usize,
    /// Mean negative log-likelihood of each window's tokens but its first, nats per token.
    pub nll: Vec<f64>,
}

/// Measures `windows`, each on its own; each has at least two tokens. `progress` is told positions done and of how
/// many.
///
/// # Errors
/// There is no window, one is shorter than two tokens, or the model fails on it.
pub fn run(handle: &Handle, windows: &[&[u32]], progress: &mut dyn FnMut(usize, usize)) -> Result<Perplexity> {
    let tokens = count(windows)?;
    let vocab = handle.info().plan.vocab;
    let (mut nll, mut done) = (Vec::with_capacity(windows.len()), 0);
    for (window, text) in windows.iter().enumerate() {
        let mut scores = Rows::start(handle, Model::Original, window, text)?;
        let (mut sum, mut position) = (0.0, 0);
        while position < text.len() {
            let rows = scores.rows()?.chunks_exact(vocab);
            let taken = rows.len();
            for (i, (row, next)) in rows.zip(&text[position + 1..]).enumerate() {
                sum -= row[*next as usize] as f64;
                if sum.is_nan() {
                    return Err(Error::NotANumber { model: Model::Original, window, position: position + i });
                }
            }
            scores.advance(taken);
            position += taken;
            done += taken;
            progress(done, tokens);
        }
        nll.push(sum / (text.len() - 1) as f64);
    }
    Ok(Perplexity { perplexity: mean(nll.iter().copied()).exp(), windows: windows.len(), tokens, nll })
}

/// Tokens of all windows, once each window can be measured.
pub(crate) fn count(windows: &[&[u32]]) -> Result<usize> {
    if windows.is_empty() {
        return Err(Error::TooSmall { field: "windows", expected: 1, found: 0 });
    }
    match windows.iter().find(|w| w.len() < 2) {
        Some(short) => Err(Error::TooSmall { field: "tokens of a window", expected: 2, found: short.len() }),
        None => Ok(windows.iter().map(|w| w.len()).sum()),
    }
}
