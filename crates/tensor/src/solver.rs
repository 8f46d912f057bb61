//! What a device does for the quantizer if it can: weights that stay there while they are changed, GPTQ's factor and
//! its walk. The definition is `planish_quant`'s arithmetic on the host; without a [`Solver`] the host does the work.
use crate::{Backend, HostTensor, Q8, Result, Tensor};

/// A Gram matrix `H = M Mᵀ` (damped, in the order of the solve, `M` upper triangular) as a device's walk reads it.
/// `p` is `k` rounded up to what the device likes; the padding multiplies nothing.
pub struct GramFactor<B: Backend> {
    /// `[p, p]` F32: `M_jc / M_cc` in row `c`, column `j`; ones on the diagonal, zeros where `j > c`.
    pub unit: Tensor<B>,
    /// `[1, p]` F32: `M_cc`.
    pub pivots: Tensor<B>,
    /// `[1, p]` F32: what was added to the diagonal.
    pub added: Tensor<B>,
    /// `[1, k]` I32: the input channel that is solved as the `c`-th.
    pub order: Tensor<B>,
    /// `[1, k]` I32: when an input channel is solved.
    pub place: Tensor<B>,
}

/// A weight in 8 bits, and what it cost.
pub struct SolvedRows<B: Backend> {
    /// `[n, k]` codes.
    pub codes: Tensor<B>,
    /// `[n]` channel scales.
    pub scales: Vec<f32>,
    /// `[n]` largest magnitude of each row; not finite where a weight is not.
    pub absmax: Vec<f32>,
    /// `[n]` numbers of each row.
    pub rows: Vec<RowNumbers>,
}

/// Losses of one row of a weight `w` with codes that stand for `q`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct RowNumbers {
    /// Proxy loss `(w - q) G (w - q)ᵀ` of GPTQ's codes, with the Gram matrix as given; 0 without a factor.
    pub gptq: f64,
    /// The same of round-to-nearest.
    pub nearest: f64,
    /// `||w - q||²` of the codes that were kept.
    pub lost: f64,
    /// `||w||²`.
    pub total: f64,
}

/// Whether GPTQ's row is kept beside one rounded to nearest. A loss that is not a number is never kept.
pub fn keeps_gptq(gptq: f64, nearest: f64, keep_better: bool) -> bool {
    gptq <= nearest || (!keep_better && gptq.is_finite())
}

/// See the module. Weights `[n, k]` and Gram matrices `[k, k]` are dense F32 tensors; of a Gram matrix the lower
/// triangle counts. Rounding, scales and the order of operations on single elements are the host's, sums may be made
/// in another order.
pub trait Solver<B: Backend> {
    /// Tokens that a pass over calibration states should have.
    fn pass_tokens(&self) -> usize;
    /// `to = from`, of one type and size.
    fn copy(&self, from: &Tensor<B>, to: &mut Tensor<B>) -> Result<()>;
    /// A float matrix, widened to F32.
    fn load_f32(&self, host: &HostTensor) -> Result<Tensor<B>>;
    /// A float linear of F32 weights `[n, k]` one below the other, each with a bias `[n]` or none. Copies them.
    fn linear_of(&self, parts: &[(&Tensor<B>, Option<&[f32]>)]) -> Result<B::Linear>;
    /// `w[i, j] *= s[j]`.
    fn multiply_columns(&self, w: &mut Tensor<B>, s: &[f32]) -> Result<()>;
    /// `w[i, j] /= s[i]`.
    fn divide_rows(&self, w: &mut Tensor<B>, s: &[f32]) -> Result<()>;
    /// `gram[i, j] = gram[i, j] / s[i] / s[j]`.
    fn divide_gram(&self, gram: &mut Tensor<B>, s: &[f32]) -> Result<()>;
    /// `gram[j, j]`.
    fn gram_diagonal(&self, gram: &Tensor<B>) -> Result<Vec<f32>>;
    /// Factorizes the Gram matrix in the given order of the solve with `added` (in that order) on its diagonal.
    /// `None` where that is not positive definite in f32.
    fn factor_gram(&self, gram: &Tensor<B>, order: &[usize], added: &[f32]) -> Result<Option<GramFactor<B>>>;
    /// Quantizes the rows of `w` on the scales of round-to-nearest: by GPTQ where that is [kept](keeps_gptq), else to
    /// the nearest codes.
    fn solve_rows(
        &self,
        kind: Q8,
        w: &Tensor<B>,
        factor: Option<&GramFactor<B>>,
        keep_better: bool,
    ) -> Result<SolvedRows<B>>;
}
