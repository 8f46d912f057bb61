//! Granite 3: Llama with four constant factors.
use super::llama::LLAMA;
use crate::arch::{Arch, Scale, Scales, Scores};

/// The declaration.
pub const GRANITE: Arch = Arch {
    name: "Granite",
    classes: &["GraniteForCausalLM"],
    scales: Scales {
        embeddings: Scale::Field("embedding_multiplier"),
        residual: Scale::Field("residual_multiplier"),
        scores: Scores::Field("attention_multiplier"),
        logits: Scale::Field("logits_scaling"),
        ..Scales::PLAIN
    },
    ..LLAMA
};
