//! The list of architectures. Help, errors, docs and tests come from it.
use crate::arch::Arch;

mod gemma2;
mod gemma3;
mod glm4;
mod gpt_neox;
mod granite;
mod internlm2;
mod internlm3;
mod llama;
mod mistral;
mod mixtral;
mod olmo2;
mod opt;
mod phi3;
mod qwen2;
mod qwen2_moe;
mod qwen3;
mod qwen3_moe;
mod smollm3;
mod starcoder2;

/// Every family that Planish knows.
pub const ARCHS: [&Arch; 19] = [
    &gemma2::GEMMA2,
    &gemma3::GEMMA3,
    &glm4::GLM4,
    &gpt_neox::GPT_NEOX,
    &granite::GRANITE,
    &internlm2::INTERNLM2,
    &internlm3::INTERNLM3,
    &llama::LLAMA,
    &mistral::MISTRAL,
    &mixtral::MIXTRAL,
    &olmo2::OLMO2,
    &opt::OPT,
    &phi3::PHI3,
    &qwen2::QWEN2,
    &qwen2_moe::QWEN2_MOE,
    &qwen3::QWEN3,
    &qwen3_moe::QWEN3_MOE,
    &smollm3::SMOLLM3,
    &starcoder2::STARCODER2,
];

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
