//! SmoothQuant on one block's weights: factors from statistics, folded so that the function stays the same.
//!
//! A factor `s` multiplies the columns of every reader and divides what feeds them. What feeds them may be saved in
//! 16 bits: then the factor is taken from the value that the file can hold, so that the fold stays exact.
use super::changing::Changing;
use crate::error::Result;
use crate::report::{GroupReport, SearchReport};
use crate::smooth::{SmoothingFactors, divide_rows, round_to_power_of_two, tie_groups};
use planish_model::block::{Block, Pack};
use planish_model::linear::Linear;
use planish_model::weights::{HostBlock, HostNorm};
use planish_model::{Absorber, Input, Place, Plan, Role};
use planish_tensor::{Backend, DType, HostTensor, LinearPart, Solver};
use std::collections::BTreeMap;

/// A block in f32, to be changed.
pub struct FloatBlock<'a, B: Backend> {
    /// The norms that the family has, as applied.
    pub norms: BTreeMap<Place, HostNorm>,
    /// The linears' weights.
    pub weights: Changing<'a, B>,
    /// `[n]` biases of the linears that have one.
    pub biases: BTreeMap<Role, Vec<f32>>,
}

/// Factors, and where they come from.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The strength; `None` where no strength was as good as none.
    pub alpha: Option<f64>,
    /// The factors; several channels may share one.
    pub factors: SmoothingFactors,
    /// What the search found, if there was one.
    pub search: Option<SearchReport>,
}

/// What smoothing one input did.
#[derive(Clone, Debug)]
pub struct Smoothing {
    /// The input, and what was made of parts of it.
    pub inputs: Vec<Input>,
    /// `[k]` factors that the columns were multiplied by.
    pub s: Vec<f32>,
    /// Its entry in the report.
    pub report: GroupReport,
}

impl<'a, B: Backend> FloatBlock<'a, B> {
    /// Widens a block.
    pub fn new(backend: &'a B, solver: Option<&'a dyn Solver<B>>, host: &HostBlock) -> Result<FloatBlock<'a, B>> {
        Ok(FloatBlock {
            norms: host.norms.clone(),
            weights: Changing::new(backend, solver, host)?,
            biases: host.linears.iter().filter_map(|(&role, l)| Some((role, l.bias.clone()?))).collect(),
        })
    }

    /// Largest magnitudes of the columns of all readers of an input, one for each of its factors.
    pub fn column_maxima(&self, plan: &Plan, layer: usize, input: Input) -> Result<Vec<f32>> {
        let k = plan.input_width(input);
        let readers = smoothed_readers(plan, layer, input);
        let mut columns = vec![0.0f32; k];
        for &role in readers.iter().filter(|role| !role.steers()) {
            let (n, _) = plan.linear_size(role);
            for (m, c) in columns.iter_mut().zip(self.weights.column_absmax(role, n, k)?) {
                *m = m.max(c);
            }
        }
        tie(plan, input, &columns)
    }

    /// Smooths one input that `absorber` can take factors up for, by factors of [`FloatBlock::column_maxima`]'s length; `absmax[k]` are its channels' largest
    /// magnitudes. `stored` is the type in which norms are saved.
    pub fn smooth(
        &mut self,
        plan: &Plan,
        (input, absorber): (Input, Absorber),
        absmax: &[f32],
        chosen: Chosen,
        stored: DType,
        layer: usize,
    ) -> Result<Smoothing> {
        let k = plan.input_width(input);
        let readers = smoothed_readers(plan, layer, input);
        let mut factors = chosen.factors;
        if readers.iter().any(|role| role.steers()) {
            // A router's choice is to stay what it was to the last bit, also where its weights are stored in 16 bits.
            round_to_power_of_two(&mut factors.s);
        }
        let exact = self.absorb(plan, absorber, factors.s, stored)?;
        let s: Vec<f32> = factor_of(plan, input).into_iter().map(|g| exact[g]).collect();
        factors.s = s.clone();
        for &role in &readers {
            self.weights.scale_columns(role, k, &s)?;
        }
        let balance = reader_names(plan, layer, &readers);
        let balance: Vec<&str> = balance.iter().map(String::as_str).collect();
        let mut report =
            GroupReport::new(&absorber_name(plan, layer, absorber), &balance, chosen.alpha, absmax, &factors);
        report.search = chosen.search;
        let mut inputs: Vec<Input> = readers.into_iter().map(Role::input).collect();
        inputs.dedup();
        Ok(Smoothing { inputs, s, report })
    }

    /// Divides the absorber by `s`; returns the factors by which it really shrank.
    fn absorb(&mut self, plan: &Plan, absorber: Absorber, mut s: Vec<f32>, stored: DType) -> Result<Vec<f32>> {
        let place = match absorber {
            Absorber::Norm(place) => place,
            Absorber::Rows(role) => {
                let (n, k) = plan.linear_size(role);
                self.weights.divide_rows(role, n, k, &s)?;
                if let Some(bias) = self.biases.get_mut(&role) {
                    divide_rows(bias, n, 1, &s)?;
                }
                return Ok(s);
            }
        };
        let norm = self.norms.get_mut(&place).expect("the plan names the norms that the block has");
        if norm.bias.is_some() {
            // One factor must suit the weight and the bias as they are stored: powers of two suit both.
            round_to_power_of_two(&mut s);
        }
        let offset = plan.arch.norm.offset();
        let held = |wanted: Vec<f32>| {
            Ok::<_, crate::Error>(HostTensor::from_f32_as(stored, vec![wanted.len()], &wanted)?.to_f32())
        };
        let weights = held(norm.weight.iter().zip(&s).map(|(w, s)| w / s - offset).collect())?;
        let mut exact = vec![1.0; s.len()];
        for ((w, held), exact) in norm.weight.iter_mut().zip(weights).zip(&mut exact) {
            let new = held + offset;
            // A weight of zero silences its channel: it stays as it is.
            if *w != 0.0 && new != 0.0 {
                *exact = *w / new;
                *w = new;
            }
        }
        if let Some(bias) = &mut norm.bias {
            *bias = held(bias.iter().zip(&exact).map(|(b, s)| b / s).collect())?;
        }
        Ok(exact)
    }

    /// A weight as a float linear.
    pub fn part(&self, plan: &Plan, role: Role) -> Result<LinearPart> {
        let (n, k) = plan.linear_size(role);
        let weight = match &self.weights {
            Changing::Host(weights) => HostTensor::from_f32(vec![n, k], &weights[&role])?,
            Changing::Device(..) => HostTensor::from_f32(vec![n, k], &self.weights.values(role)?)?,
        };
        Ok(LinearPart::float(weight, self.biases.get(&role).cloned()))
    }

    /// The block with linears made one by one.
    pub fn with_linears(&self, roles: &[Role], linear: impl Fn(Role) -> Result<LinearPart>) -> Result<HostBlock> {
        let linears = roles.iter().map(|&role| Ok((role, linear(role)?)));
        Ok(HostBlock { norms: self.norms.clone(), linears: linears.collect::<Result<_>>()? })
    }

    /// Linears of some roles, one below the other, as they are now.
    pub fn packed(&self, backend: &B, plan: &Plan, roles: &[Role]) -> Result<B::Linear> {
        match &self.weights {
            Changing::Host(_) => {
                let parts: Vec<_> = roles.iter().map(|&role| self.part(plan, role)).collect::<Result<_>>()?;
                Ok(backend.load_linear(&parts)?)
            }
            Changing::Device(_, solver, tensors) => {
                let part = |role: &Role| (&tensors[role], self.biases.get(role).map(Vec::as_slice));
                Ok(solver.linear_of(&roles.iter().map(part).collect::<Vec<_>>())?)
            }
        }
    }

    /// The block as it is now, for running it.
    pub fn block(&self, backend: &B, plan: &Plan, layer: usize) -> Result<Block<B>> {
        let pack = Packing { backend, plan, block: self };
        Ok(Block::of(backend, plan, layer, &self.norms, &pack)?)
    }
}

/// A changing block as what its linears are packed from.
struct Packing<'a, 'b, B: Backend> {
    backend: &'a B,
    plan: &'a Plan,
    block: &'a FloatBlock<'b, B>,
}

impl<B: Backend> Pack<B> for Packing<'_, '_, B> {
    fn linear(&self, roles: &[Role]) -> planish_model::Result<Linear<B>> {
        let packed = self.block.packed(self.backend, self.plan, roles).map_err(in_model)?;
        Linear::packed(self.backend, packed)
    }
}

/// Largest magnitudes of the channels that share a factor.
pub fn tie(plan: &Plan, input: Input, values: &[f32]) -> Result<Vec<f32>> {
    match input {
        Input::AttentionOutput => tie_groups(values, plan.nq, plan.nkv, plan.d),
        _ => Ok(values.to_vec()),
    }
}

/// `[k]` factor of each channel: v's rows serve a whole query group, every other channel has its own.
pub fn factor_of(plan: &Plan, input: Input) -> Vec<usize> {
    let group = plan.nq / plan.nkv;
    let of = |j: usize| if input == Input::AttentionOutput { j / plan.d / group * plan.d + j % plan.d } else { j };
    (0..plan.input_width(input)).map(of).collect()
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
pub fn absorber_name(plan: &Plan, layer: usize, absorber: Absorber) -> String {
    match absorber {
        Absorber::Norm(place) => plan.norm_name(layer, place).unwrap_or_default(),
        Absorber::Rows(role) => plan.linear_name(layer, role),
    }
}

/// Names of the modules of linears, each once.
pub fn reader_names(plan: &Plan, layer: usize, readers: &[Role]) -> Vec<String> {
    let mut names: Vec<String> = readers.iter().map(|&role| plan.linear_name(layer, role)).collect();
    names.dedup();
    names
}

/// The inputs of a block that may be smoothed each by itself, and what takes up 1/s. What an expert is given is part of
/// the MLP norm's output; behind some families' inputs there is nothing that could take factors up.
pub fn smoothed_inputs(plan: &Plan, layer: usize) -> Vec<(Input, Absorber)> {
    let alone = plan.inputs(layer).into_iter().filter(|input| !matches!(input, Input::Routed(_)));
    alone.filter_map(|input| Some((input, plan.absorber(input)?))).collect()
}

/// The linears whose columns take up the factors of an input: experts and router too, where the norm feeds them.
pub fn smoothed_readers(plan: &Plan, layer: usize, input: Input) -> Vec<Role> {
    let part = |role: &Role| input == Input::MlpNorm && matches!(role.input(), Input::Routed(_));
    plan.roles(layer).into_iter().filter(|role| role.input() == input || part(role)).collect()
}
