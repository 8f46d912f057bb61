//! Qwen1.5-MoE and Qwen2-MoE: Qwen2 with many small experts and one that sees every token.
use crate::arch::{Arch, Flag, Mixture, SharedExpert, Sparse, Window};

/// The declaration.
pub const QWEN2_MOE: Arch = Arch {
    name: "Qwen2-MoE",
    classes: &["Qwen2MoeForCausalLM"],
    qkv_bias: Flag::ConfigUnless("qkv_bias"),
    o_bias: Flag::Never,
    mlp_bias: Flag::Never,
    window: Window::Upper,
    mixture: Some(&QWEN2_MIXTURE),
    ..super::llama::LLAMA
};

/// Its mixtures.
pub const QWEN2_MIXTURE: Mixture = Mixture {
    layers: Sparse::Step,
    count: &["num_experts", "num_local_experts"],
    chosen: "num_experts_per_tok",
    width: "moe_intermediate_size",
    normalize: Flag::Config("norm_topk_prob"),
    router: "mlp.gate",
    experts: super::QWEN_EXPERTS,
    shared: Some(SharedExpert {
        width: "shared_expert_intermediate_size",
        gate: "mlp.shared_expert_gate",
        linears: ["mlp.shared_expert.gate_proj", "mlp.shared_expert.up_proj", "mlp.shared_expert.down_proj"],
    }),
};
