//! The buffers that a forward pass writes, sized once for the largest step.
use crate::error::Result;
use crate::experts::ExpertPlan;
use crate::mlp::MlpRows;
use crate::moe::MixtureRows;
use crate::plan::Plan;
use planish_tensor::{Backend, DType, Grid, Q8, Q8Rows, Tensor};

/// Scratch memory of one forward pass at a time.
pub struct Workspace<B: Backend> {
    /// `[t, h]` the residual stream.
    pub x: Tensor<B>,
    /// `[t, h]` what the last half-block adds to `x`, if `pending`.
    pub delta: Tensor<B>,
    /// Whether `delta` still has to be added.
    pub pending: bool,
    /// `[t, h]` output of a norm.
    pub normed: Tensor<B>,
    /// `[t, (nq + 2 nkv) d]`.
    pub qkv: Tensor<B>,
    /// `[t, nq d]`.
    pub attended: Tensor<B>,
    /// Of the layers with one MLP, if there are any.
    pub mlp: Option<MlpRows<B>>,
    /// Of the layers with a mixture, if there are any.
    pub mixture: Option<MixtureRows<B>>,
    /// `[t, h]` quantized.
    pub normed_q8: Q8Rows<B>,
    /// `[t, nq d]` quantized.
    pub attended_q8: Q8Rows<B>,
    /// `[r, h]` hidden states whose logits are wanted.
    pub selected: Tensor<B>,
    /// `[r, nq d]` what attention gave for them.
    selected_attended: Tensor<B>,
    /// Whether those two have changed places with `x` and `attended`.
    narrowed: bool,
    /// `[r, h]` the same after the final norm.
    pub selected_normed: Tensor<B>,
    /// `[r, h]` the same quantized.
    pub selected_q8: Q8Rows<B>,
    /// `[r, v]` F32.
    pub logits: Tensor<B>,
}

impl<B: Backend> Workspace<B> {
    /// Room for `tokens` tokens and `rows` rows of logits in one step.
    pub fn new(backend: &B, plan: &Plan, tokens: usize, rows: usize) -> Result<Workspace<B>> {
        let act = backend.activation_dtype();
        let tensor = |rows, cols| backend.alloc(act, rows, cols);
        let grids = plan.grids();
        let q8 = |rows, cols| backend.alloc_q8_for(Q8::Int8, &grids, rows, cols);
        let (h, attended) = (plan.hidden, plan.nq * plan.d);
        Ok(Workspace {
            x: tensor(tokens, h)?,
            delta: tensor(tokens, h)?,
            pending: false,
            normed: tensor(tokens, h)?,
            qkv: tensor(tokens, plan.attention(0).qkv_width())?,
            attended: tensor(tokens, attended)?,
            mlp: plan
                .has_dense_layers()
                .then(|| MlpRows::new(backend, &grids, tokens, plan.ffn, plan.arch.gated))
                .transpose()?,
            mixture: mixtures(plan).map(|e| MixtureRows::new(backend, plan, e, tokens)).transpose()?,
            normed_q8: q8(tokens, h)?,
            attended_q8: q8(tokens, attended)?,
            selected: tensor(rows, h)?,
            selected_attended: tensor(rows, attended)?,
            narrowed: false,
            selected_normed: tensor(rows, h)?,
            selected_q8: q8(rows, h)?,
            logits: backend.alloc(DType::F32, rows, plan.vocab)?,
        })
    }

    /// Bytes that [`Workspace::new`] takes at most.
    pub fn bytes(plan: &Plan, tokens: usize, rows: usize) -> usize {
        let (h, attended, qkv) = (plan.hidden, plan.nq * plan.d, plan.attention(0).qkv_width());
        let (floats, grids) = (3 * h + qkv + attended, plan.grids());
        let codes = code_bytes(&grids, h) + code_bytes(&grids, attended);
        let mlp = if plan.has_dense_layers() { MlpRows::<B>::token_bytes(&grids, plan.ffn) } else { 0 };
        let mixture = mixtures(plan).map_or(0, |e| MixtureRows::<B>::token_bytes(plan, e));
        let row = size_of::<f32>() * (2 * h + attended + plan.vocab) + code_bytes(&grids, h);
        tokens * (size_of::<f32>() * floats + codes + mlp + mixture) + rows * row
    }

    /// Prepares for a step of `tokens` tokens and `rows` rows of logits.
    pub fn prepare(&mut self, tokens: usize, rows: usize) {
        self.set_tokens(tokens);
        self.logits.set_rows(rows);
    }

    /// Prepares for `tokens` tokens.
    pub fn set_tokens(&mut self, tokens: usize) {
        self.widen();
        self.set_rows(tokens);
        self.pending = false;
    }

    /// Leaves in `x` and `attended` the batch's logit rows alone, so that whatever follows runs on them; until
    /// [`Workspace::widen`].
    pub(crate) fn narrow(&mut self, backend: &B, batch: &B::Batch, rows: usize) -> Result<()> {
        for (from, to) in [(&self.x, &mut self.selected), (&self.attended, &mut self.selected_attended)] {
            to.set_rows(rows);
            backend.gather_rows(from, batch, to)?;
        }
        self.swap_selected();
        self.narrowed = true;
        self.set_rows(rows);
        Ok(())
    }

    /// Puts `x` and `attended` back. True if they had been narrowed: `selected` has what `x` had then.
    pub(crate) fn widen(&mut self) -> bool {
        let narrowed = std::mem::take(&mut self.narrowed);
        if narrowed {
            self.swap_selected();
        }
        narrowed
    }

    fn swap_selected(&mut self) {
        std::mem::swap(&mut self.x, &mut self.selected);
        std::mem::swap(&mut self.attended, &mut self.selected_attended);
    }

    fn set_rows(&mut self, tokens: usize) {
        let tensors = [&mut self.x, &mut self.delta, &mut self.normed, &mut self.qkv, &mut self.attended];
        tensors.into_iter().for_each(|t| t.set_rows(tokens));
        for q in [&mut self.normed_q8, &mut self.attended_q8] {
            q.set_rows(tokens);
        }
        if let Some(rows) = &mut self.mlp {
            rows.set_rows(tokens);
        }
        if let Some(rows) = &mut self.mixture {
            rows.set_rows(tokens);
        }
    }

    /// Tokens that fit.
    pub fn max_tokens(&self) -> usize {
        self.x.capacity
    }

    /// Rows of logits that fit.
    pub fn max_rows(&self) -> usize {
        self.logits.capacity
    }
}

/// The experts of a model that has layers with a mixture.
fn mixtures(plan: &Plan) -> Option<&ExpertPlan> {
    plan.experts.as_ref().filter(|experts| experts.layers.contains(&true))
}

/// Bytes of a token of width `k` as codes on any of these grids, at most: codes, scales and a zero point.
pub(crate) fn code_bytes(grids: &[Grid], k: usize) -> usize {
    k + size_of::<f32>() * (grids.iter().map(|grid| grid.groups(k)).max().unwrap_or(1) + 1)
}
