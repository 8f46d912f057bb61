//! Qwen3: norms on each head's queries and keys, and heads whose width is stated.
use super::qwen2::QWEN2;
use crate::arch::{Arch, Flag, LLAMA_NAMES, Names, Place};

/// The declaration.
pub const QWEN3: Arch = Arch {
    name: "Qwen3",
    classes: &["Qwen3ForCausalLM"],
    names: &QWEN3_NAMES,
    qkv_bias: Flag::Config("attention_bias"),
    o_bias: Flag::Config("attention_bias"),
    ..QWEN2
};

/// Llama's names and two norms.
pub const QWEN3_NAMES: Names = Names {
    norms: &[
        (Place::BeforeAttention, "input_layernorm"),
        (Place::Queries, "self_attn.q_norm"),
        (Place::Keys, "self_attn.k_norm"),
        (Place::BeforeMlp, "post_attention_layernorm"),
    ],
    ..LLAMA_NAMES
};
