//! The one forward pass: embedding, blocks, final norm, output projection.
use crate::arch::Role;
use crate::block::{Block, Step};
use crate::error::{Error, Result};
use crate::kv::KvPool;
use crate::linear::Linear;
use crate::norm::Norm;
use crate::plan::Plan;
use crate::quantized::read_kv_scales;
use crate::rope;
use crate::weights::{HostBlock, HostNorm, read, read_norm, read_weight};
use crate::workspace::Workspace;
use planish_checkpoint::source::TensorSource;
use planish_tensor::{Backend, Batch, FloatMath, Q8, RopeTable, Tensor};

/// The parts of a model outside its blocks.
pub struct Ends<B: Backend> {
    embed: Tensor<B>,
    embed_scale: f32,
    /// Table of learned positions, and the row of position 0.
    positions: Option<(Tensor<B>, usize)>,
    norm: Norm<B>,
    head: Linear<B>,
    logit_cap: Option<f32>,
}

impl<B: Backend> Ends<B> {
    /// Reads embedding, final norm and output projection; a float projection is rounded to INT8 if `int8_head`.
    pub fn load(backend: &B, plan: &Plan, source: &dyn TensorSource, int8_head: bool) -> Result<Ends<B>> {
        let names = plan.arch.names;
        let embed = read(source, names.embed, &[plan.vocab, plan.hidden])?;
        let norm = scaled(read_norm(plan, source, names.norm, plan.hidden)?, plan.logit_scale);
        let head = match plan.tied && !source.contains(&plan.head_tensor()) {
            true => planish_tensor::LinearPart::float(embed.clone(), None),
            false => read_weight(plan, source, names.head, plan.vocab, plan.hidden, None)?,
        };
        let head = planish_tensor::LinearPart { grid: plan.head_grid(head.grid), ..head };
        let positions = |(name, offset): (&str, usize)| {
            let table = read(source, name, &[plan.max_positions + offset, plan.hidden])?;
            Ok::<_, Error>((backend.load(&table)?, offset))
        };
        Ok(Ends {
            embed: backend.load(&embed)?,
            embed_scale: plan.embed_scale,
            positions: names.positions.map(positions).transpose()?,
            norm: Norm::load(backend, &norm, plan.eps)?,
            head: match int8_head && head.scales.is_none() {
                true => Linear::rounded(backend, head, Q8::Int8)?,
                false => Linear::new(backend, &[head])?,
            },
            logit_cap: plan.logit_cap,
        })
    }

    /// Fills `ws.x` with the batch's embeddings.
    pub fn embed(&self, backend: &B, batch: &B::Batch, ws: &mut Workspace<B>) -> Result<()> {
        backend.embed(&self.embed, batch, self.embed_scale, &mut ws.x)?;
        match &self.positions {
            Some((table, offset)) => Ok(backend.add_positions(table, batch, *offset, &mut ws.x)?),
            None => Ok(()),
        }
    }

    /// What the output projection reads of `ws.x`, into `ws.normed`.
    pub fn normalize(&self, backend: &B, ws: &mut Workspace<B>) -> Result<()> {
        self.norm.apply(backend, &ws.x, &mut ws.normed)
    }

    /// Log-probabilities of hidden states `[rows, h]` given as f32, into `ws.logits[rows, v]`.
    pub fn log_probs_of(&self, backend: &B, math: FloatMath, hidden: &[f32], ws: &mut Workspace<B>) -> Result<()> {
        let rows = hidden.len() / ws.selected.cols;
        ws.selected.set_rows(rows);
        backend.upload(&planish_tensor::host::encode_f32(ws.selected.dtype, hidden)?, &mut ws.selected)?;
        self.project(backend, math, rows, ws)?;
        Ok(backend.log_softmax(&mut ws.logits)?)
    }

    /// Logits of the batch's logit rows, into `ws.logits[rows, v]`.
    pub fn logits(
        &self,
        backend: &B,
        math: FloatMath,
        batch: &B::Batch,
        rows: usize,
        ws: &mut Workspace<B>,
    ) -> Result<()> {
        if ws.pending {
            backend.add(&mut ws.x, &ws.delta)?;
            ws.pending = false;
        }
        if !ws.widen() {
            ws.selected.set_rows(rows);
            backend.gather_rows(&ws.x, batch, &mut ws.selected)?;
        }
        self.project(backend, math, rows, ws)
    }

    fn project(&self, backend: &B, math: FloatMath, rows: usize, ws: &mut Workspace<B>) -> Result<()> {
        ws.selected_normed.set_rows(rows);
        ws.logits.set_rows(rows);
        ws.selected_q8.set_rows(rows);
        let (x, normed, q) = (&mut ws.selected, &mut ws.selected_normed, &mut ws.selected_q8);
        match self.head.q8() {
            Some(kind) => {
                q.become_input(kind);
                self.norm.add_apply_quantize(backend, x, None, normed, q)?;
            }
            None => self.norm.apply(backend, x, normed)?,
        }
        self.head.apply(backend, math, normed, q, &mut ws.logits)?;
        match self.logit_cap {
            Some(cap) => Ok(backend.softcap(&mut ws.logits, cap)?),
            None => Ok(()),
        }
    }

    /// Bytes that one pass over the output projection reads.
    pub fn head_bytes(&self) -> usize {
        self.head.shape().bytes
    }
}

/// A norm whose outputs are larger by this factor: what makes logits of them is linear.
fn scaled(mut norm: HostNorm, factor: f32) -> HostNorm {
    norm.weight.iter_mut().chain(norm.bias.iter_mut().flatten()).for_each(|w| *w *= factor);
    norm
}

/// How a model is loaded.
#[derive(Clone, Copy, Debug)]
pub struct LoadOptions {
    /// How float products are computed.
    pub math: FloatMath,
    /// Longest sequence that it will see.
    pub positions: usize,
    /// Round a float output projection to INT8, one scale for each row: half the bytes of a bf16 one.
    pub int8_head: bool,
}

/// A whole model on a device.
pub struct Decoder<B: Backend> {
    /// Its sizes.
    pub plan: Plan,
    /// How float products are computed.
    pub math: FloatMath,
    ends: Ends<B>,
    blocks: Vec<Block<B>>,
    ropes: Vec<RopeTable<B>>,
    kv_scales: Vec<[f32; 2]>,
}

impl<B: Backend> Decoder<B> {
    /// Reads and packs everything.
    pub fn load(backend: &B, plan: Plan, source: &dyn TensorSource, options: &LoadOptions) -> Result<Decoder<B>> {
        // The largest tensors first, while little else is in memory.
        let ends = Ends::load(backend, &plan, source, options.int8_head)?;
        for name in [plan.arch.names.embed, plan.arch.names.head] {
            source.release(name);
            source.release(&format!("{name}.weight"));
        }
        let mut blocks = Vec::with_capacity(plan.layers);
        for layer in 0..plan.layers {
            let host = HostBlock::read(&plan, source, layer)?;
            blocks.push(Block::load(backend, &plan, layer, &host)?);
            drop(host);
            release_block(&plan, source, layer);
        }
        let ropes = rope::tables(backend, &plan, options.positions)?;
        let kv_scales = kv_scales(&plan, source)?;
        Ok(Decoder { plan, math: options.math, ends, blocks, ropes, kv_scales })
    }

    /// Another longest sequence than the model was loaded for, before anything has run: rules of rotation may depend on it.
    pub fn set_positions(&mut self, backend: &B, positions: usize) -> Result<()> {
        // The tables may be large: the old ones go first.
        self.ropes.clear();
        self.ropes = rope::tables(backend, &self.plan, positions)?;
        Ok(())
    }

    /// Gives a pool whose codes are of the type that the checkpoint calibrated scales for those scales.
    pub fn fix_kv_scales(&self, kv: &mut KvPool<B>) {
        let dtype = self.plan.scheme.as_ref().and_then(|s| s.kv_cache()).map(|kind| kind.dtype());
        for (layer, &scales) in kv.layers.iter_mut().zip(&self.kv_scales) {
            layer.fixed = (Some(layer.k.dtype) == dtype).then_some(scales);
        }
    }

    /// Runs one step; afterwards `ws.logits` holds the rows that `batch.logit_rows` names.
    pub fn forward(&self, backend: &B, batch: &Batch, kv: &mut KvPool<B>, ws: &mut Workspace<B>) -> Result<()> {
        let on_device = backend.upload_batch(batch, kv.pages)?;
        ws.prepare(batch.t(), batch.logit_rows.len());
        self.queue(backend, &on_device, kv, ws)
    }

    /// Queues the operations of a step for which `ws` is prepared.
    pub fn queue(&self, backend: &B, batch: &B::Batch, kv: &mut KvPool<B>, ws: &mut Workspace<B>) -> Result<()> {
        ws.pending = false;
        self.ends.embed(backend, batch, ws)?;
        let mut step = Step { backend, math: self.math, batch, ropes: &self.ropes, wanted: None };
        let mut blocks = self.blocks.iter().zip(&mut kv.layers);
        let last = blocks.next_back();
        for (block, kv) in blocks {
            block.run(&step, kv, ws)?;
        }
        let rows = ws.logits.rows;
        step.wanted = (rows < ws.x.rows).then_some(rows);
        match last {
            Some((block, kv)) if rows == 0 => block.store(&step, kv, ws)?,
            Some((block, kv)) => block.run(&step, kv, ws)?,
            None => {}
        }
        match rows {
            0 => Ok(()),
            rows => self.ends.logits(backend, self.math, batch, rows, ws),
        }
    }

    /// Whether a step only queues work on this back end, and so may be recorded: a mixture's routes may pass through
    /// the host.
    pub fn queues_only(&self, backend: &B) -> bool {
        self.plan.experts.is_none() || backend.mixer().is_some_and(|mixer| mixer.queues())
    }

    /// Bytes of weights that one decode step reads.
    pub fn step_bytes(&self) -> usize {
        self.blocks.iter().map(Block::weight_bytes).sum::<usize>() + self.ends.head_bytes()
    }
}

/// Each layer's scales of keys and values, if the checkpoint has such.
fn kv_scales(plan: &Plan, source: &dyn TensorSource) -> Result<Vec<[f32; 2]>> {
    if plan.scheme.as_ref().is_none_or(|s| s.kv_cache().is_none()) {
        return Ok(Vec::new());
    }
    let name = |layer, role| plan.linear_name(layer, role);
    (0..plan.layers).map(|i| read_kv_scales(source, &name(i, Role::K), &name(i, Role::V))).collect()
}

/// Tells the source that a block's pages are not needed soon.
pub fn release_block(plan: &Plan, source: &dyn TensorSource, layer: usize) {
    for module in plan.stored(layer) {
        source.release(&format!("{}.weight", module.name));
    }
}
