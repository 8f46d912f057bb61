//! SmolLM3: Llama with layers that rotate nothing.
use super::llama::LLAMA;
use crate::arch::{Arch, Rope, Window};

/// The declaration.
pub const SMOLLM3: Arch = Arch {
    name: "SmolLM3",
    classes: &["SmolLM3ForCausalLM"],
    tied: true,
    rope: Rope::Listed,
    window: Window::Upper,
    ..LLAMA
};
