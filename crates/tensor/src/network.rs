//! What the operations between the linears need to know of a network: attention, rotary angles, nonlinearities.
use crate::{Backend, Q8Rows, Tensor};

/// Sizes and rules of one attention layer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct AttentionShape {
    /// Query heads.
    pub nq: usize,
    /// Key and value heads; `nq` is a multiple.
    pub nkv: usize,
    /// Head width.
    pub d: usize,
    /// Factor on q·k before the softmax.
    pub scale: f32,
    /// A query at position p sees keys at positions > p - window.
    pub window: Option<u32>,
    /// Scores become `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
}

impl AttentionShape {
    /// Width of a packed q+k+v row.
    pub fn qkv_width(&self) -> usize {
        (self.nq + 2 * self.nkv) * self.d
    }
}

/// Rotary angles. The first `2 * half` channels of a head rotate, in pairs `(i, i + half)`,
/// or `(2i, 2i + 1)` when interleaved.
pub struct RopeTable<B: Backend> {
    /// `[positions, 2 * half]` f32: cosines, then sines (each already times the attention factor, if any).
    pub cos_sin: Tensor<B>,
    /// Pairs a head rotates.
    pub half: usize,
    /// Pairs are neighbours.
    pub interleaved: bool,
}

/// The product that queries, keys and values come from.
pub struct Projected<'a, B: Backend> {
    /// Quantized tokens `[t, k]`.
    pub x: &'a Q8Rows<B>,
    /// `[(nq + 2 nkv) d, k]`.
    pub w: &'a B::Linear,
    /// `[t, (nq + 2 nkv) d]`: may be used or not.
    pub qkv: &'a mut Tensor<B>,
}

/// Where attention leaves codes: `scratch[t, nq d]` may be used or not.
pub struct Attended<'a, B: Backend> {
    /// What it attended to, before it is quantized.
    pub scratch: &'a mut Tensor<B>,
    /// The codes, on the grid that they say.
    pub out: &'a mut Q8Rows<B>,
}

/// The nonlinearity of an MLP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activation {
    /// x·sigmoid(x).
    Silu,
    /// GELU, tanh approximation.
    GeluTanh,
    /// GELU, `x (1 + erf(x / √2)) / 2`.
    Gelu,
    /// max(x, 0); NaN stays.
    Relu,
}

impl Activation {
    /// Every nonlinearity.
    pub const ALL: [Activation; 4] = [Activation::Silu, Activation::GeluTanh, Activation::Gelu, Activation::Relu];

    /// Whether `act(x / s) = act(x) / s` for every s above 0, so that a factor passes through.
    pub const fn is_homogeneous(self) -> bool {
        matches!(self, Activation::Relu)
    }
}
