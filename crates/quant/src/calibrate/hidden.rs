//! Running a block over hidden states: those of the calibration in chunks, those of the checks at once.
use super::observe::read;
use super::run::Tell;
use super::states::{Chunk, States, block_bytes, groups};
use crate::error::Result;
use planish_model::block::{Block, Step};
use planish_model::tap::Tap;
use planish_model::{Ends, KvPool, Plan, Workspace};
use planish_tensor::host::encode_f32;
use planish_tensor::q8::absmax;
use planish_tensor::{AttentionShape, Backend, Batch, DType, FloatMath, RopeTable, Solver, Tensor};

/// Tokens that go through a block at once, unless the device prefers another number (one sequence may be longer).
const CHUNK_TOKENS: usize = 1024;

/// `[t, h]` hidden states of one sequence, on the host.
#[derive(Default)]
pub struct Hidden {
    /// The states.
    pub values: Vec<f32>,
}

/// The device side of a run over hidden states: buffers for one chunk, and angles.
pub struct Lane<'a, B: Backend> {
    /// The device.
    pub backend: &'a B,
    /// What it can do for the quantizer.
    pub solver: Option<&'a dyn Solver<B>>,
    plan: &'a Plan,
    kv: KvPool<B>,
    /// For the calibration, where it is another one.
    narrow_kv: Option<KvPool<B>>,
    page_size: usize,
    chunk_tokens: usize,
    /// Buffers.
    pub ws: Workspace<B>,
    ropes: Vec<RopeTable<B>>,
}

impl<'a, B: Backend> Lane<'a, B> {
    /// Buffers for calibration sequences of these lengths, one of `held_back` tokens, and `rows` rows of logits.
    /// Unless `keys` says otherwise, a device that solves keeps the calibration's keys in bf16, as its attention likes
    /// them.
    pub fn new(
        backend: &'a B,
        solver: Option<&'a dyn Solver<B>>,
        plan: &'a Plan,
        lengths: &[usize],
        held_back: usize,
        rows: usize,
        keys: Option<DType>,
    ) -> Result<Lane<'a, B>> {
        let chunk_tokens = solver.map_or(CHUNK_TOKENS, |s| s.pass_tokens());
        let page_size = backend.preferences().page_size;
        let groups = groups(lengths, chunk_tokens);
        let longest = lengths.iter().copied().chain([held_back]).max().unwrap_or(1);
        let pages = |group: &Vec<usize>| group.iter().map(|n| n.div_ceil(page_size)).sum::<usize>();
        let tokens = groups.iter().map(|g| g.iter().sum()).chain([held_back]).max().unwrap_or(1);
        let of_check = held_back.div_ceil(page_size);
        let of_chunk = groups.iter().map(pages).max().unwrap_or(0);
        let pool = |pages: usize, dtype| KvPool::new(backend, plan, 1, pages.max(1), page_size, dtype);
        let narrow = keys.or(solver.map(|_| DType::BF16)).filter(|&dtype| dtype != DType::F32);
        Ok(Lane {
            backend,
            solver,
            plan,
            kv: pool(if narrow.is_some() { of_check } else { of_check.max(of_chunk) }, DType::F32)?,
            narrow_kv: narrow.map(|dtype| pool(of_chunk, dtype)).transpose()?,
            page_size,
            chunk_tokens,
            ws: Workspace::new(backend, plan, tokens, rows)?,
            ropes: planish_model::rope::tables(backend, plan, longest)?,
        })
    }

    /// Embeds the calibration sequences.
    pub fn embed_all(&mut self, ends: &Ends<B>, samples: &[Vec<u32>]) -> Result<States<B>> {
        let lengths: Vec<usize> = samples.iter().map(Vec::len).collect();
        let (mut samples, mut chunks) = (samples.iter(), Vec::new());
        let reserve = block_bytes(self.plan);
        for group in groups(&lengths, self.chunk_tokens) {
            let tokens = samples.by_ref().take(group.len()).flatten().copied().collect();
            self.embed_group(ends, &group, tokens)?;
            chunks.push(Chunk::of(self.backend, self.solver, reserve, group, &self.ws.x)?);
        }
        Ok(States { chunks })
    }

    /// Embeds one sequence.
    pub fn embed(&mut self, ends: &Ends<B>, tokens: &[u32]) -> Result<Hidden> {
        self.embed_group(ends, &[tokens.len()], tokens.to_vec())?;
        Ok(Hidden { values: read(self.backend, &self.ws.x)? })
    }

    fn embed_group(&mut self, ends: &Ends<B>, lengths: &[usize], tokens: Vec<u32>) -> Result<()> {
        let batch = Batch { tokens, ..Batch::fresh(lengths, self.page_size) };
        let pages = self.narrow_kv.as_ref().map_or(0, |kv| kv.pages).max(self.kv.pages);
        let on_device = self.backend.upload_batch(&batch, pages)?;
        self.ws.set_tokens(batch.t());
        Ok(ends.embed(self.backend, &on_device, &mut self.ws)?)
    }

    /// States given as values, in chunks.
    pub fn place(&mut self, lengths: &[usize], mut values: impl FnMut(usize) -> Result<Vec<f32>>) -> Result<States<B>> {
        let (h, reserve, mut chunks) = (self.plan.hidden, block_bytes(self.plan), Vec::new());
        for group in groups(lengths, self.chunk_tokens) {
            let tokens = group.iter().sum::<usize>();
            let values = values(tokens * h)?;
            if self.solver.is_none() {
                chunks.push(Chunk::on_host(group, values));
                continue;
            }
            self.ws.set_tokens(tokens);
            self.backend.upload(&encode_f32(self.ws.x.dtype, &values)?, &mut self.ws.x)?;
            chunks.push(Chunk::of(self.backend, self.solver, reserve, group, &self.ws.x)?);
        }
        Ok(States { chunks })
    }

    /// Runs a block over the calibration states, in place.
    pub fn advance_all(&mut self, block: &Block<B>, math: FloatMath, states: &mut States<B>) -> Result<()> {
        states.chunks.iter_mut().try_for_each(|chunk| self.advance_chunk(block, math, chunk))
    }

    /// The same; returns the largest magnitude of the keys (after rope, as they are stored) and of the values.
    pub fn advance_all_for_kv(
        &mut self,
        block: &Block<B>,
        math: FloatMath,
        states: &mut States<B>,
        shape: &AttentionShape,
    ) -> Result<[f32; 2]> {
        let mut columns = self.backend.alloc(DType::F32, 1, shape.qkv_width())?;
        for chunk in &mut states.chunks {
            self.advance_chunk(block, math, chunk)?;
            // The queries are turned where they stand, and so are the keys.
            self.backend.observe_columns(&self.ws.qkv, &mut columns)?;
        }
        let columns = read(self.backend, &columns)?;
        let (keys, values) = columns[shape.nq * shape.d..].split_at(shape.nkv * shape.d);
        Ok([absmax(keys), absmax(values)])
    }

    fn advance_chunk(&mut self, block: &Block<B>, math: FloatMath, chunk: &mut Chunk<B>) -> Result<()> {
        self.ws.set_tokens(chunk.tokens());
        chunk.load(self.backend, self.solver, &mut self.ws.x)?;
        self.run(block, math, &chunk.lengths, true, None)?;
        chunk.store(self.backend, self.solver, &self.ws.x)
    }

    /// Runs a block over the calibration states up to its last input, for what the tap sees; the states stay.
    pub fn observe_all(
        &mut self,
        block: &Block<B>,
        math: FloatMath,
        states: &States<B>,
        tap: &mut dyn Tap<B>,
        progress: Tell<'_, usize>,
    ) -> Result<()> {
        for chunk in &states.chunks {
            self.ws.set_tokens(chunk.tokens());
            chunk.load(self.backend, self.solver, &mut self.ws.x)?;
            self.run(block, math, &chunk.lengths, true, Some(&mut *tap))?;
            progress(chunk.tokens())?;
        }
        Ok(())
    }

    /// Shows what the output projection reads of the calibration states.
    pub fn observe_end(
        &mut self,
        ends: &Ends<B>,
        states: &States<B>,
        see: &mut dyn FnMut(&B, &Tensor<B>) -> Result<()>,
    ) -> Result<()> {
        for chunk in &states.chunks {
            self.ws.set_tokens(chunk.tokens());
            chunk.load(self.backend, self.solver, &mut self.ws.x)?;
            ends.normalize(self.backend, &mut self.ws)?;
            see(self.backend, &self.ws.normed)?;
        }
        Ok(())
    }

    /// Leaves in `ws.normed` what the output projection reads of these states `[t, h]`.
    pub fn normalize(&mut self, ends: &Ends<B>, states: &[f32]) -> Result<()> {
        self.ws.set_tokens(states.len() / self.plan.hidden);
        self.backend.upload(&encode_f32(self.ws.x.dtype, states)?, &mut self.ws.x)?;
        Ok(ends.normalize(self.backend, &mut self.ws)?)
    }

    /// Runs a block over one sequence, in place.
    pub fn advance(&mut self, block: &Block<B>, math: FloatMath, hidden: &mut Hidden) -> Result<()> {
        self.upload(hidden)?;
        self.run(block, math, &[self.ws.x.rows], false, None)?;
        hidden.values = read(self.backend, &self.ws.x)?;
        Ok(())
    }

    /// Runs a block over one sequence up to its last input, for what the tap sees; the states stay as they are.
    pub fn observe(&mut self, block: &Block<B>, math: FloatMath, hidden: &Hidden, tap: &mut dyn Tap<B>) -> Result<()> {
        self.upload(hidden)?;
        self.run(block, math, &[self.ws.x.rows], false, Some(tap))
    }

    fn upload(&mut self, hidden: &Hidden) -> Result<()> {
        self.ws.set_tokens(hidden.values.len() / self.plan.hidden);
        Ok(self.backend.upload(&encode_f32(self.ws.x.dtype, &hidden.values)?, &mut self.ws.x)?)
    }

    /// Runs a block over `ws.x`: without a tap to its end, the last sum included.
    fn run(
        &mut self,
        block: &Block<B>,
        math: FloatMath,
        sequences: &[usize],
        calibration: bool,
        tap: Option<&mut dyn Tap<B>>,
    ) -> Result<()> {
        let pool = match &mut self.narrow_kv {
            Some(narrow) if calibration => narrow,
            _ => &mut self.kv,
        };
        let batch = self.backend.upload_batch(&Batch::fresh(sequences, self.page_size), pool.pages)?;
        let step = Step { backend: self.backend, math, batch: &batch, ropes: &self.ropes, wanted: None };
        let kv = &mut pool.layers[0];
        match tap {
            Some(tap) => block.observe(&step, kv, &mut self.ws, tap)?,
            None => {
                block.run(&step, kv, &mut self.ws)?;
                if self.ws.pending {
                    self.backend.add(&mut self.ws.x, &self.ws.delta)?;
                    self.ws.pending = false;
                }
            }
        }
        Ok(())
    }
}
