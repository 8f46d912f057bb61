//! A mixture of experts: a router in float, the experts that it chooses for each token, and perhaps one for all.
use crate::arch::{Input, Mlp, Role};
use crate::block::{Pack, Step, observe};
use crate::error::{Error, Result};
use crate::experts::ExpertPlan;
use crate::linear::Linear;
use crate::mlp::{FeedForward, MlpRows};
use crate::plan::Plan;
use crate::tap::{Shown, Tap};
use planish_tensor::mixture::{self, ExpertMath, ExpertRows, Experts, Routes, Routing};
use planish_tensor::{Activation, Backend, DType, FloatMath, InputCodes, Q8Rows, Tensor};

/// Its weights on a device.
pub struct Mixture<B: Backend> {
    routing: Routing,
    router: Linear<B>,
    experts: Experts<B>,
    shared: Option<Shared<B>>,
    activation: Activation,
    /// Bytes of one expert's weights.
    expert_bytes: usize,
}

struct Shared<B: Backend> {
    mlp: FeedForward<B>,
    gate: Linear<B>,
}

/// The buffers of a mixture.
pub struct MixtureRows<B: Backend> {
    /// `[t, e]` F32.
    logits: Tensor<B>,
    routes: Routes<B>,
    rows: ExpertRows<B>,
    shared: Option<SharedRows<B>>,
}

struct SharedRows<B: Backend> {
    rows: MlpRows<B>,
    /// `[t, h]`.
    out: Tensor<B>,
    /// `[t, 1]` F32.
    gates: Tensor<B>,
}

impl<B: Backend> MixtureRows<B> {
    /// Room for `tokens` tokens.
    pub fn new(backend: &B, plan: &Plan, experts: &ExpertPlan, tokens: usize) -> Result<MixtureRows<B>> {
        let (h, act, routing) = (plan.hidden, backend.activation_dtype(), &experts.routing);
        let shared = |f| -> Result<SharedRows<B>> {
            let rows = MlpRows::new(backend, &plan.grids(), tokens, f, plan.arch.gated)?;
            Ok(SharedRows { rows, out: backend.alloc(act, tokens, h)?, gates: backend.alloc(DType::F32, tokens, 1)? })
        };
        Ok(MixtureRows {
            logits: backend.alloc(DType::F32, tokens, routing.experts)?,
            routes: Routes::new(backend, tokens, routing)?,
            rows: ExpertRows::new(backend, tokens * routing.chosen, h, experts.width)?,
            shared: experts.shared_width.map(shared).transpose()?,
        })
    }

    /// Bytes of one token at most.
    pub fn token_bytes(plan: &Plan, experts: &ExpertPlan) -> usize {
        let (h, Routing { experts: e, chosen: c, .. }) = (plan.hidden, experts.routing);
        let shared = experts
            .shared_width
            .map_or(0, |f| MlpRows::<B>::token_bytes(&plan.grids(), f) + size_of::<f32>() * (h + 1));
        size_of::<f32>() * (e + 2 * c) + c * ExpertRows::<B>::row_bytes(h, experts.width) + shared
    }

    /// Prepares for `tokens` tokens.
    pub fn set_rows(&mut self, tokens: usize) {
        self.logits.set_rows(tokens);
        self.routes.set_rows(tokens);
        if let Some(shared) = &mut self.shared {
            shared.rows.set_rows(tokens);
            shared.out.set_rows(tokens);
            shared.gates.set_rows(tokens);
        }
    }
}

impl<B: Backend> Mixture<B> {
    /// Packs a mixture.
    pub fn load(backend: &B, pack: &impl Pack<B>, plan: &Plan, experts: &ExpertPlan) -> Result<Mixture<B>> {
        let shared = || -> Result<Shared<B>> {
            let mlp = FeedForward::load(pack, Mlp::Shared, plan)?;
            Ok(Shared { mlp, gate: pack.linear(&[Role::SharedGate])? })
        };
        let packed = pack.experts(&experts.numbers().collect::<Vec<_>>())?;
        let bytes = |linears: &[B::Linear]| linears.iter().map(|l| backend.linear_shape(l).bytes).max().unwrap_or(0);
        Ok(Mixture {
            routing: experts.routing,
            router: pack.linear(&[Role::Router])?,
            expert_bytes: bytes(&packed.gate_up) + bytes(&packed.down),
            experts: packed,
            shared: experts.shared_width.map(|_| shared()).transpose()?,
            activation: plan.activation,
        })
    }

    /// Bytes of weights that one token reads.
    pub fn weight_bytes(&self) -> usize {
        let shared = self.shared.as_ref().map_or(0, |s| s.mlp.weight_bytes() + s.gate.shape().bytes);
        self.router.shape().bytes + self.routing.chosen * self.expert_bytes + shared
    }

    /// `out = Σ weights · expert(x) + sigmoid(gate(x)) · shared(x)` for `x[t, h]` in float; `q` is a buffer for its codes.
    pub fn run(
        &self,
        step: &Step<'_, B>,
        x: &Tensor<B>,
        q: &mut Q8Rows<B>,
        rows: &mut MixtureRows<B>,
        out: &mut Tensor<B>,
    ) -> Result<()> {
        let b = step.backend;
        self.route(step, x, rows)?;
        mixture::mix(b, x, &rows.routes, &self.experts, self.math(step), &mut rows.rows, out)?;
        let (Some(shared), Some(s)) = (&self.shared, &mut rows.shared) else { return Ok(()) };
        quantize(b, shared.mlp.q8(), x, q)?;
        shared.mlp.inner(step, x, q, &mut s.rows, &mut None)?;
        shared.mlp.down(step, &s.rows, &mut s.out)?;
        shared.gate.apply(b, FloatMath::F32, x, q, &mut s.gates)?;
        Ok(mixture::add_gated(b, out, &s.out, &s.gates)?)
    }

    /// Runs up to the inputs of the last products and shows every input to the tap.
    pub fn observe(
        &self,
        step: &Step<'_, B>,
        x: &Tensor<B>,
        q: &mut Q8Rows<B>,
        rows: &mut MixtureRows<B>,
        mut tap: Option<&mut dyn Tap<B>>,
    ) -> Result<()> {
        let b = step.backend;
        observe(b, Input::MlpNorm, x, self.shared.as_ref().and_then(|s| s.mlp.q8()), q, &mut tap)?;
        if let (Some(shared), Some(s)) = (&self.shared, &mut rows.shared) {
            shared.mlp.inner(step, x, q, &mut s.rows, &mut tap)?;
        }
        let Some(tap) = tap else { return Ok(()) };
        self.route(step, x, rows)?;
        let groups = mixture::groups(b, &rows.routes, self.routing.experts)?;
        for e in 0..self.routing.experts {
            let tokens = match tap.shown(e as u16) {
                Shown::Routed => groups.tokens(groups.starts[e]..groups.starts[e + 1]),
                Shown::All => (0..x.rows as u32).collect(),
                Shown::Nothing => continue,
            };
            if !tokens.is_empty() {
                self.observe_expert(step, e, x, &tokens, &mut rows.rows, tap)?;
            }
        }
        Ok(())
    }

    fn observe_expert(
        &self,
        step: &Step<'_, B>,
        e: usize,
        x: &Tensor<B>,
        tokens: &[u32],
        rows: &mut ExpertRows<B>,
        tap: &mut dyn Tap<B>,
    ) -> Result<()> {
        let b = step.backend;
        rows.set_rows(tokens.len());
        mixture::select_rows(b, x, tokens, &mut rows.x)?;
        tap.observe(b, Input::Routed(e as u16), &rows.x)?;
        mixture::gate_rows(b, &self.experts.gate_up[e], self.math(step), rows)?;
        tap.observe(b, Input::MlpInner(Mlp::Expert(e as u16)), &rows.inner)
    }

    /// A choice between experts is not rounded further than its weights are, whatever the other products are.
    fn route(&self, step: &Step<'_, B>, x: &Tensor<B>, rows: &mut MixtureRows<B>) -> Result<()> {
        let b = step.backend;
        b.gemm_float(x, self.router.weight(), FloatMath::F32, &mut rows.logits)?;
        Ok(mixture::route(b, &rows.logits, &self.routing, &mut rows.routes)?)
    }

    fn math(&self, step: &Step<'_, B>) -> ExpertMath {
        ExpertMath { act: self.activation, math: step.math }
    }
}

fn quantize<B: Backend>(backend: &B, input: Option<InputCodes>, x: &Tensor<B>, q: &mut Q8Rows<B>) -> Result<()> {
    if let Some(input) = input {
        q.become_input(input);
        backend.quantize_rows(x, q)?;
    }
    Ok(())
}

/// Experts of a checkpoint may be of different kinds, but an expert's gate and up run as one product.
pub(crate) fn of_parts<B: Backend>(
    backend: &B,
    parts: impl Fn(Role) -> planish_tensor::LinearPart,
    numbers: &[u16],
) -> Result<Experts<B>> {
    let mut experts = Vec::with_capacity(numbers.len());
    for &e in numbers {
        let mlp = Mlp::Expert(e);
        let [gate, up, down] = [Role::Gate(mlp), Role::Up(mlp), Role::Down(mlp)].map(&parts);
        crate::linear::one_kind(&[Role::Gate(mlp), Role::Up(mlp)], &[gate.clone(), up.clone()])?;
        experts.push([gate, up, down]);
    }
    mixture::load(backend, &experts).map_err(Error::from)
}
