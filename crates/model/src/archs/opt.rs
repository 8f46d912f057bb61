//! OPT: learned positions, norms that take off the mean, an MLP without gate; of the models of the SmoothQuant paper.
use super::llama::LLAMA;
use crate::arch::{Arch, DOWN, Epsilon, Fields, Flag, Module, Must, Names, NormKind, O, Place, Role, Rope, UP};

/// The declaration.
pub const OPT: Arch = Arch {
    name: "OPT",
    classes: &["OPTForCausalLM"],
    names: &NAMES,
    fields: Fields {
        ffn: "ffn_dim",
        eps: Epsilon::Fixed(1e-5),
        activation: "activation_function",
        default_activation: "relu",
    },
    tied: true,
    qkv_bias: Flag::ConfigUnless("enable_bias"),
    o_bias: Flag::ConfigUnless("enable_bias"),
    mlp_bias: Flag::ConfigUnless("enable_bias"),
    norm: NormKind::Layer,
    rope: Rope::Never,
    gated: false,
    musts: &[
        ("do_layer_norm_before", Must::Be(true)),
        ("_remove_final_layer_norm", Must::Be(false)),
        ("layer_norm_elementwise_affine", Must::Be(true)),
        ("word_embed_proj_dim", Must::Equal("hidden_size")),
    ],
    ..LLAMA
};

const NAMES: Names = Names {
    embed: "model.decoder.embed_tokens.weight",
    positions: Some(("model.decoder.embed_positions.weight", 2)),
    norm: "model.decoder.final_layer_norm",
    head: "lm_head",
    block: "model.decoder.layers.{}.",
    norms: &[(Place::BeforeAttention, "self_attn_layer_norm"), (Place::BeforeMlp, "final_layer_norm")],
    modules: &[
        Module::of("self_attn.q_proj", &[Role::Q]),
        Module::of("self_attn.k_proj", &[Role::K]),
        Module::of("self_attn.v_proj", &[Role::V]),
        Module::of("self_attn.out_proj", O),
        Module::of("fc1", UP),
        Module::of("fc2", DOWN),
    ],
};
