//! GPT-NeoX and Pythia: attention and MLP side by side, q, k and v in one module by head, a part of each head rotates.
use super::llama::{LLAMA, LLAMA_FIELDS};
use crate::arch::{Arch, DOWN, Epsilon, Fields, Flag, Module, Names, NormKind, O, Place, QKV, Rows, UP};

/// The declaration.
pub const GPT_NEOX: Arch = Arch {
    name: "GPT-NeoX",
    classes: &["GPTNeoXForCausalLM"],
    names: &NAMES,
    fields: Fields { eps: Epsilon::Field("layer_norm_eps"), default_activation: "gelu", ..LLAMA_FIELDS },
    qkv_bias: Flag::ConfigUnless("attention_bias"),
    o_bias: Flag::ConfigUnless("attention_bias"),
    mlp_bias: Flag::Always,
    norm: NormKind::Layer,
    gated: false,
    parallel: Flag::ConfigUnless("use_parallel_residual"),
    ..LLAMA
};

const NAMES: Names = Names {
    embed: "gpt_neox.embed_in.weight",
    positions: None,
    norm: "gpt_neox.final_layer_norm",
    head: "embed_out",
    block: "gpt_neox.layers.{}.",
    norms: &[(Place::BeforeAttention, "input_layernorm"), (Place::BeforeMlp, "post_attention_layernorm")],
    modules: &[
        Module { name: "attention.query_key_value", roles: QKV, rows: Rows::ByKvHead },
        Module::of("attention.dense", O),
        Module::of("mlp.dense_h_to_4h", UP),
        Module::of("mlp.dense_4h_to_h", DOWN),
    ],
};
