//! Hidden states between blocks, on the host, and running a block over them in chunks.
use super::observe::read;
use crate::error::Result;
use planish_model::block::{Block, Step};
use planish_model::tap::Tap;
use planish_model::{Ends, KvPool, Plan, Workspace};
use planish_tensor::host::encode_f32;
use planish_tensor::{Backend, Batch, DType, FloatMath, RopeTable};

/// Tokens that go through a block at once (one sequence may be longer).
const CHUNK_TOKENS: usize = 1024;
const PAGE_SIZE: usize = 16;

/// `[t, h]` hidden states of several sequences, one after the other.
pub struct Hidden {
    /// Tokens of each sequence.
    pub lengths: Vec<usize>,
    /// The states.
    pub values: Vec<f32>,
}

/// The device side of a run over hidden states: buffers for one chunk, and angles.
pub struct Lane<'a, B: Backend> {
    /// The device.
    pub backend: &'a B,
    plan: &'a Plan,
    kv: KvPool<B>,
    /// Buffers.
    pub ws: Workspace<B>,
    rope: RopeTable<B>,
}

impl<'a, B: Backend> Lane<'a, B> {
    /// Buffers for sequences of at most `longest` tokens and `rows` rows of logits.
    pub fn new(backend: &'a B, plan: &'a Plan, longest: usize, rows: usize) -> Result<Lane<'a, B>> {
        let tokens = CHUNK_TOKENS.max(longest);
        let pages = tokens.div_ceil(PAGE_SIZE) + CHUNK_TOKENS;
        Ok(Lane {
            backend,
            plan,
            kv: KvPool::new(backend, plan, 1, pages, PAGE_SIZE, DType::F32)?,
            ws: Workspace::new(backend, plan, tokens, rows)?,
            rope: planish_model::rope::table(backend, plan, longest)?,
        })
    }

    /// Embeds sequences of token ids.
    pub fn embed(&mut self, ends: &Ends<B>, samples: &[Vec<u32>]) -> Result<Hidden> {
        let mut hidden = Hidden { lengths: samples.iter().map(Vec::len).collect(), values: Vec::new() };
        hidden.values.reserve_exact(hidden.lengths.iter().sum::<usize>() * self.plan.hidden);
        for sample in samples {
            let mut batch = Batch::fresh(&[sample.len()], PAGE_SIZE);
            batch.tokens = sample.clone();
            let on_device = self.backend.upload_batch(&batch, self.kv.pages)?;
            self.ws.set_tokens(sample.len());
            ends.embed(self.backend, &on_device, &mut self.ws)?;
            hidden.values.extend(read(self.backend, &self.ws.x)?);
        }
        Ok(hidden)
    }

    /// Runs a block over all states, in place.
    pub fn advance(&mut self, block: &Block<B>, math: FloatMath, hidden: &mut Hidden) -> Result<()> {
        for (sequences, rows) in chunks(&hidden.lengths, self.plan.hidden) {
            let values = &mut hidden.values[rows];
            self.run(block, math, &sequences, values, None)?;
            if self.ws.pending {
                self.backend.add(&mut self.ws.x, &self.ws.delta)?;
                self.ws.pending = false;
            }
            values.copy_from_slice(&read(self.backend, &self.ws.x)?);
        }
        Ok(())
    }

    /// Runs a block up to its last input, for what the tap sees; the states stay as they are.
    pub fn observe(
        &mut self,
        block: &Block<B>,
        math: FloatMath,
        hidden: &Hidden,
        tap: &mut dyn Tap<B>,
        progress: &mut dyn FnMut(usize),
    ) -> Result<()> {
        for (sequences, rows) in chunks(&hidden.lengths, self.plan.hidden) {
            self.run(block, math, &sequences, &hidden.values[rows], Some(&mut *tap))?;
            progress(sequences.iter().sum());
        }
        Ok(())
    }

    fn run(
        &mut self,
        block: &Block<B>,
        math: FloatMath,
        sequences: &[usize],
        values: &[f32],
        tap: Option<&mut dyn Tap<B>>,
    ) -> Result<()> {
        let batch = self.backend.upload_batch(&Batch::fresh(sequences, PAGE_SIZE), self.kv.pages)?;
        self.ws.set_tokens(sequences.iter().sum());
        self.backend.upload(&encode_f32(self.ws.x.dtype, values)?, &mut self.ws.x)?;
        let step = Step { backend: self.backend, math, batch: &batch, rope: &self.rope };
        let kv = &mut self.kv.layers[0];
        match tap {
            None => block.run(&step, kv, &mut self.ws)?,
            Some(tap) => block.observe(&step, kv, &mut self.ws, tap)?,
        }
        Ok(())
    }
}

/// Cuts sequences into groups of at most [`CHUNK_TOKENS`] tokens: their lengths, and where their states are.
fn chunks(lengths: &[usize], h: usize) -> Vec<(Vec<usize>, std::ops::Range<usize>)> {
    let mut out: Vec<(Vec<usize>, std::ops::Range<usize>)> = Vec::new();
    let (mut tokens, mut start) = (CHUNK_TOKENS, 0);
    for &length in lengths {
        let end = start + length * h;
        match out.last_mut() {
            Some((group, range)) if tokens + length <= CHUNK_TOKENS => {
                group.push(length);
                range.end = end;
                tokens += length;
            }
            _ => {
                out.push((vec![length], start..end));
                tokens = length;
            }
        }
        start = end;
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_cover_everything_once() {
        let lengths = [512, 512, 100, 2048, 1, 1000, 24];
        let got = chunks(&lengths, 3);
        assert_eq!(got.iter().flat_map(|c| c.0.clone()).collect::<Vec<_>>(), lengths);
        assert_eq!(got[0], (vec![512, 512], 0..3072));
        assert_eq!(got.last().unwrap().1.end, lengths.iter().sum::<usize>() * 3);
        assert!(got.windows(2).all(|w| w[0].1.end == w[1].1.start));
    }
}
