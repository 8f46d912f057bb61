//! Qwen2 and Qwen2.5: Llama with biases on q, k and v, and windows in upper layers when asked.
use crate::arch::{Arch, Flag, LLAMA_NAMES, Window};

/// The declaration.
pub const QWEN2: Arch = Arch {
    name: "Qwen2",
    classes: &["Qwen2ForCausalLM"],
    names: &LLAMA_NAMES,
    qkv_bias: Flag::Always,
    o_bias: Flag::Never,
    mlp_bias: Flag::Never,
    window: Window::Upper,
    norm_offset: 0.0,
    mixture: None,
};
