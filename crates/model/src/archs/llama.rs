//! Llama 1 to 3.3 and the many models that share its shape (SmolLM2, TinyLlama, Vicuna, …).
use crate::arch::{Arch, Epsilon, Fields, Flag, LLAMA_NAMES, NormKind, Rope, Scales, Span, Window};

/// The declaration; most others say where they differ from it.
pub const LLAMA: Arch = Arch {
    name: "Llama",
    classes: &["LlamaForCausalLM"],
    names: &LLAMA_NAMES,
    fields: LLAMA_FIELDS,
    tied: false,
    qkv_bias: Flag::Config("attention_bias"),
    o_bias: Flag::Config("attention_bias"),
    mlp_bias: Flag::Config("mlp_bias"),
    norm: NormKind::Rms { offset: 0.0 },
    head_norm: Span::Head,
    rope: Rope::Always,
    interleaved: false,
    window: Window::Never,
    gated: true,
    parallel: Flag::Never,
    scales: Scales::PLAIN,
    musts: &[],
    mixture: None,
};

/// The fields that Llama introduced.
pub const LLAMA_FIELDS: Fields = Fields {
    ffn: "intermediate_size",
    eps: Epsilon::Field("rms_norm_eps"),
    activation: "hidden_act",
    default_activation: "silu",
};
