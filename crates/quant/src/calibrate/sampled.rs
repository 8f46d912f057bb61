//! A few rows of a block's inputs, spread evenly over the calibration tokens: what the search of strengths measures on.
use super::fold::smoothed_inputs;
use super::observe::{Statistics, read};
use planish_model::tap::{Shown, Tap};
use planish_model::{Input, Mlp, Plan};
use planish_tensor::{Backend, Batch, Tensor};
use std::collections::BTreeMap;

/// Tokens that are looked at: at most this many spread evenly, and at most an eighth of it first ones of a sequence.
/// Those are few, but every later token attends to them, and in many models they are massive.
const SPREAD: usize = 1024;

/// The rows, on the host.
pub struct Sampled {
    /// Rows of each input.
    pub inputs: BTreeMap<Input, Rows>,
    /// The tokens, counted over all sequences, ascending.
    picks: Vec<usize>,
    page_size: usize,
}

/// Rows of one input.
#[derive(Default)]
pub struct Rows {
    /// `[t, k]` rows to search with.
    pub search: Vec<f32>,
    /// `[t, k]` other rows to check with.
    pub check: Vec<f32>,
    /// Tokens and picks that went by.
    seen: usize,
    picked: usize,
}

impl Sampled {
    /// Nothing yet of a block, of the tokens of these sequences.
    pub fn new<B: Backend>(backend: &B, plan: &Plan, layer: usize, lengths: &[usize]) -> Sampled {
        let inputs = smoothed_inputs(plan, layer).into_iter().map(|(input, _)| (input, Rows::default())).collect();
        Sampled { inputs, picks: picks(lengths), page_size: backend.preferences().page_size }
    }

    /// Copies what is picked of the next tokens `x[t, k]`.
    fn observe<B: Backend>(&mut self, backend: &B, input: Input, x: &Tensor<B>) -> planish_tensor::Result<()> {
        let Some(rows) = self.inputs.get_mut(&input) else { return Ok(()) };
        let (first, seen) = (rows.picked, rows.seen);
        let here: Vec<u32> = match input {
            // An expert has tokens of its own, and the first that come are as good as any.
            Input::MlpInner(Mlp::Expert(_)) => (0..x.rows.min(SPREAD - first.min(SPREAD)) as u32).collect(),
            _ => {
                let picks = self.picks[first..].iter().take_while(|&&p| p < seen + x.rows);
                picks.map(|p| (p - seen) as u32).collect()
            }
        };
        rows.seen += x.rows;
        if here.is_empty() {
            return Ok(());
        }
        rows.picked += here.len();
        let mut out = backend.alloc(x.dtype, here.len(), x.cols)?;
        let batch = Batch { logit_rows: here, ..Batch::fresh(&[x.rows], self.page_size) };
        let batch = backend.upload_batch(&batch, x.rows.div_ceil(self.page_size))?;
        backend.gather_rows(x, &batch, &mut out)?;
        for (i, row) in read(backend, &out)?.chunks_exact(x.cols).enumerate() {
            // By turns, so that both see all of the data.
            let to = if (first + i).is_multiple_of(2) { &mut rows.search } else { &mut rows.check };
            to.extend(row);
        }
        Ok(())
    }
}

/// See [`SPREAD`].
fn picks(lengths: &[usize]) -> Vec<usize> {
    let total: usize = lengths.iter().sum();
    let starts: Vec<usize> = lengths.iter().scan(0, |at, n| Some(std::mem::replace(at, *at + n))).collect();
    let (spread, first) = (SPREAD.min(total), (SPREAD / 8).min(starts.len()));
    let mut out: Vec<usize> = (0..spread).map(|i| (2 * i + 1) * total / (2 * spread)).collect();
    out.extend((0..first).map(|i| starts[i * starts.len() / first]));
    out.sort_unstable();
    out.dedup();
    out
}

/// Statistics, and rows where they are wanted.
pub struct Eyes<'a, B: Backend> {
    /// See [`Statistics`].
    pub statistics: &'a mut Statistics<B>,
    /// See [`Sampled`].
    pub sampled: Option<&'a mut Sampled>,
}

impl<B: Backend> Tap<B> for Eyes<'_, B> {
    fn observe(&mut self, backend: &B, input: Input, x: &Tensor<B>) -> planish_model::Result<()> {
        if let Some(sampled) = &mut self.sampled {
            sampled.observe(backend, input, x)?;
        }
        self.statistics.observe(backend, input, x)
    }

    fn shown(&self, expert: u16) -> Shown {
        self.statistics.shown(expert)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_are_spread_and_hold_first_tokens() {
        assert_eq!(picks(&[3, 2]), [0, 1, 2, 3, 4]);
        let many = picks(&vec![512; 400]);
        assert!(many.len() > SPREAD && many.len() <= SPREAD + SPREAD / 8);
        assert!(many.is_sorted() && many.iter().filter(|p| **p % 512 == 0).count() >= SPREAD / 8);
        assert!(*many.last().unwrap() > 399 * 512 && picks(&[]).is_empty());
    }
}
