//! OLMo 2: norms behind attention and MLP instead of before them, and norms of all queries and of all keys.
use super::llama::LLAMA;
use crate::arch::{Arch, Flag, LLAMA_NAMES, Names, Place, Span};

/// The declaration.
pub const OLMO2: Arch = Arch {
    name: "OLMo 2",
    classes: &["Olmo2ForCausalLM"],
    names: &NAMES,
    mlp_bias: Flag::Never,
    head_norm: Span::Heads,
    ..LLAMA
};

const NAMES: Names = Names {
    norms: &[
        (Place::Queries, "self_attn.q_norm"),
        (Place::Keys, "self_attn.k_norm"),
        (Place::AfterAttention, "post_attention_layernorm"),
        (Place::AfterMlp, "post_feedforward_layernorm"),
    ],
    ..LLAMA_NAMES
};
