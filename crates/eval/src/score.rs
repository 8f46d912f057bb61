//! Rows of log-probabilities of one window from one model, taken as they come.
use crate::error::{Error, Model, Result};
use planish_engine::{Handle, Scores};

/// The scores of one window. At most one chunk is kept here; a few more wait in the engine's channel.
pub(crate) struct Rows {
    chunks: Scores,
    vocab: usize,
    model: Model,
    window: usize,
    /// `[rows, v]`, of which `used` rows are done.
    chunk: Vec<f32>,
    used: usize,
    /// Position of the first row that has not come.
    next: usize,
}

impl Rows {
    /// Starts scoring.
    pub fn start(handle: &Handle, model: Model, window: usize, tokens: &[u32]) -> Result<Rows> {
        let chunks = handle.score(tokens.to_vec()).map_err(|source| Error::Engine { model, window, source })?;
        let vocab = handle.info().plan.vocab;
        Ok(Rows { chunks, vocab, model, window, chunk: Vec::new(), used: 0, next: 0 })
    }

    /// The rows at hand, `[n, v]`, at least one: waits for a chunk when there is none.
    pub fn rows(&mut self) -> Result<&[f32]> {
        if self.used * self.vocab == self.chunk.len() {
            self.chunk = self.receive()?;
            self.used = 0;
        }
        Ok(&self.chunk[self.used * self.vocab..])
    }

    /// Counts `n` of the rows at hand as done.
    pub fn advance(&mut self, n: usize) {
        self.used += n;
    }

    fn receive(&mut self) -> Result<Vec<f32>> {
        let (model, window, expected) = (self.model, self.window, self.next);
        let chunk = match self.chunks.next() {
            Some(Ok(chunk)) => chunk,
            Some(Err(source)) => return Err(Error::Engine { model, window, source }),
            None => return Err(Error::Engine { model, window, source: planish_engine::Error::Stopped }),
        };
        let whole = !chunk.log_probs.is_empty() && chunk.log_probs.len().is_multiple_of(self.vocab);
        if chunk.first != expected || !whole {
            let found = format!("{} numbers from position {}", chunk.log_probs.len(), chunk.first);
            return Err(Error::Order { model, window, expected, found });
        }
        self.next += chunk.log_probs.len() / self.vocab;
        Ok(chunk.log_probs)
    }
}
