//! One transformer block: norm, attention, norm, MLP or mixture of experts, on packed tokens.
use crate::arch::{Input, Mlp, Role};
use crate::error::Result;
use crate::linear::Linear;
use crate::mlp::Gated;
use crate::moe::Mixture;
use crate::plan::Plan;
use crate::tap::Tap;
use crate::weights::HostBlock;
use crate::workspace::Workspace;
use planish_tensor::mixture::Experts;
use planish_tensor::{AttentionShape, Backend, FloatMath, HostTensor, InputCodes, KvLayer, Q8Rows, RopeTable, Tensor};

/// A block's weights on a device.
pub struct Block<B: Backend> {
    attention_norm: Tensor<B>,
    qkv: Linear<B>,
    o: Linear<B>,
    mlp_norm: Tensor<B>,
    mlp: Half<B>,
    attention: AttentionShape,
    eps: f32,
}

/// The half after attention.
enum Half<B: Backend> {
    Dense(Gated<B>),
    Mixture(Mixture<B>),
}

/// What a block's linears are packed from.
pub trait Pack<B: Backend> {
    /// Linears with a common input, as one product.
    fn linear(&self, roles: &[Role]) -> Result<Linear<B>>;

    /// The experts of a mixture.
    fn experts(&self, numbers: &[u16]) -> Result<Experts<B>> {
        let mut experts = Experts { gate_up: Vec::new(), down: Vec::new(), grouped: false };
        for &e in numbers {
            let mlp = Mlp::Expert(e);
            experts.gate_up.push(self.linear(&[Role::Gate(mlp), Role::Up(mlp)])?.into_packed());
            experts.down.push(self.linear(&[Role::Down(mlp)])?.into_packed());
        }
        Ok(experts)
    }
}

/// A block in host memory.
struct FromHost<'a, B: Backend>(&'a B, &'a HostBlock);

impl<B: Backend> Pack<B> for FromHost<'_, B> {
    fn linear(&self, roles: &[Role]) -> Result<Linear<B>> {
        Linear::of(self.0, self.1, roles)
    }

    fn experts(&self, numbers: &[u16]) -> Result<Experts<B>> {
        crate::moe::of_parts(self.0, |role| self.1.linear(role).clone(), numbers)
    }
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
        Block::of(backend, plan, layer, [&host.attention_norm, &host.mlp_norm], &FromHost(backend, host))
    }

    /// Block `layer` of its norms, `[h]` each as applied, and what its linears are packed from.
    pub fn of(backend: &B, plan: &Plan, layer: usize, norms: [&[f32]; 2], pack: &impl Pack<B>) -> Result<Block<B>> {
        let norm = |w: &[f32]| backend.load(&HostTensor::from_f32(vec![w.len()], w)?);
        Ok(Block {
            attention_norm: norm(norms[0])?,
            qkv: pack.linear(&[Role::Q, Role::K, Role::V])?,
            o: pack.linear(&[Role::O])?,
            mlp_norm: norm(norms[1])?,
            mlp: match plan.mixture(layer) {
                None => Half::Dense(Gated::load(pack, Mlp::Dense, plan.activation)?),
                Some(experts) => Half::Mixture(Mixture::load(backend, pack, plan, experts)?),
            },
            attention: plan.attention(layer),
            eps: plan.eps,
        })
    }

    /// Bytes of weights that one token reads.
    pub fn weight_bytes(&self) -> usize {
        let mlp = match &self.mlp {
            Half::Dense(mlp) => mlp.weight_bytes(),
            Half::Mixture(mixture) => mixture.weight_bytes(),
        };
        self.qkv.shape().bytes + self.o.shape().bytes + mlp
    }

    /// Runs the block on `ws.x` (and a pending `ws.delta`); leaves the MLP's output pending.
    pub fn run(&self, step: &Step<'_, B>, kv: &mut KvLayer<B>, ws: &mut Workspace<B>) -> Result<()> {
        self.attend(step, kv, ws, &mut None)?;
        self.normalize_for_mlp(step, ws, &mut None)?;
        match (&self.mlp, &mut ws.mlp, &mut ws.mixture) {
            (Half::Dense(mlp), Some(rows), _) => {
                mlp.inner(step, &ws.normed, &ws.normed_q8, rows, &mut None)?;
                mlp.down(step, rows, &mut ws.delta)?;
            }
            (Half::Mixture(mixture), _, Some(rows)) => {
                mixture.run(step, &ws.normed, &mut ws.normed_q8, rows, &mut ws.delta)?;
            }
            _ => unreachable!("a workspace has room for every kind of layer that its plan has"),
        }
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
        self.normalize_for_mlp(step, ws, &mut tap)?;
        match (&self.mlp, &mut ws.mlp, &mut ws.mixture, tap) {
            (Half::Dense(mlp), Some(rows), _, mut tap) => mlp.inner(step, &ws.normed, &ws.normed_q8, rows, &mut tap),
            (Half::Mixture(mixture), _, Some(rows), tap) => {
                mixture.observe(step, &ws.normed, &mut ws.normed_q8, rows, tap)
            }
            _ => unreachable!("a workspace has room for every kind of layer that its plan has"),
        }
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
                ws.attended_q8.become_input(kind);
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

    /// A mixture's router reads floats, so that the norm is not fused with quantizing there, nor shown to the tap yet.
    fn normalize_for_mlp(
        &self,
        step: &Step<'_, B>,
        ws: &mut Workspace<B>,
        tap: &mut Option<&mut dyn Tap<B>>,
    ) -> Result<()> {
        match &self.mlp {
            Half::Dense(mlp) => normalize(step, ws, &self.mlp_norm, self.eps, mlp.q8(), Input::MlpNorm, tap),
            Half::Mixture(_) => normalize(step, ws, &self.mlp_norm, self.eps, None, Input::MlpNorm, &mut None),
        }
    }
}

/// Adds what is pending, normalizes, and quantizes if the reader wants codes.
fn normalize<B: Backend>(
    step: &Step<'_, B>,
    ws: &mut Workspace<B>,
    weight: &Tensor<B>,
    eps: f32,
    kind: Option<InputCodes>,
    input: Input,
    tap: &mut Option<&mut dyn Tap<B>>,
) -> Result<()> {
    let b = step.backend;
    let delta = ws.pending.then_some(&ws.delta);
    ws.pending = false;
    match (kind, &tap) {
        (Some(kind), None) => {
            ws.normed_q8.become_input(kind);
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
pub(crate) fn observe<B: Backend>(
    backend: &B,
    input: Input,
    x: &Tensor<B>,
    kind: Option<InputCodes>,
    q: &mut Q8Rows<B>,
    tap: &mut Option<&mut dyn Tap<B>>,
) -> Result<()> {
    if let Some(tap) = tap {
        tap.observe(backend, input, x)?;
    }
    if let Some(kind) = kind {
        q.become_input(kind);
        backend.quantize_rows(x, q)?;
    }
    Ok(())
}
