//! SmoothQuant on one block's weights: factors from statistics, folded so that the function stays the same.
//!
//! A factor `s` multiplies the columns of every reader and divides what feeds them. What feeds them may be saved in
//! 16 bits: then the factor is taken from the value that the file can hold, so that the fold stays exact.
use super::changing::Changing;
use crate::error::Result;
use crate::report::GroupReport;
use crate::smooth::{divide_rows, expand_groups, smoothing_factors, tie_groups};
use planish_model::block::Block;
use planish_model::linear::Linear;
use planish_model::weights::HostBlock;
use planish_model::{Absorber, Input, Plan, Role};
use planish_tensor::{Backend, DType, HostTensor, LinearPart, Solver};

/// A block in f32, to be changed.
pub struct FloatBlock<'a, B: Backend> {
    /// `[h]` norm before attention, as applied.
    pub attention_norm: Vec<f32>,
    /// `[h]` norm before the MLP, as applied.
    pub mlp_norm: Vec<f32>,
    /// The linears' weights.
    pub weights: Changing<'a, B>,
    /// `[n]` biases.
    pub biases: Vec<Option<Vec<f32>>>,
}

/// What smoothing one input did.
#[derive(Clone, Debug)]
pub struct Smoothing {
    /// Which input.
    pub input: Input,
    /// `[k]` factors that the columns were multiplied by.
    pub s: Vec<f32>,
    /// Its entry in the report.
    pub report: GroupReport,
}

impl<'a, B: Backend> FloatBlock<'a, B> {
    /// Widens a block.
    pub fn new(backend: &'a B, solver: Option<&'a dyn Solver<B>>, host: &HostBlock) -> Result<FloatBlock<'a, B>> {
        Ok(FloatBlock {
            attention_norm: host.attention_norm.clone(),
            mlp_norm: host.mlp_norm.clone(),
            weights: Changing::new(backend, solver, host)?,
            biases: host.linears.iter().map(|l| l.bias.clone()).collect(),
        })
    }

    /// Smooths one input; `absmax[k]` are its channels' largest magnitudes. `stored` is the type in which norms are saved.
    pub fn smooth(
        &mut self,
        plan: &Plan,
        input: Input,
        absmax: &[f32],
        alpha: f64,
        stored: DType,
        layer: usize,
    ) -> Result<Smoothing> {
        let k = plan.input_width(input);
        let mut columns = vec![0.0f32; k];
        for &role in input.readers() {
            let (n, _) = plan.linear_size(role);
            for (m, c) in columns.iter_mut().zip(self.weights.column_absmax(role, n, k)?) {
                *m = m.max(c);
            }
        }
        let tied = input == Input::AttentionOutput;
        let tie = |v: &[f32]| if tied { tie_groups(v, plan.nq, plan.nkv, plan.d) } else { Ok(v.to_vec()) };
        let mut factors = smoothing_factors(&tie(absmax)?, &tie(&columns)?, alpha)?;
        let exact = self.absorb(plan, input.absorber(), factors.s, stored)?;
        let s = if tied { expand_groups(&exact, plan.nq, plan.nkv, plan.d)? } else { exact };
        factors.s = s.clone();
        for &role in input.readers() {
            self.weights.scale_columns(role, k, &s)?;
        }
        let balance: Vec<String> = input.readers().iter().map(|&r| plan.linear_name(layer, r)).collect();
        let balance: Vec<&str> = balance.iter().map(String::as_str).collect();
        let report = GroupReport::new(&absorber_name(plan, layer, input), &balance, alpha, absmax, &factors);
        Ok(Smoothing { input, s, report })
    }

    /// Divides the absorber by `s`; returns the factors by which it really shrank.
    fn absorb(&mut self, plan: &Plan, absorber: Absorber, s: Vec<f32>, stored: DType) -> Result<Vec<f32>> {
        let norm = match absorber {
            Absorber::AttentionNorm => &mut self.attention_norm,
            Absorber::MlpNorm => &mut self.mlp_norm,
            Absorber::Rows(role) => {
                let (n, k) = plan.linear_size(role);
                self.weights.divide_rows(role, n, k, &s)?;
                if let Some(bias) = &mut self.biases[role as usize] {
                    divide_rows(bias, n, 1, &s)?;
                }
                return Ok(s);
            }
        };
        let offset = plan.arch.norm_offset;
        let wanted: Vec<f32> = norm.iter().zip(&s).map(|(w, s)| w / s - offset).collect();
        let held: Vec<f32> = HostTensor::from_f32_as(stored, vec![wanted.len()], &wanted)?.to_f32();
        let mut exact = vec![1.0; s.len()];
        for ((w, held), exact) in norm.iter_mut().zip(held).zip(&mut exact) {
            let new = held + offset;
            // A weight of zero silences its channel: it stays as it is.
            if *w != 0.0 && new != 0.0 {
                *exact = *w / new;
                *w = new;
            }
        }
        Ok(exact)
    }

    /// A weight as a float linear.
    pub fn part(&self, plan: &Plan, role: Role) -> Result<LinearPart> {
        let (n, k) = plan.linear_size(role);
        let weight = match &self.weights {
            Changing::Host(weights) => HostTensor::from_f32(vec![n, k], &weights[role as usize])?,
            Changing::Device(..) => HostTensor::from_f32(vec![n, k], &self.weights.values(role)?)?,
        };
        Ok(LinearPart::float(weight, self.biases[role as usize].clone()))
    }

    /// The block with linears made one by one.
    pub fn with_linears(&self, linear: impl Fn(Role) -> Result<LinearPart>) -> Result<HostBlock> {
        let linears: Vec<_> = Role::ALL.map(linear).into_iter().collect::<Result<_>>()?;
        Ok(HostBlock {
            attention_norm: self.attention_norm.clone(),
            mlp_norm: self.mlp_norm.clone(),
            linears: linears.try_into().expect("seven roles"),
        })
    }

    /// Linears of some roles, one below the other, as they are now.
    pub fn packed(&self, backend: &B, plan: &Plan, roles: &[Role]) -> Result<B::Linear> {
        match &self.weights {
            Changing::Host(_) => {
                let parts: Vec<_> = roles.iter().map(|&role| self.part(plan, role)).collect::<Result<_>>()?;
                Ok(backend.load_linear(&parts)?)
            }
            Changing::Device(_, solver, tensors) => {
                let part = |&role: &Role| (&tensors[role as usize], self.biases[role as usize].as_deref());
                Ok(solver.linear_of(&roles.iter().map(part).collect::<Vec<_>>())?)
            }
        }
    }

    /// The block as it is now, for running it.
    pub fn block(&self, backend: &B, plan: &Plan, layer: usize) -> Result<Block<B>> {
        let linear = |input: Input| {
            let packed = self.packed(backend, plan, input.readers()).map_err(in_model)?;
            Linear::packed(backend, packed)
        };
        Ok(Block::of(backend, plan, layer, [&self.attention_norm, &self.mlp_norm], linear)?)
    }
}

/// Packing fails as the device or the model fails.
fn in_model(e: crate::Error) -> planish_model::Error {
    match e {
        crate::Error::Device(e) => e.into(),
        crate::Error::Model(e) => e,
        other => planish_tensor::Error::Device(other.to_string()).into(),
    }
}

/// Module name of what takes up 1/s.
pub fn absorber_name(plan: &Plan, layer: usize, input: Input) -> String {
    let norm = |name: &str| plan.block_prefix(layer) + name.trim_end_matches(".weight");
    match input.absorber() {
        Absorber::AttentionNorm => norm(plan.arch.names.attention_norm),
        Absorber::MlpNorm => norm(plan.arch.names.mlp_norm),
        Absorber::Rows(role) => plan.linear_name(layer, role),
    }
}
