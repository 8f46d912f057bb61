//! InternLM3: Llama with biases that are asked for by other names.
use super::llama::LLAMA;
use crate::arch::{Arch, Flag};

/// The declaration.
pub const INTERNLM3: Arch = Arch {
    name: "InternLM3",
    classes: &["InternLM3ForCausalLM"],
    qkv_bias: Flag::Config("qkv_bias"),
    o_bias: Flag::Config("bias"),
    mlp_bias: Flag::Config("bias"),
    ..LLAMA
};
