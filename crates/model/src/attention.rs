//! The attention half of a block: queries, keys and values, their norms and rotation, attention, output.
use crate::arch::{Input, Place, Role};
use crate::block::{Pack, Step, observe};
use crate::error::Result;
use crate::linear::{Linear, Residual};
use crate::norm::Norm;
use crate::plan::Plan;
use crate::tap::Tap;
use crate::weights::HostNorm;
use crate::workspace::Workspace;
use planish_tensor::{Attended, AttentionShape, Backend, InputCodes, KvLayer, Projected, RopeTable};
use std::collections::BTreeMap;

/// Its weights on a device.
pub struct Attention<B: Backend> {
    qkv: Linear<B>,
    /// Norms of the queries and of the keys.
    head_norms: [Option<Norm<B>>; 2],
    o: Linear<B>,
    shape: AttentionShape,
    /// Number of its rule of rotation.
    rope: Option<usize>,
}

impl<B: Backend> Attention<B> {
    /// Packs the attention of block `layer`.
    pub fn load(
        backend: &B,
        plan: &Plan,
        layer: usize,
        norms: &BTreeMap<Place, HostNorm>,
        pack: &impl Pack<B>,
    ) -> Result<Attention<B>> {
        let norm = |place| norms.get(&place).map(|host| Norm::load(backend, host, plan.head_eps)).transpose();
        Ok(Attention {
            qkv: pack.linear(&[Role::Q, Role::K, Role::V])?,
            head_norms: [norm(Place::Queries)?, norm(Place::Keys)?],
            o: pack.linear(&[Role::O])?,
            shape: plan.attention(layer),
            rope: plan.layer_ropes[layer],
        })
    }

    /// The codes that it reads, or `None` for float.
    pub fn q8(&self) -> Option<InputCodes> {
        self.qkv.q8()
    }

    /// Bytes that one pass over the weights reads.
    pub fn weight_bytes(&self) -> usize {
        self.qkv.shape().bytes + self.o.shape().bytes
    }

    /// From its input (`ws.normed`, or `ws.x` if not `normed`; or their codes) to what it adds: to `ws.x`, if it `may_add`
    /// and the device does, or in `ws.delta`. True if it is left there.
    pub fn run(
        &self,
        step: &Step<'_, B>,
        normed: bool,
        may_add: bool,
        kv: &mut KvLayer<B>,
        ws: &mut Workspace<B>,
        tap: &mut Option<&mut dyn Tap<B>>,
    ) -> Result<bool> {
        let (b, shape, rope) = (step.backend, &self.shape, self.rotation(step));
        match (self.o.q8(), &tap, step.wanted) {
            (Some(kind), None, None) => {
                ws.attended_q8.become_input(kind);
                if !self.nothing_between() {
                    self.project(step, normed, ws)?;
                    let to = Attended { scratch: &mut ws.attended, out: &mut ws.attended_q8 };
                    b.rope_attention_quantize(&mut ws.qkv, rope, shape, step.batch, kv, to)?;
                } else {
                    let from = Projected { x: &ws.normed_q8, w: self.qkv.weight(), qkv: &mut ws.qkv };
                    let to = Attended { scratch: &mut ws.attended, out: &mut ws.attended_q8 };
                    b.gemm_rope_attention_quantize(from, rope, shape, step.batch, kv, to)?;
                }
            }
            (kind, _, wanted) => {
                self.project(step, normed, ws)?;
                b.rope_store_kv(&mut ws.qkv, rope, shape, step.batch, kv)?;
                b.paged_attention(&ws.qkv, shape, step.batch, kv, &mut ws.attended)?;
                if let Some(rows) = wanted {
                    ws.narrow(b, step.batch, rows)?;
                }
                observe(b, Input::AttentionOutput, &ws.attended, kind, &mut ws.attended_q8, tap)?;
            }
        }
        let to = Residual { sum: may_add.then_some(&mut ws.x), delta: &mut ws.delta };
        self.o.apply_residual(b, step.math, &ws.attended, &ws.attended_q8, to)
    }
    /// Only what tokens after these need: stores keys and values.
    pub fn store(&self, step: &Step<'_, B>, normed: bool, kv: &mut KvLayer<B>, ws: &mut Workspace<B>) -> Result<()> {
        self.project(step, normed, ws)?;
        Ok(step.backend.rope_store_kv(&mut ws.qkv, self.rotation(step), &self.shape, step.batch, kv)?)
    }

    /// Whether queries, keys and values are rotated as their 8-bit product leaves them.
    fn nothing_between(&self) -> bool {
        self.qkv.q8().is_some() && self.head_norms.iter().all(Option::is_none)
    }

    /// Queries, keys and values, normed by head if they are.
    fn project(&self, step: &Step<'_, B>, normed: bool, ws: &mut Workspace<B>) -> Result<()> {
        let (b, shape) = (step.backend, &self.shape);
        let x = if normed { &ws.normed } else { &ws.x };
        self.qkv.apply(b, step.math, x, &ws.normed_q8, &mut ws.qkv)?;
        for (norm, (first, heads)) in self.head_norms.iter().zip([(0, shape.nq), (shape.nq, shape.nkv)]) {
            if let Some(norm) = norm {
                norm.apply_stretches(b, &mut ws.qkv, first * shape.d, heads * shape.d / norm.weight.cols)?;
            }
        }
        Ok(())
    }

    fn rotation<'a>(&self, step: &Step<'a, B>) -> Option<&'a RopeTable<B>> {
        self.rope.map(|rule| &step.ropes[rule])
    }
}
