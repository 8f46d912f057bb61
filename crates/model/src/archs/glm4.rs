//! GLM-4 (0414 and Z1): norms on both sides, neighbouring pairs of a part of each head rotate, gate and up in one module.
use super::llama::LLAMA;
use crate::arch::{Arch, DOWN, Flag, GATE_UP, LLAMA_NAMES, Module, Names, O, Place, Role};

/// The declaration.
pub const GLM4: Arch = Arch {
    name: "GLM-4",
    classes: &["Glm4ForCausalLM"],
    names: &NAMES,
    o_bias: Flag::Never,
    mlp_bias: Flag::Never,
    interleaved: true,
    ..LLAMA
};

const NAMES: Names = Names {
    norms: &[
        (Place::BeforeAttention, "input_layernorm"),
        (Place::AfterAttention, "post_self_attn_layernorm"),
        (Place::BeforeMlp, "post_attention_layernorm"),
        (Place::AfterMlp, "post_mlp_layernorm"),
    ],
    modules: &[
        Module::of("self_attn.q_proj", &[Role::Q]),
        Module::of("self_attn.k_proj", &[Role::K]),
        Module::of("self_attn.v_proj", &[Role::V]),
        Module::of("self_attn.o_proj", O),
        Module::of("mlp.gate_up_proj", GATE_UP),
        Module::of("mlp.down_proj", DOWN),
    ],
    ..LLAMA_NAMES
};
