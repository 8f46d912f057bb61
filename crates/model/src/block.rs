//! One transformer block: attention, then (or beside it) an MLP or a mixture of experts, norms around them, on packed
//! tokens.
use crate::arch::{Input, Mlp, Place, Role};
use crate::attention::Attention;
use crate::error::Result;
use crate::linear::{Linear, Residual};
use crate::mlp::FeedForward;
use crate::moe::Mixture;
use crate::norm::Norm;
use crate::plan::Plan;
use crate::tap::Tap;
use crate::weights::{HostBlock, HostNorm};
use crate::workspace::Workspace;
use planish_tensor::mixture::Experts;
use planish_tensor::{Backend, FloatMath, InputCodes, KvLayer, Q8Rows, RopeTable, Tensor};
use std::collections::BTreeMap;

/// A block's weights on a device.
pub struct Block<B: Backend> {
    before_attention: Option<Norm<B>>,
    attention: Attention<B>,
    after_attention: Option<Norm<B>>,
    before_mlp: Option<Norm<B>>,
    mlp: Half<B>,
    after_mlp: Option<Norm<B>>,
    /// Attention and MLP read the same hidden state.
    parallel: bool,
}

/// The half after attention.
enum Half<B: Backend> {
    Dense(FeedForward<B>),
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
    /// Rotary angles by each of the plan's rules.
    pub ropes: &'a [RopeTable<B>],
    /// In the last block: how many rows of the batch are wanted (its logit rows), if not all of them.
    pub wanted: Option<usize>,
}

impl<B: Backend> Block<B> {
    /// Packs block `layer`.
    pub fn load(backend: &B, plan: &Plan, layer: usize, host: &HostBlock) -> Result<Block<B>> {
        Block::of(backend, plan, layer, &host.norms, &FromHost(backend, host))
    }

    /// Block `layer` of its norms and what its linears are packed from.
    pub fn of(
        backend: &B,
        plan: &Plan,
        layer: usize,
        norms: &BTreeMap<Place, HostNorm>,
        pack: &impl Pack<B>,
    ) -> Result<Block<B>> {
        let norm = |place| norms.get(&place).map(|host| Norm::load(backend, host, plan.eps)).transpose();
        Ok(Block {
            before_attention: norm(Place::BeforeAttention)?,
            attention: Attention::load(backend, plan, layer, norms, pack)?,
            after_attention: norm(Place::AfterAttention)?,
            before_mlp: norm(Place::BeforeMlp)?,
            mlp: match plan.mixture(layer) {
                None => Half::Dense(FeedForward::load(pack, Mlp::Dense, plan)?),
                Some(experts) => Half::Mixture(Mixture::load(backend, pack, plan, experts)?),
            },
            after_mlp: norm(Place::AfterMlp)?,
            parallel: plan.parallel,
        })
    }

    /// Bytes of weights that one token reads.
    pub fn weight_bytes(&self) -> usize {
        let mlp = match &self.mlp {
            Half::Dense(mlp) => mlp.weight_bytes(),
            Half::Mixture(mixture) => mixture.weight_bytes(),
        };
        self.attention.weight_bytes() + mlp
    }

    /// Runs the block on `ws.x` (and a pending `ws.delta`); leaves the MLP's output pending, if it is not added already. What
    /// follows attention runs on the rows alone that are wanted.
    pub fn run(&self, step: &Step<'_, B>, kv: &mut KvLayer<B>, ws: &mut Workspace<B>) -> Result<()> {
        self.attend(step, kv, ws, &mut None)?;
        self.normalize_for_mlp(step, ws, &mut None)?;
        let x = if self.before_mlp.is_some() { &ws.normed } else { &ws.x };
        match (&self.mlp, &mut ws.mlp, &mut ws.mixture) {
            (Half::Dense(mlp), Some(rows), _) => {
                mlp.inner(step, x, &ws.normed_q8, rows, &mut None)?;
                let sum = self.after_mlp.is_none().then_some(&mut ws.x);
                ws.pending = mlp.down_residual(step, rows, Residual { sum, delta: &mut ws.delta })?;
            }
            (Half::Mixture(mixture), _, Some(rows)) => {
                mixture.run(step, x, &mut ws.normed_q8, rows, &mut ws.delta)?;
                ws.pending = true;
            }
            _ => unreachable!("a workspace has room for every kind of layer that its plan has"),
        }
        norm_pending(step, ws, self.after_mlp.as_ref())
    }

    /// Only what tokens after these need of the last block: stores its keys and values.
    pub fn store(&self, step: &Step<'_, B>, kv: &mut KvLayer<B>, ws: &mut Workspace<B>) -> Result<()> {
        let norm = self.before_attention.as_ref();
        normalize(step, ws, norm, self.attention.q8(), Input::AttentionNorm, &mut None)?;
        self.attention.store(step, norm.is_some(), kv, ws)
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
        let x = if self.before_mlp.is_some() { &ws.normed } else { &ws.x };
        match (&self.mlp, &mut ws.mlp, &mut ws.mixture, tap) {
            (Half::Dense(mlp), Some(rows), _, mut tap) => mlp.inner(step, x, &ws.normed_q8, rows, &mut tap),
            (Half::Mixture(mixture), _, Some(rows), tap) => mixture.observe(step, x, &mut ws.normed_q8, rows, tap),
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
        let norm = self.before_attention.as_ref();
        normalize(step, ws, norm, self.attention.q8(), Input::AttentionNorm, tap)?;
        let may_add = self.after_attention.is_none() && !self.parallel;
        ws.pending = self.attention.run(step, norm.is_some(), may_add, kv, ws, tap)?;
        norm_pending(step, ws, self.after_attention.as_ref())
    }

    /// A mixture's router reads floats, so that the norm is not fused with quantizing there, nor shown to the tap yet.
    fn normalize_for_mlp(
        &self,
        step: &Step<'_, B>,
        ws: &mut Workspace<B>,
        tap: &mut Option<&mut dyn Tap<B>>,
    ) -> Result<()> {
        // Beside attention, the MLP reads the state that attention read, before what that adds.
        let beside = ws.pending && self.parallel;
        ws.pending &= !self.parallel;
        let norm = self.before_mlp.as_ref();
        match &self.mlp {
            Half::Dense(mlp) => normalize(step, ws, norm, mlp.q8(), Input::MlpNorm, tap)?,
            Half::Mixture(_) => normalize(step, ws, norm, None, Input::MlpNorm, &mut None)?,
        }
        if beside {
            step.backend.add(&mut ws.x, &ws.delta)?;
        }
        Ok(())
    }
}

/// Norms what is in `ws.delta`, if there is a norm, before it is added. The two buffers change places, twice in
/// a block or not at all, so that a recorded step finds them where they were.
fn norm_pending<B: Backend>(step: &Step<'_, B>, ws: &mut Workspace<B>, norm: Option<&Norm<B>>) -> Result<()> {
    if let Some(norm) = norm {
        norm.apply(step.backend, &ws.delta, &mut ws.normed)?;
        std::mem::swap(&mut ws.delta, &mut ws.normed);
    }
    Ok(())
}

/// Adds what is pending, normalizes into `ws.normed` (without a norm, `ws.x` is what is read), and quantizes if the
/// reader wants codes.
fn normalize<B: Backend>(
    step: &Step<'_, B>,
    ws: &mut Workspace<B>,
    norm: Option<&Norm<B>>,
    kind: Option<InputCodes>,
    input: Input,
    tap: &mut Option<&mut dyn Tap<B>>,
) -> Result<()> {
    let b = step.backend;
    let delta = ws.pending.then_some(&ws.delta);
    ws.pending = false;
    match (norm, kind, &tap) {
        (Some(norm), Some(kind), None) => {
            ws.normed_q8.become_input(kind);
            norm.add_apply_quantize(b, &mut ws.x, delta, &mut ws.normed, &mut ws.normed_q8)
        }
        (Some(norm), kind, _) => {
            norm.add_apply(b, &mut ws.x, delta, &mut ws.normed)?;
            observe(b, input, &ws.normed, kind, &mut ws.normed_q8, tap)
        }
        (None, kind, _) => {
            if let Some(delta) = delta {
                b.add(&mut ws.x, delta)?;
            }
            observe(b, input, &ws.x, kind, &mut ws.normed_q8, tap)
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
