//! The buffers that a forward pass writes, sized once for the largest step.
use crate::error::Result;
use crate::plan::Plan;
use planish_tensor::{Backend, DType, Q8, Q8Rows, Tensor};

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
    /// `[t, 2f]`.
    pub gate_up: Tensor<B>,
    /// `[t, f]`.
    pub inner: Tensor<B>,
    /// `[t, h]` quantized.
    pub normed_q8: Q8Rows<B>,
    /// `[t, nq d]` quantized.
    pub attended_q8: Q8Rows<B>,
    /// `[t, f]` quantized.
    pub inner_q8: Q8Rows<B>,
    /// `[r, h]` hidden states whose logits are wanted.
    pub selected: Tensor<B>,
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
        let q8 = |rows, cols| backend.alloc_q8(Q8::Int8, rows, cols);
        let (h, attended) = (plan.hidden, plan.nq * plan.d);
        Ok(Workspace {
            x: tensor(tokens, h)?,
            delta: tensor(tokens, h)?,
            pending: false,
            normed: tensor(tokens, h)?,
            qkv: tensor(tokens, plan.attention(0).qkv_width())?,
            attended: tensor(tokens, attended)?,
            gate_up: tensor(tokens, 2 * plan.ffn)?,
            inner: tensor(tokens, plan.ffn)?,
            normed_q8: q8(tokens, h)?,
            attended_q8: q8(tokens, attended)?,
            inner_q8: q8(tokens, plan.ffn)?,
            selected: tensor(rows, h)?,
            selected_normed: tensor(rows, h)?,
            selected_q8: q8(rows, h)?,
            logits: backend.alloc(DType::F32, rows, plan.vocab)?,
        })
    }

    /// Bytes that [`Workspace::new`] takes at most.
    pub fn bytes(plan: &Plan, tokens: usize, rows: usize) -> usize {
        let (h, f, attended, qkv) = (plan.hidden, plan.ffn, plan.nq * plan.d, plan.attention(0).qkv_width());
        let floats = 3 * h + qkv + attended + 3 * f;
        let codes = h + attended + f + 3 * size_of::<f32>();
        let row = size_of::<f32>() * (2 * h + plan.vocab + 1) + h;
        tokens * (size_of::<f32>() * floats + codes) + rows * row
    }

    /// Prepares for a step of `tokens` tokens and `rows` rows of logits.
    pub fn prepare(&mut self, tokens: usize, rows: usize) {
        self.set_tokens(tokens);
        self.logits.set_rows(rows);
    }

    /// Prepares for `tokens` tokens.
    pub fn set_tokens(&mut self, tokens: usize) {
        let tensors = [
            &mut self.x,
            &mut self.delta,
            &mut self.normed,
            &mut self.qkv,
            &mut self.attended,
            &mut self.gate_up,
            &mut self.inner,
        ];
        tensors.into_iter().for_each(|t| t.set_rows(tokens));
        for q in [&mut self.normed_q8, &mut self.attended_q8, &mut self.inner_q8] {
            q.set_rows(tokens);
        }
        self.pending = false;
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
