//! Mistral 7B and its successors: Llama with a sliding window.
use super::llama::LLAMA;
use crate::arch::{Arch, Flag, Window};

/// The declaration.
pub const MISTRAL: Arch = Arch {
    name: "Mistral",
    classes: &["MistralForCausalLM"],
    qkv_bias: Flag::Never,
    o_bias: Flag::Never,
    mlp_bias: Flag::Never,
    window: Window::All,
    ..LLAMA
};
