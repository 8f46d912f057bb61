//! One transformer block: norm, attention, norm, gated MLP, on packed tokens.
use crate::arch::Input;
use crate::error::Result;
use crate::linear::Linear;
use crate::plan::Plan;
use crate::tap::Tap;
use crate::weights::HostBlock;
use crate::workspace::Workspace;
use planish_tensor::{
    Activation, AttentionShape, Backend, FloatMath, HostTensor, KvLayer, Q8, Q8Rows, RopeTable, Tensor,
};

/// A block's weights on a device.
pub struct Block<B: Backend> {
    attention_norm: Tensor<B>,
    qkv: Linear<B>,
    o: Linear<B>,
    mlp_norm: Tensor<B>,
    gate_up: Linear<B>,
    down: Linear<B>,
    attention: AttentionShape,
    activation: Activation,
    eps: f32,
}

/// What a block needs besides its weights and buffers.
pub struct Step<'a, B: Backend> {
    /// The device.
    pub backend: &'a B,
    /// How float products are computed.
    pub math: FloatMath,
    /// The step's arrays.
    pub batch: &'a B::Batch,
    /// Rotary angles.
    pub rope: &'a RopeTable<B>,
}

impl<B: Backend> Block<B> {
    /// Packs block `layer`.
    pub fn load(backend: &B, plan: &Plan, layer: usize, host: &HostBlock) -> Result<Block<B>> {
        let linear = |input| Linear::of_input(backend, host, input);
        Block::of(backend, plan, layer, [&host.attention_norm, &host.mlp_norm], linear)
    }

    /// Block `layer` of its norms, `[h]` each as applied, and a linear for each input.
    pub fn of(
        backend: &B,
        plan: &Plan,
        layer: usize,
        norms: [&[f32]; 2],
        linear: impl Fn(Input) -> Result<Linear<B>>,
    ) -> Result<Block<B>> {
        let norm = |w: &[f32]| backend.load(&HostTensor::from_f32(vec![w.len()], w)?);
        Ok(Block {
            attention_norm: norm(norms[0])?,
            qkv: linear(Input::AttentionNorm)?,
            o: linear(Input::AttentionOutput)?,
            mlp_norm: norm(norms[1])?,
            gate_up: linear(Input::MlpNorm)?,
            down: linear(Input::MlpInner)?,
            attention: plan.attention(layer),
            activation: plan.activation,
            eps: plan.eps,
        })
    }

    /// Bytes that one pass over the weights reads.
    pub fn weight_bytes(&self) -> usize {
        [&self.qkv, &self.o, &self.gate_up, &self.down].iter().map(|l| l.shape().bytes).sum()
    }

    /// Runs the block on `ws.x` (and a pending `ws.delta`); leaves the MLP's output pending.
    pub fn run(&self, step: &Step<'_, B>, kv: &mut KvLayer<B>, ws: &mut Workspace<B>) -> Result<()> {
        self.attend(step, kv, ws, &mut None)?;
        self.mlp(step, ws, &mut None)?;
        self.down.apply(step.backend, step.math, &ws.inner, &ws.inner_q8, &mut ws.delta)?;
        ws.pending = true;
        Ok(())
    }

    /// Runs the block up to the input of its last linear, and shows every input to the tap.
    pub fn observe(
        &self,
        step: &Step<'_, B>,
        kv: &mut KvLayer<B>,
        ws: &mut Workspace<B>,
        tap: &mut dyn Tap<B>,
    ) -> Result<()> {
        let mut tap = Some(tap);
        self.attend(step, kv, ws, &mut tap)?;
        self.mlp(step, ws, &mut tap)
    }

    fn attend(
        &self,
        step: &Step<'_, B>,
        kv: &mut KvLayer<B>,
        ws: &mut Workspace<B>,
        tap: &mut Option<&mut dyn Tap<B>>,
    ) -> Result<()> {
        let b = step.backend;
        normalize(step, ws, &self.attention_norm, self.eps, self.qkv.q8(), Input::AttentionNorm, tap)?;
        self.qkv.apply(b, step.math, &ws.normed, &ws.normed_q8, &mut ws.qkv)?;
        b.rope_store_kv(&mut ws.qkv, Some(step.rope), &self.attention, step.batch, kv)?;
        match (self.o.q8(), &tap) {
            (Some(kind), None) => {
                ws.attended_q8.codes.dtype = kind.dtype();
                let (scratch, out) = (&mut ws.attended, &mut ws.attended_q8);
                b.paged_attention_quantize(&ws.qkv, &self.attention, step.batch, kv, scratch, out)?;
            }
            (kind, _) => {
                b.paged_attention(&ws.qkv, &self.attention, step.batch, kv, &mut ws.attended)?;
                observe(b, Input::AttentionOutput, &ws.attended, kind, &mut ws.attended_q8, tap)?;
            }
        }
        self.o.apply(b, step.math, &ws.attended, &ws.attended_q8, &mut ws.delta)?;
        ws.pending = true;
        Ok(())
    }

    fn mlp(&self, step: &Step<'_, B>, ws: &mut Workspace<B>, tap: &mut Option<&mut dyn Tap<B>>) -> Result<()> {
        let b = step.backend;
        normalize(step, ws, &self.mlp_norm, self.eps, self.gate_up.q8(), Input::MlpNorm, tap)?;
        if let (Some(_), Some(kind), None) = (self.gate_up.q8(), self.down.q8(), &tap) {
            ws.inner_q8.codes.dtype = kind.dtype();
            let (w, scratch, inner) = (self.gate_up.weight(), &mut ws.gate_up, &mut ws.inner);
            b.gemm_gated_quantize(&ws.normed_q8, w, self.activation, scratch, inner, &mut ws.inner_q8)?;
            return Ok(());
        }
        self.gate_up.apply(b, step.math, &ws.normed, &ws.normed_q8, &mut ws.gate_up)?;
        match (self.down.q8(), &tap) {
            (Some(kind), None) => {
                ws.inner_q8.codes.dtype = kind.dtype();
                b.gated_quantize(&ws.gate_up, self.activation, &mut ws.inner, &mut ws.inner_q8)?;
            }
            (kind, _) => {
                b.gated(&ws.gate_up, self.activation, &mut ws.inner)?;
                observe(b, Input::MlpInner, &ws.inner, kind, &mut ws.inner_q8, tap)?;
            }
        }
        Ok(())
    }
}

/// Adds what is pending, normalizes, and quantizes if the reader wants codes.
fn normalize<B: Backend>(
    step: &Step<'_, B>,
    ws: &mut Workspace<B>,
    weight: &Tensor<B>,
    eps: f32,
    kind: Option<Q8>,
    input: Input,
    tap: &mut Option<&mut dyn Tap<B>>,
) -> Result<()> {
    let b = step.backend;
    let delta = ws.pending.then_some(&ws.delta);
    ws.pending = false;
    match (kind, &tap) {
        (Some(kind), None) => {
            ws.normed_q8.codes.dtype = kind.dtype();
            b.add_rms_norm_quantize(&mut ws.x, delta, weight, eps, &mut ws.normed, &mut ws.normed_q8)?;
            Ok(())
        }
        (kind, _) => {
            b.add_rms_norm(&mut ws.x, delta, weight, eps, &mut ws.normed)?;
            observe(b, input, &ws.normed, kind, &mut ws.normed_q8, tap)
        }
    }
}

/// Shows an input to the tap, then quantizes it if the reader wants codes.
fn observe<B: Backend>(
    backend: &B,
    input: Input,
    x: &Tensor<B>,
    kind: Option<Q8>,
    q: &mut Q8Rows<B>,
    tap: &mut Option<&mut dyn Tap<B>>,
) -> Result<()> {
    if let Some(tap) = tap {
        tap.observe(backend, input, x)?;
    }
    if let Some(kind) = kind {
        q.codes.dtype = kind.dtype();
        backend.quantize_rows(x, q)?;
    }
    Ok(())
}
