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
    /// Where MLPs are mixtures of experts.
    pub mixture: Option<&'static Mixture>,
}

/// Layers whose MLP is a mixture of experts: a router chooses some experts for each token.
#[derive(Debug)]
pub struct Mixture {
    /// Which layers they are.
    pub layers: Sparse,
    /// Fields of the number of experts; the first that is there counts.
    pub count: &'static [&'static str],
    /// Field of the number of experts chosen for each token.
    pub chosen: &'static str,
    /// Field of the width of an expert's MLP.
    pub width: &'static str,
    /// The weights of the chosen experts are made to sum to 1.
    pub normalize: Flag,
    /// Module of the router, after the block's prefix.
    pub router: &'static str,
    /// Modules of gate, up and down, after the block's prefix; `{}` stands for the expert's number.
    pub experts: [&'static str; 3],
    /// An expert that sees every token.
    pub shared: Option<SharedExpert>,
}

/// Which layers are mixtures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sparse {
    /// All.
    All,
    /// Every `decoder_sparse_step`-th one, but none of `mlp_only_layers`.
    Step,
}

/// An expert that sees every token, and whose output is multiplied by the sigmoid of a gate of its own.
#[derive(Debug)]
pub struct SharedExpert {
    /// Field of the width of its MLP.
    pub width: &'static str,
    /// Module of the gate `[1, h]`, after the block's prefix.
    pub gate: &'static str,
    /// Modules of gate, up and down, after the block's prefix.
    pub linears: [&'static str; 3],
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
    /// Unless this boolean field of the configuration is false.
    ConfigUnless(&'static str),
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
    /// Modules q, k, v, o, gate, up and down of a block, after the prefix.
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

/// Which MLP of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Mlp {
    /// The only one.
    Dense,
    /// Of a mixture, the expert that sees every token.
    Shared,
    /// Of a mixture, one that the router chooses.
    Expert(u16),
}

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
    /// A mixture's choice of experts `[e, h]`.
    Router,
    /// The weight of the shared expert `[1, h]`.
    SharedGate,
    /// MLP gate.
    Gate(Mlp),
    /// MLP up.
    Up(Mlp),
    /// MLP down.
    Down(Mlp),
}

impl Role {
    /// What it reads; linears with the same input share one Gram matrix.
    pub const fn input(self) -> Input {
        match self {
            Role::Q | Role::K | Role::V => Input::AttentionNorm,
            Role::O => Input::AttentionOutput,
            Role::Gate(Mlp::Expert(e)) | Role::Up(Mlp::Expert(e)) => Input::Routed(e),
            Role::Router | Role::SharedGate | Role::Gate(_) | Role::Up(_) => Input::MlpNorm,
            Role::Down(mlp) => Input::MlpInner(mlp),
        }
    }

    /// Whether it decides where tokens go: such linears stay in float, whatever is asked.
    pub const fn steers(self) -> bool {
        matches!(self, Role::Router | Role::SharedGate)
    }
}

/// The distinct inputs of a block's linears.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Input {
    /// Output of the norm before attention `[t, h]`.
    AttentionNorm,
    /// Attention output `[t, nq d]`.
    AttentionOutput,
    /// Output of the norm before the MLP `[t, h]`.
    MlpNorm,
    /// The rows of that which an expert is given.
    Routed(u16),
    /// act(gate)·up `[t, f]`.
    MlpInner(Mlp),
}

impl Input {
    /// Where 1/s goes when the input's channels are smoothed by s.
    pub const fn absorber(self) -> Absorber {
        match self {
            Input::AttentionNorm => Absorber::AttentionNorm,
            Input::AttentionOutput => Absorber::Rows(Role::V),
            Input::MlpNorm | Input::Routed(_) => Absorber::MlpNorm,
            Input::MlpInner(mlp) => Absorber::Rows(Role::Up(mlp)),
        }
    }

    /// The name that reports use.
    pub const fn name(self) -> &'static str {
        match self {
            Input::AttentionNorm => "attention_norm",
            Input::AttentionOutput => "attention_output",
            Input::MlpNorm => "mlp_norm",
            Input::Routed(_) => "routed",
            Input::MlpInner(_) => "mlp_inner",
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
