//! The vocabulary in which an architecture is declared. A declaration is data: loader, forward pass, smoother and
//! GPTQ all read it, and nothing else knows the family's name.

mod names;

pub use names::{DOWN, GATE, GATE_UP, LLAMA_NAMES, Module, Names, O, Place, QKV, Rows, UP};

/// One family of networks. A declaration states where it differs from another: `Arch { name: …, ..LLAMA }`.
#[derive(Debug)]
pub struct Arch {
    /// The name that people see.
    pub name: &'static str,
    /// `architectures` entries of `config.json` that mean this family.
    pub classes: &'static [&'static str],
    /// Where its tensors are.
    pub names: &'static Names,
    /// How its configuration calls what every family has.
    pub fields: Fields,
    /// Whether the output projection is the embedding where the configuration does not say.
    pub tied: bool,
    /// Bias on q, k and v.
    pub qkv_bias: Flag,
    /// Bias on o.
    pub o_bias: Flag,
    /// Bias on gate, up and down.
    pub mlp_bias: Flag,
    /// What its norms compute.
    pub norm: NormKind,
    /// What the norms of queries and keys (if [`Names::norms`] has them) are taken over.
    pub head_norm: Span,
    /// Which layers rotate queries and keys.
    pub rope: Rope,
    /// Rotated pairs are neighbours `(2i, 2i + 1)`, not `(i, i + half)`.
    pub interleaved: bool,
    /// Which layers see a sliding window.
    pub window: Window,
    /// The MLP has a gate: `down(act(gate) · up)`; otherwise it is `down(act(up))`.
    pub gated: bool,
    /// Attention and MLP read the same hidden state, and both are added to it.
    pub parallel: Flag,
    /// Constant factors and caps.
    pub scales: Scales,
    /// Fields that must have these values if they are there: others mean networks that are not built here.
    pub musts: &'static [(&'static str, Must)],
    /// Where MLPs are mixtures of experts.
    pub mixture: Option<&'static Mixture>,
}

/// Names of configuration fields that differ between families.
#[derive(Clone, Copy, Debug)]
pub struct Fields {
    /// Width of the MLP.
    pub ffn: &'static str,
    /// Added to the mean square in a norm.
    pub eps: Epsilon,
    /// The MLP's nonlinearity.
    pub activation: &'static str,
    /// The nonlinearity where the field is absent.
    pub default_activation: &'static str,
}

/// Where the epsilon of norms comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Epsilon {
    /// This field.
    Field(&'static str),
    /// A constant of the family.
    Fixed(f64),
}

/// What a norm computes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NormKind {
    /// `x / rms(x) * (offset + w)`; the stored weight is `w`.
    Rms {
        /// Added to the stored weight when it is applied.
        offset: f32,
    },
    /// `(x - mean(x)) / std(x) * w + b`.
    Layer,
}

impl NormKind {
    /// Added to a stored weight when it is applied.
    pub const fn offset(self) -> f32 {
        match self {
            NormKind::Rms { offset } => offset,
            NormKind::Layer => 0.0,
        }
    }
}

/// What a norm of queries or keys is taken over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Span {
    /// Each head by itself, all with one weight `[d]`.
    Head,
    /// All heads together.
    Heads,
}

/// Which layers rotate queries and keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rope {
    /// All, alike.
    Always,
    /// None.
    Never,
    /// Those for which `no_rope_layers` has 1; without it, all but every `no_rope_layer_interval`-th (4).
    Listed,
    /// All, those with a window by a rule of their own (`sliding_attention`, `rope_local_base_freq`).
    ByWindow,
}

/// Constant factors and caps of a family.
#[derive(Clone, Copy, Debug)]
pub struct Scales {
    /// On embeddings.
    pub embeddings: Scale,
    /// On what attention and MLP add to the hidden state.
    pub residual: Scale,
    /// On q·k.
    pub scores: Scores,
    /// Field of the cap `c tanh(x / c)` of attention scores.
    pub score_cap: Option<&'static str>,
    /// Divisor of the logits.
    pub logits: Scale,
    /// Field of the cap of the logits.
    pub logit_cap: Option<&'static str>,
}

impl Scales {
    /// Scores over the root of the head width, and nothing else.
    pub const PLAIN: Scales = Scales {
        embeddings: Scale::One,
        residual: Scale::One,
        scores: Scores::HeadWidth,
        score_cap: None,
        logits: Scale::One,
        logit_cap: None,
    };
}

/// A constant factor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// None.
    One,
    /// The root of the hidden width.
    RootHidden,
    /// This field.
    Field(&'static str),
}

/// The factor on q·k.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scores {
    /// One over the root of the head width.
    HeadWidth,
    /// One over the root of this field.
    InverseRoot(&'static str),
    /// This field.
    Field(&'static str),
}

/// What a field must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Must {
    /// This truth value.
    Be(bool),
    /// The number in this field.
    Equal(&'static str),
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
    /// The layers that `layer_types` names; without it, all but every n-th, n being this field or else this number.
    Pattern(&'static str, usize),
    /// All, if `use_sliding_window`.
    Asked,
    /// If `use_sliding_window`: the layers that `layer_types` names, or those from `max_window_layers` on.
    Upper,
}

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
    /// The weight (and bias) of a norm.
    Norm(Place),
    /// The output rows (and bias) of a linear; v's rows serve a whole query group.
    Rows(Role),
}
