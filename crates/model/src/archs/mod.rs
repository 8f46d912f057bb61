//! The list of architectures. Help, errors, docs and tests come from it.
use crate::arch::Arch;

mod llama;
mod mistral;
mod qwen2;

/// Every family that Planish knows.
pub const ARCHS: [&Arch; 3] = [&llama::LLAMA, &mistral::MISTRAL, &qwen2::QWEN2];

/// The family of a class name from `config.json`.
pub fn find(class: &str) -> Option<&'static Arch> {
    ARCHS.into_iter().find(|a| a.classes.contains(&class))
}

/// Every class name, for messages.
pub fn known_classes() -> String {
    let names: Vec<&str> = ARCHS.iter().flat_map(|a| a.classes.iter().copied()).collect();
    names.join(", ")
}
