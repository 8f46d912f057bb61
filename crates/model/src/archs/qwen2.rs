//! Qwen2 and Qwen2.5: Llama with biases on q, k and v, and windows in upper layers when asked.
use super::llama::LLAMA;
use crate::arch::{Arch, Flag, Window};

/// The declaration.
pub const QWEN2: Arch = Arch {
    name: "Qwen2",
    classes: &["Qwen2ForCausalLM"],
    qkv_bias: Flag::Always,
    o_bias: Flag::Never,
    mlp_bias: Flag::Never,
    window: Window::Upper,
    ..LLAMA
};
