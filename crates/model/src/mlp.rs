//! An MLP: `down(act(gate(x)) · up(x))`, or `down(act(up(x)))`.
use crate::arch::{Input, Mlp, Role};
use crate::block::{Pack, Step, observe};
use crate::error::Result;
use crate::linear::{Linear, Residual};
use crate::plan::Plan;
use crate::tap::Tap;
use crate::workspace::code_bytes;
use planish_tensor::{Activation, Backend, Grid, InputCodes, Q8, Q8Rows, Tensor};

/// Its weights on a device.
pub struct FeedForward<B: Backend> {
    /// Gate and up, or up alone.
    up: Linear<B>,
    down: Linear<B>,
    activation: Activation,
    gated: bool,
    mlp: Mlp,
}

/// The buffers between its products.
pub struct MlpRows<B: Backend> {
    /// `[t, 2f]` gate and up, or `[t, f]` up alone.
    pub up: Tensor<B>,
    /// `[t, f]`.
    pub inner: Tensor<B>,
    /// `[t, f]` quantized.
    pub inner_q8: Q8Rows<B>,
}

impl<B: Backend> MlpRows<B> {
    /// Room for `tokens` tokens and an MLP of width `f`, with a gate or without, with inputs on these grids.
    pub fn new(backend: &B, grids: &[Grid], tokens: usize, f: usize, gated: bool) -> Result<MlpRows<B>> {
        let act = backend.activation_dtype();
        Ok(MlpRows {
            up: backend.alloc(act, tokens, if gated { 2 * f } else { f })?,
            inner: backend.alloc(act, tokens, f)?,
            inner_q8: backend.alloc_q8_for(Q8::Int8, grids, tokens, f)?,
        })
    }

    /// Bytes of one token at most.
    pub fn token_bytes(grids: &[Grid], f: usize) -> usize {
        size_of::<f32>() * 3 * f + code_bytes(grids, f)
    }

    /// Prepares for `tokens` tokens.
    pub fn set_rows(&mut self, tokens: usize) {
        self.up.set_rows(tokens);
        self.inner.set_rows(tokens);
        self.inner_q8.set_rows(tokens);
    }
}

impl<B: Backend> FeedForward<B> {
    /// Packs the linears of an MLP.
    pub fn load(pack: &impl Pack<B>, mlp: Mlp, plan: &Plan) -> Result<FeedForward<B>> {
        let (activation, gated) = (plan.activation, plan.arch.gated);
        let up = match gated {
            true => pack.linear(&[Role::Gate(mlp), Role::Up(mlp)])?,
            false => pack.linear(&[Role::Up(mlp)])?,
        };
        Ok(FeedForward { up, down: pack.linear(&[Role::Down(mlp)])?, activation, gated, mlp })
    }

    /// The codes that it reads, or `None` for float.
    pub fn q8(&self) -> Option<InputCodes> {
        self.up.q8()
    }

    /// Bytes that one pass over the weights reads.
    pub fn weight_bytes(&self) -> usize {
        self.up.shape().bytes + self.down.shape().bytes
    }

    /// From its input, as [`FeedForward::q8`] wants it, to the input of `down`.
    pub fn inner(
        &self,
        step: &Step<'_, B>,
        x: &Tensor<B>,
        q: &Q8Rows<B>,
        rows: &mut MlpRows<B>,
        tap: &mut Option<&mut dyn Tap<B>>,
    ) -> Result<()> {
        let b = step.backend;
        if let (true, Some(_), Some(kind), None) = (self.gated, self.up.q8(), self.down.q8(), &tap) {
            rows.inner_q8.become_input(kind);
            let (w, scratch, inner) = (self.up.weight(), &mut rows.up, &mut rows.inner);
            b.gemm_gated_quantize(q, w, self.activation, scratch, inner, &mut rows.inner_q8)?;
            return Ok(());
        }
        self.up.apply(b, step.math, x, q, &mut rows.up)?;
        match (self.down.q8(), &tap) {
            (Some(kind), None) => {
                rows.inner_q8.become_input(kind);
                let (up, inner, codes) = (&rows.up, &mut rows.inner, &mut rows.inner_q8);
                match self.gated {
                    true => b.gated_quantize(up, self.activation, inner, codes)?,
                    false => b.activate_quantize(up, self.activation, inner, codes)?,
                }
            }
            (kind, _) => {
                match self.gated {
                    true => b.gated(&rows.up, self.activation, &mut rows.inner)?,
                    false => b.activate(&rows.up, self.activation, &mut rows.inner)?,
                }
                observe(b, Input::MlpInner(self.mlp), &rows.inner, kind, &mut rows.inner_q8, tap)?;
            }
        }
        Ok(())
    }

    /// The last product.
    pub fn down(&self, step: &Step<'_, B>, rows: &MlpRows<B>, out: &mut Tensor<B>) -> Result<()> {
        self.down.apply(step.backend, step.math, &rows.inner, &rows.inner_q8, out)
    }

    /// The last product, to a residual. True if it is left pending.
    pub(crate) fn down_residual(&self, step: &Step<'_, B>, rows: &MlpRows<B>, to: Residual<'_, B>) -> Result<bool> {
        self.down.apply_residual(step.backend, step.math, &rows.inner, &rows.inner_q8, to)
    }
}
