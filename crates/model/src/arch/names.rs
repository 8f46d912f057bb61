//! Where a family's tensors are, and which linears share one.
use super::{Mlp, Role};

/// Names of a family's tensors; `{}` stands for the block's number. Modules are named without `.weight`.
#[derive(Debug)]
pub struct Names {
    /// Token embedding `[v, h]`, with `.weight`.
    pub embed: &'static str,
    /// Table of learned positions `[p, h]`, with `.weight`, and the row of position 0.
    pub positions: Option<(&'static str, usize)>,
    /// Final norm `[h]`.
    pub norm: &'static str,
    /// Output projection.
    pub head: &'static str,
    /// Prefix of a block.
    pub block: &'static str,
    /// The norms that a block has, after the prefix.
    pub norms: &'static [(Place, &'static str)],
    /// Modules of a block in their order, after the prefix; those of mixtures are [`super::Mixture`]'s.
    pub modules: &'static [Module],
}

/// Where in a block a norm is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Place {
    /// On the hidden state that attention reads.
    BeforeAttention,
    /// On the queries, before they are rotated.
    Queries,
    /// On the keys, before they are rotated.
    Keys,
    /// On what attention adds.
    AfterAttention,
    /// On the hidden state that the MLP reads.
    BeforeMlp,
    /// On what the MLP adds.
    AfterMlp,
}

/// A module of the files: one linear, or several with a common input.
#[derive(Debug)]
pub struct Module {
    /// Its name, after the block's prefix.
    pub name: &'static str,
    /// The linears whose rows it holds.
    pub roles: &'static [Role],
    /// In which order.
    pub rows: Rows,
}

/// The order of rows in a module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rows {
    /// One linear after the other.
    InTurn,
    /// For each key/value head: its query heads, its key head, its value head.
    ByKvHead,
}

impl Module {
    /// A module of one linear, or of several one after the other.
    pub const fn of(name: &'static str, roles: &'static [Role]) -> Module {
        Module { name, roles, rows: Rows::InTurn }
    }
}

/// Queries, keys and values, where one module holds them.
pub const QKV: &[Role] = &[Role::Q, Role::K, Role::V];
/// Attention output.
pub const O: &[Role] = &[Role::O];
/// MLP gate.
pub const GATE: &[Role] = &[Role::Gate(Mlp::Dense)];
/// MLP up.
pub const UP: &[Role] = &[Role::Up(Mlp::Dense)];
/// MLP gate and up, where one module holds them.
pub const GATE_UP: &[Role] = &[Role::Gate(Mlp::Dense), Role::Up(Mlp::Dense)];
/// MLP down.
pub const DOWN: &[Role] = &[Role::Down(Mlp::Dense)];

/// The names that Llama introduced and most families kept.
pub const LLAMA_NAMES: Names = Names {
    embed: "model.embed_tokens.weight",
    positions: None,
    norm: "model.norm",
    head: "lm_head",
    block: "model.layers.{}.",
    norms: &[(Place::BeforeAttention, "input_layernorm"), (Place::BeforeMlp, "post_attention_layernorm")],
    modules: &[
        Module::of("self_attn.q_proj", &[Role::Q]),
        Module::of("self_attn.k_proj", &[Role::K]),
        Module::of("self_attn.v_proj", &[Role::V]),
        Module::of("self_attn.o_proj", O),
        Module::of("mlp.gate_proj", GATE),
        Module::of("mlp.up_proj", UP),
        Module::of("mlp.down_proj", DOWN),
    ],
};
