//! Mixtral 8x7B and 8x22B: Mistral with a mixture of experts in every layer.
use crate::arch::{Arch, Flag, Mixture, Sparse, Window};

/// The declaration.
pub const MIXTRAL: Arch = Arch {
    name: "Mixtral",
    classes: &["MixtralForCausalLM"],
    qkv_bias: Flag::Never,
    o_bias: Flag::Never,
    mlp_bias: Flag::Never,
    window: Window::All,
    mixture: Some(&MIXTURE),
    ..super::llama::LLAMA
};

const MIXTURE: Mixture = Mixture {
    layers: Sparse::All,
    count: &["num_local_experts"],
    chosen: "num_experts_per_tok",
    width: "intermediate_size",
    normalize: Flag::Always,
    router: "block_sparse_moe.gate",
    experts: ["block_sparse_moe.experts.{}.w1", "block_sparse_moe.experts.{}.w3", "block_sparse_moe.experts.{}.w2"],
    shared: None,
};
