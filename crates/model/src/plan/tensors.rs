//! Which tensors a model is made of: how modules hold linears, and what of a checkpoint fits.
use super::Plan;
use crate::arch::{NormKind, Place, Role, Rows, Span};
use crate::error::{Error, Result};
use planish_checkpoint::source::TensorSource;
use std::collections::BTreeSet;
use std::ops::Range;

/// A module of a block as it is stored.
#[derive(Clone, Debug)]
pub struct Stored {
    /// Full name, without `.weight`.
    pub name: String,
    /// Its linears.
    pub roles: Vec<Role>,
    /// Its rows, in order: a linear, and which of its rows.
    pub pieces: Vec<(Role, Range<usize>)>,
    /// Output channels of all its linears.
    pub n: usize,
    /// Input channels.
    pub k: usize,
    /// Whether it has a bias.
    pub bias: bool,
}

/// Endings of names that a checkpoint may have beside the tensors of its network: what quantizers store with a weight,
/// and buffers of constants that older programs saved.
const BESIDE: [&str; 14] = [
    ".weight_scale",
    ".weight_scale_inv",
    ".weight_zero_point",
    ".input_scale",
    ".input_zero_point",
    ".scale",
    ".output_scale",
    ".output_zero_point",
    ".k_scale",
    ".v_scale",
    ".rotary_emb.inv_freq",
    ".attention.bias",
    ".attention.masked_bias",
    ".masked_bias",
];

impl Plan {
    /// The modules of a block, in their order.
    pub fn stored(&self, layer: usize) -> Vec<Stored> {
        let roles = self.roles(layer);
        let mut out: Vec<Stored> = Vec::new();
        for module in self.arch.names.modules {
            if roles.contains(&module.roles[0]) {
                let pieces = match module.rows {
                    Rows::InTurn => module.roles.iter().map(|&r| (r, 0..self.linear_size(r).0)).collect(),
                    Rows::ByKvHead => self.by_kv_head(),
                };
                out.push(self.module(layer, module.roles.to_vec(), pieces));
            }
        }
        for role in roles {
            if !out.iter().any(|module| module.roles.contains(&role)) {
                out.push(self.module(layer, vec![role], vec![(role, 0..self.linear_size(role).0)]));
            }
        }
        out
    }

    fn module(&self, layer: usize, roles: Vec<Role>, pieces: Vec<(Role, Range<usize>)>) -> Stored {
        let n = roles.iter().map(|&r| self.linear_size(r).0).sum();
        let (k, bias) = (self.linear_size(roles[0]).1, self.has_bias(roles[0]));
        Stored { name: self.linear_name(layer, roles[0]), roles, pieces, n, k, bias }
    }

    fn by_kv_head(&self) -> Vec<(Role, Range<usize>)> {
        let (d, queries) = (self.d, self.nq / self.nkv * self.d);
        let group = |g: usize| {
            let one = |role| (role, g * d..(g + 1) * d);
            [(Role::Q, g * queries..(g + 1) * queries), one(Role::K), one(Role::V)]
        };
        (0..self.nkv).flat_map(group).collect()
    }

    /// Width of a block's norm.
    pub fn norm_width(&self, place: Place) -> usize {
        match (place, self.arch.head_norm) {
            (Place::Queries | Place::Keys, Span::Head) => self.d,
            (Place::Queries, Span::Heads) => self.nq * self.d,
            (Place::Keys, Span::Heads) => self.nkv * self.d,
            _ => self.hidden,
        }
    }

    /// Full name of a block's norm, without `.weight`, if it has that norm.
    pub fn norm_name(&self, layer: usize, place: Place) -> Option<String> {
        let name = self.arch.names.norms.iter().find(|(there, _)| *there == place)?.1;
        Some(self.block_prefix(layer) + name)
    }

    /// Whether norms have biases.
    pub fn norms_have_biases(&self) -> bool {
        self.arch.norm == NormKind::Layer
    }

    /// The tensors outside the blocks, each with its shape; the head's only where it is stored apart.
    pub fn end_tensors(&self) -> Vec<(String, Vec<usize>)> {
        let names = self.arch.names;
        let mut out = vec![(names.embed.to_owned(), vec![self.vocab, self.hidden])];
        if let Some((table, offset)) = names.positions {
            out.push((table.to_owned(), vec![self.max_positions + offset, self.hidden]));
        }
        out.push((format!("{}.weight", names.norm), vec![self.hidden]));
        if self.norms_have_biases() {
            out.push((format!("{}.bias", names.norm), vec![self.hidden]));
        }
        if !self.tied {
            out.push((self.head_tensor(), vec![self.vocab, self.hidden]));
        }
        out
    }

    /// Name of the output projection's weight.
    pub fn head_tensor(&self) -> String {
        format!("{}.weight", self.arch.names.head)
    }

    /// Every tensor that the network needs.
    pub fn tensor_names(&self) -> Vec<String> {
        let mut out: Vec<String> = self.end_tensors().into_iter().map(|(name, _)| name).collect();
        for layer in 0..self.layers {
            for (_, name) in self.arch.names.norms {
                let name = self.block_prefix(layer) + name;
                out.extend(self.norms_have_biases().then(|| format!("{name}.bias")));
                out.push(format!("{name}.weight"));
            }
            for module in self.stored(layer) {
                out.extend(module.bias.then(|| format!("{}.bias", module.name)));
                out.push(format!("{}.weight", module.name));
            }
        }
        out
    }

    /// Fails with lists of what is missing and what is left over unless the tensors are those of the network.
    pub fn check_tensors(&self, source: &dyn TensorSource) -> Result<()> {
        let found: BTreeSet<String> = source.names().into_iter().collect();
        let expected: BTreeSet<String> = self.tensor_names().into_iter().collect();
        let missing: Vec<String> = expected.difference(&found).cloned().collect();
        let belongs = |name: &&String| **name == self.head_tensor() || BESIDE.iter().any(|end| name.ends_with(end));
        let left_over: Vec<String> = found.difference(&expected).filter(|name| !belongs(name)).cloned().collect();
        if missing.is_empty() && left_over.is_empty() {
            return Ok(());
        }
        Err(Error::Tensors { family: self.arch.name, missing, left_over })
    }
}
