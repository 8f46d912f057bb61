//! The vocabulary in which an architecture is declared. A declaration is data: loader, forward pass, smoother and
//! GPTQ all read it, and nothing else knows the family's name.

/// One family of networks.
#[derive(Debug)]
pub struct Arch {
    /// The name that people see.
    pub name: &'static str,
    /// `architectures` entries of `config.json` that mean this family.
    pub classes: &'static [&'static str],
    /// Where its tensors are.
    pub names: &'static Names,
    /// Bias on q, k and v.
    pub qkv_bias: Flag,
    /// Bias on o.
    pub o_bias: Flag,
    /// Bias on gate, up and down.
    pub mlp_bias: Flag,
    /// Which layers see a sliding window.
    pub window: Window,
    /// Added to the stored norm weight when it is applied.
    pub norm_offset: f32,
}

/// Whether something is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flag {
    /// In every model.
    Always,
    /// In none.
    Never,
    /// If this boolean field of the configuration is true.
    Config(&'static str),
}

/// Which layers attend to a sliding window only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Window {
    /// None.
    Never,
    /// All, if `sliding_window` is given.
    All,
    /// If `use_sliding_window`: the layers that `layer_types` names, or those from `max_window_layers` on.
    Upper,
}

/// Names of a family's tensors; `{}` stands for the block's number.
#[derive(Debug)]
pub struct Names {
    /// Token embedding `[v, h]`.
    pub embed: &'static str,
    /// Final norm `[h]`.
    pub norm: &'static str,
    /// Output projection, without `.weight`.
    pub head: &'static str,
    /// Prefix of a block.
    pub block: &'static str,
    /// Norm before attention, after the prefix.
    pub attention_norm: &'static str,
    /// Norm before the MLP, after the prefix.
    pub mlp_norm: &'static str,
    /// Modules of a block in the order of [`Role::ALL`], after the prefix.
    pub linears: [&'static str; 7],
}

/// The names that Llama introduced and most families kept.
pub const LLAMA_NAMES: Names = Names {
    embed: "model.embed_tokens.weight",
    norm: "model.norm.weight",
    head: "lm_head",
    block: "model.layers.{}.",
    attention_norm: "input_layernorm.weight",
    mlp_norm: "post_attention_layernorm.weight",
    linears: [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.o_proj",
        "mlp.gate_proj",
        "mlp.up_proj",
        "mlp.down_proj",
    ],
};

/// What a linear of a block is for. Everything else about it follows from this.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    /// Queries.
    Q,
    /// Keys.
    K,
    /// Values.
    V,
    /// Attention output.
    O,
    /// MLP gate.
    Gate,
    /// MLP up.
    Up,
    /// MLP down.
    Down,
}

impl Role {
    /// Every role, in the order of a block.
    pub const ALL: [Role; 7] = [Role::Q, Role::K, Role::V, Role::O, Role::Gate, Role::Up, Role::Down];

    /// What it reads; linears with the same input share one Gram matrix and one fused product.
    pub const fn input(self) -> Input {
        match self {
            Role::Q | Role::K | Role::V => Input::AttentionNorm,
            Role::O => Input::AttentionOutput,
            Role::Gate | Role::Up => Input::MlpNorm,
            Role::Down => Input::MlpInner,
        }
    }
}

/// The four distinct inputs of a block's linears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Input {
    /// Output of the norm before attention `[t, h]`.
    AttentionNorm,
    /// Attention output `[t, nq d]`.
    AttentionOutput,
    /// Output of the norm before the MLP `[t, h]`.
    MlpNorm,
    /// act(gate)·up `[t, f]`.
    MlpInner,
}

impl Input {
    /// Every input, in the order of a block.
    pub const ALL: [Input; 4] = [Input::AttentionNorm, Input::AttentionOutput, Input::MlpNorm, Input::MlpInner];

    /// The linears that read it.
    pub const fn readers(self) -> &'static [Role] {
        match self {
            Input::AttentionNorm => &[Role::Q, Role::K, Role::V],
            Input::AttentionOutput => &[Role::O],
            Input::MlpNorm => &[Role::Gate, Role::Up],
            Input::MlpInner => &[Role::Down],
        }
    }

    /// Where 1/s goes when the input's channels are smoothed by s.
    pub const fn absorber(self) -> Absorber {
        match self {
            Input::AttentionNorm => Absorber::AttentionNorm,
            Input::AttentionOutput => Absorber::Rows(Role::V),
            Input::MlpNorm => Absorber::MlpNorm,
            Input::MlpInner => Absorber::Rows(Role::Up),
        }
    }

    /// The name that reports use.
    pub const fn name(self) -> &'static str {
        match self {
            Input::AttentionNorm => "attention_norm",
            Input::AttentionOutput => "attention_output",
            Input::MlpNorm => "mlp_norm",
            Input::MlpInner => "mlp_inner",
        }
    }
}

/// What takes up the inverse of a smoothing factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Absorber {
    /// The weight of the norm before attention.
    AttentionNorm,
    /// The weight of the norm before the MLP.
    MlpNorm,
    /// The output rows (and bias) of a linear; v's rows serve a whole query group.
    Rows(Role),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_linear_has_one_input() {
        for role in Role::ALL {
            assert!(role.input().readers().contains(&role));
        }
        let readers: usize = Input::ALL.iter().map(|i| i.readers().len()).sum();
        assert_eq!(readers, Role::ALL.len());
    }
}
