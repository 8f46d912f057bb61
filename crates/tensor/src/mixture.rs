//! A mixture of experts: how a router chooses, what a device may do for it, and the plain way through the host that
//! every back end has. A token's result depends on that token alone.
mod plain;
mod route;

pub use plain::{gate_rows, load as load_plainly, sigmoid};
pub use route::{Groups, choose};

use crate::{Activation, Backend, DType, Error, FloatMath, LinearPart, Q8, Q8Rows, Result, Tensor};

/// How a router's logits become experts and weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Routing {
    /// Experts `e` to choose from.
    pub experts: usize,
    /// Experts `c` chosen for each token.
    pub chosen: usize,
    /// The chosen ones' weights are made to sum to 1.
    pub normalize: bool,
}

/// Where a step's tokens go.
pub struct Routes<B: Backend> {
    /// `[t, c]` I32 chosen experts of each token, ascending.
    pub experts: Tensor<B>,
    /// `[t, c]` F32 weights of these experts.
    pub weights: Tensor<B>,
}

impl<B: Backend> Routes<B> {
    /// Room for `tokens` tokens.
    pub fn new(b: &B, tokens: usize, routing: &Routing) -> Result<Routes<B>> {
        let tensor = |dtype| b.alloc(dtype, tokens, routing.chosen);
        Ok(Routes { experts: tensor(DType::I32)?, weights: tensor(DType::F32)? })
    }

    /// Changes the number of tokens in use.
    pub fn set_rows(&mut self, tokens: usize) {
        self.experts.set_rows(tokens);
        self.weights.set_rows(tokens);
    }
}

/// Gate and up (packed as one), and down of every expert of a layer.
pub struct Experts<B: Backend> {
    /// `[e]` of `[2f, h]` each.
    pub gate_up: Vec<B::Linear>,
    /// `[e]` of `[h, f]` each.
    pub down: Vec<B::Linear>,
    /// Made by [`Mixer::load`], so that [`Mixer::mix`] takes them.
    pub grouped: bool,
}

/// How an expert's MLP is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpertMath {
    /// The gate's nonlinearity.
    pub act: Activation,
    /// Float products.
    pub math: FloatMath,
}

/// Buffers for the rows of all experts: `r = t c` in all.
pub struct ExpertRows<B: Backend> {
    /// `[r, h]` inputs.
    pub x: Tensor<B>,
    /// `[r, h]` the same quantized.
    pub x_q8: Q8Rows<B>,
    /// `[r, 2f]`.
    pub gate_up: Tensor<B>,
    /// `[r, f]`.
    pub inner: Tensor<B>,
    /// `[r, f]` quantized.
    pub inner_q8: Q8Rows<B>,
    /// `[r, h]` outputs.
    pub out: Tensor<B>,
}

impl<B: Backend> ExpertRows<B> {
    /// Room for `rows` rows of hidden width `h` and expert width `f`.
    pub fn new(b: &B, rows: usize, h: usize, f: usize) -> Result<ExpertRows<B>> {
        let tensor = |cols| b.alloc(b.activation_dtype(), rows, cols);
        Ok(ExpertRows {
            x: tensor(h)?,
            x_q8: b.alloc_q8(Q8::Int8, rows, h)?,
            gate_up: tensor(2 * f)?,
            inner: tensor(f)?,
            inner_q8: b.alloc_q8(Q8::Int8, rows, f)?,
            out: tensor(h)?,
        })
    }

    /// Bytes of one row at most.
    pub fn row_bytes(h: usize, f: usize) -> usize {
        size_of::<f32>() * (2 * h + 3 * f + 2) + h + f
    }

    /// Changes the number of rows in use.
    pub fn set_rows(&mut self, rows: usize) {
        [&mut self.x, &mut self.gate_up, &mut self.inner, &mut self.out].into_iter().for_each(|t| t.set_rows(rows));
        self.x_q8.set_rows(rows);
        self.inner_q8.set_rows(rows);
    }
}

/// What a device does for mixtures if it can, see [`Backend::mixer`]. The functions of this module of the same names
/// say what is computed, and do it through the host otherwise.
pub trait Mixer<B: Backend> {
    /// See [`load`].
    fn load(&self, experts: &[[LinearPart; 3]]) -> Result<Experts<B>>;
    /// See [`route`].
    fn route(&self, logits: &Tensor<B>, routing: &Routing, out: &mut Routes<B>) -> Result<()>;
    /// See [`mix`].
    fn mix(
        &self,
        x: &Tensor<B>,
        routes: &Routes<B>,
        experts: &Experts<B>,
        how: ExpertMath,
        scratch: &mut ExpertRows<B>,
        out: &mut Tensor<B>,
    ) -> Result<()>;
    /// See [`add_gated`].
    fn add_gated(&self, x: &mut Tensor<B>, y: &Tensor<B>, gates: &Tensor<B>) -> Result<()>;
    /// See [`select_rows`].
    fn select_rows(&self, x: &Tensor<B>, rows: &[u32], out: &mut Tensor<B>) -> Result<()>;
    /// Whether `route`, `mix` and `add_gated` only queue work, so that a step with mixtures may be recorded.
    fn queues(&self) -> bool;
}

/// Packs the experts of a layer: gate, up and down of each.
pub fn load<B: Backend>(b: &B, experts: &[[LinearPart; 3]]) -> Result<Experts<B>> {
    match b.mixer() {
        Some(mixer) => mixer.load(experts),
        None => plain::load(b, experts),
    }
}

/// Chooses each token's experts from `logits[t, e]` F32, see [`choose`].
pub fn route<B: Backend>(b: &B, logits: &Tensor<B>, routing: &Routing, out: &mut Routes<B>) -> Result<()> {
    let fits = |t: &Tensor<B>| t.rows == logits.rows && t.cols == routing.chosen;
    let few = (1..=routing.experts).contains(&routing.chosen);
    crate::layout::require("route", logits.cols == routing.experts && few && fits(&out.experts) && fits(&out.weights))?;
    match b.mixer() {
        Some(mixer) => mixer.route(logits, routing, out),
        None => plain::route(b, logits, routing, out),
    }
}

/// `out[t] = Σ_j weights[t, j] · MLP_j(x[t])` over the chosen experts in ascending order, where
/// `MLP(x) = down(act(gate(x)) · up(x))`. An 8-bit linear reads its input quantized as [`Backend::quantize_rows`] does.
/// An expert's output may be rounded to the activation type; the sum is in f32, from the first term on.
/// Only the chosen experts' weights are read. `scratch` has room for `t c` rows.
pub fn mix<B: Backend>(
    b: &B,
    x: &Tensor<B>,
    routes: &Routes<B>,
    experts: &Experts<B>,
    how: ExpertMath,
    scratch: &mut ExpertRows<B>,
    out: &mut Tensor<B>,
) -> Result<()> {
    let (t, rows) = (x.rows, routes.experts.rows * routes.experts.cols);
    let sizes = routes.experts.rows == t && out.rows == t && out.cols == x.cols;
    let room = scratch.x.capacity >= rows && scratch.x.cols == x.cols;
    crate::layout::require("mix", sizes && room && experts.gate_up.len() == experts.down.len())?;
    if t == 0 {
        return Ok(());
    }
    match b.mixer().filter(|_| experts.grouped) {
        Some(mixer) => mixer.mix(x, routes, experts, how, scratch, out),
        None => plain::mix(b, x, routes, experts, how, scratch, out),
    }
}

/// `x[t] += y[t] · sigmoid(gates[t])`; `gates[t, 1]` F32.
pub fn add_gated<B: Backend>(b: &B, x: &mut Tensor<B>, y: &Tensor<B>, gates: &Tensor<B>) -> Result<()> {
    let fits = x.cols == y.cols && x.rows == y.rows && gates.rows == x.rows && gates.cols == 1;
    crate::layout::require("add_gated", fits)?;
    match b.mixer() {
        Some(mixer) => mixer.add_gated(x, y, gates),
        None => plain::add_gated(b, x, y, gates),
    }
}

/// `out[i] = x[rows[i]]`, of any type.
pub fn select_rows<B: Backend>(b: &B, x: &Tensor<B>, rows: &[u32], out: &mut Tensor<B>) -> Result<()> {
    let fits = x.cols == out.cols && x.dtype == out.dtype && out.rows == rows.len();
    crate::layout::require("select_rows", fits)?;
    if let Some(bad) = rows.iter().find(|&&row| row as usize >= x.rows) {
        return Err(Error::shape(format!("select_rows: row {bad} of {}", x.rows)));
    }
    match b.mixer() {
        Some(mixer) => mixer.select_rows(x, rows, out),
        None => plain::select_rows(b, x, rows, out),
    }
}

/// Where each token's rows are among those of all experts.
pub fn groups<B: Backend>(b: &B, routes: &Routes<B>, experts: usize) -> Result<Groups> {
    Groups::new(&plain::chosen(b, &routes.experts)?, routes.experts.cols, experts)
}
