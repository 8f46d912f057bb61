//! Llama 1 to 3.3 and the many models that share its shape (SmolLM2, TinyLlama, Vicuna, …).
use crate::arch::{Arch, Flag, LLAMA_NAMES, Window};

/// The declaration.
pub const LLAMA: Arch = Arch {
    name: "Llama",
    classes: &["LlamaForCausalLM"],
    names: &LLAMA_NAMES,
    qkv_bias: Flag::Config("attention_bias"),
    o_bias: Flag::Config("attention_bias"),
    mlp_bias: Flag::Config("mlp_bias"),
    window: Window::Never,
    norm_offset: 0.0,
    mixture: None,
};
