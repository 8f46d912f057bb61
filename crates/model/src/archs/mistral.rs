//! Mistral 7B and its successors: Llama with a sliding window.
use crate::arch::{Arch, Flag, LLAMA_NAMES, Window};

/// The declaration.
pub const MISTRAL: Arch = Arch {
    name: "Mistral",
    classes: &["MistralForCausalLM"],
    names: &LLAMA_NAMES,
    qkv_bias: Flag::Never,
    o_bias: Flag::Never,
    mlp_bias: Flag::Never,
    window: Window::All,
    norm_offset: 0.0,
    mixture: None,
};
