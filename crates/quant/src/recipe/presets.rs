//! llm-compressor's preset schemes: what the 8-bit ones say, and the names of those that this tool does not make.
use planish_checkpoint::scheme::{ActQuant, ActUnit, LinearScheme, QuantType, ScaleType, WeightQuant, WeightStrategy};

/// Presets with 8-bit weights and 8-bit activations. `FP8_E5M2_DYNAMIC` is this tool's own, for LMDeploy's layout.
pub(super) const PRESETS: [(&str, LinearScheme); 7] = [
    ("W8A8", dynamic(QuantType::Int8)),
    ("INT8", dynamic(QuantType::Int8)),
    ("FP8", scheme(QuantType::Fp8E4M3, WeightStrategy::Tensor, ActQuant::Static { symmetric: true })),
    ("FP8_DYNAMIC", dynamic(QuantType::Fp8E4M3)),
    ("FP8_BLOCK", scheme(QuantType::Fp8E4M3, WeightStrategy::Block { rows: 128, columns: 128 }, grouped(128))),
    ("MXFP8", LinearScheme { weights: mx(), activations: grouped(32) }),
    ("FP8_E5M2_DYNAMIC", dynamic(QuantType::Fp8E5M2)),
];

/// Presets of llm-compressor with other than 8 bits, or with weights alone.
pub(super) const OTHERS: [&str; 17] = [
    "UNQUANTIZED",
    "W8A16",
    "W4A16",
    "W4A16_ASYM",
    "W4A8",
    "W4AFP8",
    "W2A16",
    "W3A16",
    "W5A16",
    "W6A16",
    "W7A16",
    "W4A4",
    "NVFP4",
    "NVFP4A16",
    "MXFP4",
    "MXFP4A16",
    "MXFP8A16",
];

/// One scale for each output channel; activations per token.
pub(super) const fn dynamic(dtype: QuantType) -> LinearScheme {
    let activations = ActQuant::Dynamic { unit: ActUnit::Token, symmetric: true };
    scheme(dtype, WeightStrategy::Channel, activations)
}

const fn scheme(dtype: QuantType, strategy: WeightStrategy, activations: ActQuant) -> LinearScheme {
    let weights = WeightQuant { dtype, strategy, scale: ScaleType::Float, act_order: false };
    LinearScheme { weights, activations }
}

const fn grouped(size: usize) -> ActQuant {
    ActQuant::Dynamic { unit: ActUnit::Group(size), symmetric: true }
}

const fn mx() -> WeightQuant {
    let (dtype, strategy) = (QuantType::Fp8E4M3, WeightStrategy::Group(32));
    WeightQuant { dtype, strategy, scale: ScaleType::Exponent, act_order: false }
}
