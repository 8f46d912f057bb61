//! The list of architectures. Help, errors, docs and tests come from it.
use crate::arch::Arch;

mod llama;
mod mistral;
mod mixtral;
mod qwen2;
mod qwen2_moe;

/// Every family that Planish knows.
pub const ARCHS: [&Arch; 5] =
    [&llama::LLAMA, &mistral::MISTRAL, &mixtral::MIXTRAL, &qwen2::QWEN2, &qwen2_moe::QWEN2_MOE];

/// Gate, up and down of Qwen's experts.
const QWEN_EXPERTS: [&str; 3] = ["mlp.experts.{}.gate_proj", "mlp.experts.{}.up_proj", "mlp.experts.{}.down_proj"];

/// The family of a class name from `config.json`.
pub fn find(class: &str) -> Option<&'static Arch> {
    ARCHS.into_iter().find(|a| a.classes.contains(&class))
}

/// Every class name, for messages.
pub fn known_classes() -> String {
    let names: Vec<&str> = ARCHS.iter().flat_map(|a| a.classes.iter().copied()).collect();
    names.join(", ")
}
