//! Gemma 2: norms by `1 + w` on both sides of attention and MLP, capped scores and logits, windows in every other layer.
use super::llama::LLAMA;
use crate::arch::{Arch, Fields, Flag, LLAMA_NAMES, Must, Names, NormKind, Place, Scale, Scales, Scores, Window};

/// The declaration.
pub const GEMMA2: Arch = Arch {
    name: "Gemma 2",
    classes: &["Gemma2ForCausalLM"],
    names: &NAMES,
    fields: Fields {
        activation: "hidden_activation",
        default_activation: "gelu_pytorch_tanh",
        ..super::llama::LLAMA_FIELDS
    },
    tied: true,
    mlp_bias: Flag::Never,
    norm: NormKind::Rms { offset: 1.0 },
    window: Window::Pattern("sliding_window_pattern", 2),
    scales: Scales {
        embeddings: Scale::RootHidden,
        scores: Scores::InverseRoot("query_pre_attn_scalar"),
        score_cap: Some("attn_logit_softcapping"),
        logit_cap: Some("final_logit_softcapping"),
        ..Scales::PLAIN
    },
    musts: &[("use_bidirectional_attention", Must::Be(false))],
    ..LLAMA
};

const NAMES: Names = Names {
    norms: &[
        (Place::BeforeAttention, "input_layernorm"),
        (Place::AfterAttention, "post_attention_layernorm"),
        (Place::BeforeMlp, "pre_feedforward_layernorm"),
        (Place::AfterMlp, "post_feedforward_layernorm"),
    ],
    ..LLAMA_NAMES
};
