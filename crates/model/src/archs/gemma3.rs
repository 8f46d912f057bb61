//! Gemma 3, text: Gemma 2 with norms on queries and keys, and a rule of rotation of its own where there is a window.
use super::gemma2::GEMMA2;
use crate::arch::{Arch, LLAMA_NAMES, Names, Place, Rope, Window};

/// The declaration.
pub const GEMMA3: Arch = Arch {
    name: "Gemma 3",
    classes: &["Gemma3ForCausalLM"],
    names: &NAMES,
    rope: Rope::ByWindow,
    window: Window::Pattern("sliding_window_pattern", 6),
    ..GEMMA2
};

const NAMES: Names = Names {
    norms: &[
        (Place::BeforeAttention, "input_layernorm"),
        (Place::Queries, "self_attn.q_norm"),
        (Place::Keys, "self_attn.k_norm"),
        (Place::AfterAttention, "post_attention_layernorm"),
        (Place::BeforeMlp, "pre_feedforward_layernorm"),
        (Place::AfterMlp, "post_feedforward_layernorm"),
    ],
    ..LLAMA_NAMES
};
