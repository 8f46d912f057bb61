//! StarCoder2: biases everywhere, norms that take off the mean, an MLP without gate.
use super::llama::{LLAMA, LLAMA_FIELDS};
use crate::arch::{Arch, DOWN, Epsilon, Fields, Flag, LLAMA_NAMES, Module, Names, NormKind, O, Role, UP, Window};

/// The declaration.
pub const STARCODER2: Arch = Arch {
    name: "StarCoder2",
    classes: &["Starcoder2ForCausalLM"],
    names: &NAMES,
    fields: Fields { eps: Epsilon::Field("norm_epsilon"), default_activation: "gelu_pytorch_tanh", ..LLAMA_FIELDS },
    tied: true,
    qkv_bias: Flag::ConfigUnless("use_bias"),
    o_bias: Flag::ConfigUnless("use_bias"),
    mlp_bias: Flag::ConfigUnless("use_bias"),
    norm: NormKind::Layer,
    window: Window::All,
    gated: false,
    ..LLAMA
};

const NAMES: Names = Names {
    modules: &[
        Module::of("self_attn.q_proj", &[Role::Q]),
        Module::of("self_attn.k_proj", &[Role::K]),
        Module::of("self_attn.v_proj", &[Role::V]),
        Module::of("self_attn.o_proj", O),
        Module::of("mlp.c_fc", UP),
        Module::of("mlp.c_proj", DOWN),
    ],
    ..LLAMA_NAMES
};
