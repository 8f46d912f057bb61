//! Phi-3, Phi-3.5 and Phi-4: fused q, k, v and gate, up; LongRoPE on all or a part of a head.
use super::mistral::MISTRAL;
use crate::arch::{Arch, DOWN, GATE_UP, LLAMA_NAMES, Module, Names, O, QKV};

/// The declaration.
pub const PHI3: Arch = Arch { name: "Phi-3", classes: &["Phi3ForCausalLM"], names: &NAMES, ..MISTRAL };

const NAMES: Names = Names {
    modules: &[
        Module::of("self_attn.qkv_proj", QKV),
        Module::of("self_attn.o_proj", O),
        Module::of("mlp.gate_up_proj", GATE_UP),
        Module::of("mlp.down_proj", DOWN),
    ],
    ..LLAMA_NAMES
};
