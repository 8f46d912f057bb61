//! Qwen3-MoE (30B-A3B, 235B-A22B): Qwen3 with many small experts, and dense layers where the configuration lists them.
use super::qwen2_moe::QWEN2_MIXTURE;
use super::qwen3::QWEN3;
use crate::arch::{Arch, Mixture, Window};

/// The declaration.
pub const QWEN3_MOE: Arch = Arch {
    name: "Qwen3-MoE",
    classes: &["Qwen3MoeForCausalLM"],
    window: Window::Asked,
    mixture: Some(&Mixture { shared: None, ..QWEN2_MIXTURE }),
    ..QWEN3
};
