//! The weights of one block while they are changed: on the host, or on a device that can change them there.
use super::observe::read;
use crate::error::Result;
use crate::smooth;
use planish_model::Role;
use planish_model::weights::HostBlock;
use planish_tensor::{Backend, DType, Solver, Tensor};
use std::borrow::Cow;
use std::collections::BTreeMap;

/// F32 weights `[n, k]`.
pub enum Changing<'a, B: Backend> {
    /// In host memory.
    Host(BTreeMap<Role, Vec<f32>>),
    /// In the device's.
    Device(&'a B, &'a dyn Solver<B>, BTreeMap<Role, Tensor<B>>),
}

impl<'a, B: Backend> Changing<'a, B> {
    /// Widens a block's weights.
    pub fn new(backend: &'a B, solver: Option<&'a dyn Solver<B>>, host: &HostBlock) -> Result<Changing<'a, B>> {
        Ok(match solver {
            None => Changing::Host(host.linears.iter().map(|(&role, l)| (role, l.weight.to_f32())).collect()),
            Some(solver) => {
                let tensors = host.linears.iter().map(|(&role, l)| Ok((role, solver.load_f32(&l.weight)?)));
                Changing::Device(backend, solver, tensors.collect::<planish_tensor::Result<_>>()?)
            }
        })
    }

    /// The values of one weight.
    pub fn values(&self, role: Role) -> Result<Vec<f32>> {
        match self {
            Changing::Host(weights) => Ok(weights[&role].clone()),
            Changing::Device(backend, _, tensors) => Ok(read(*backend, &tensors[&role])?),
        }
    }

    /// At most `most` rows of a weight `[n, k]`, spread evenly.
    pub fn sample(&self, role: Role, (n, k): (usize, usize), most: usize) -> Result<Vec<f32>> {
        let values = match self {
            Changing::Host(weights) => Cow::Borrowed(&weights[&role][..]),
            Changing::Device(backend, _, tensors) => Cow::Owned(read(*backend, &tensors[&role])?),
        };
        let count = most.min(n);
        Ok((0..count).flat_map(|i| &values[i * n / count * k..][..k]).copied().collect())
    }

    /// See [`smooth::column_absmax`].
    pub fn column_absmax(&self, role: Role, n: usize, k: usize) -> Result<Vec<f32>> {
        match self {
            Changing::Host(weights) => smooth::column_absmax(&weights[&role], n, k),
            Changing::Device(backend, _, tensors) => {
                let mut absmax = backend.alloc(DType::F32, 1, k)?;
                backend.observe_columns(&tensors[&role], &mut absmax)?;
                Ok(read(*backend, &absmax)?)
            }
        }
    }

    /// See [`smooth::scale_columns`].
    pub fn scale_columns(&mut self, role: Role, k: usize, s: &[f32]) -> Result<()> {
        match self {
            Changing::Host(weights) => smooth::scale_columns(one::<Vec<f32>>(weights, role), k, s),
            Changing::Device(_, solver, tensors) => Ok(solver.multiply_columns(one(tensors, role), s)?),
        }
    }

    /// See [`smooth::divide_rows`].
    pub fn divide_rows(&mut self, role: Role, n: usize, k: usize, s: &[f32]) -> Result<()> {
        match self {
            Changing::Host(weights) => smooth::divide_rows(one::<Vec<f32>>(weights, role), n, k, s),
            Changing::Device(_, solver, tensors) => Ok(solver.divide_rows(one(tensors, role), s)?),
        }
    }
}

/// The weight of a role that the block has.
fn one<T>(weights: &mut BTreeMap<Role, T>, role: Role) -> &mut T {
    weights.get_mut(&role).expect("the block's plan names its roles")
}
