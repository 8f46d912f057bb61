//! InternLM2 and 2.5: Llama's network under other names, with q, k and v in one module by key/value head.
use super::llama::LLAMA;
use crate::arch::{Arch, DOWN, Flag, GATE, Module, Names, O, Place, QKV, Rows, UP};

/// The declaration.
pub const INTERNLM2: Arch = Arch {
    name: "InternLM2",
    classes: &["InternLM2ForCausalLM"],
    names: &NAMES,
    qkv_bias: Flag::ConfigUnless("bias"),
    o_bias: Flag::ConfigUnless("bias"),
    mlp_bias: Flag::Never,
    ..LLAMA
};

const NAMES: Names = Names {
    embed: "model.tok_embeddings.weight",
    positions: None,
    norm: "model.norm",
    head: "output",
    block: "model.layers.{}.",
    norms: &[(Place::BeforeAttention, "attention_norm"), (Place::BeforeMlp, "ffn_norm")],
    modules: &[
        Module { name: "attention.wqkv", roles: QKV, rows: Rows::ByKvHead },
        Module::of("attention.wo", O),
        Module::of("feed_forward.w1", GATE),
        Module::of("feed_forward.w3", UP),
        Module::of("feed_forward.w2", DOWN),
    ],
};
