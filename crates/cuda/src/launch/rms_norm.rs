//! Sums of hidden states, their norms and the norms' codes: `kernels/rms_norm.cu`.
use super::quantize_rows::{Codes, FILLED_THREADS, check, spread};
use super::rows::floats;
use super::{Grid, address, params};
use crate::Cuda;
use planish_tensor::layout::require;
use planish_tensor::{Q8Rows, Result, Tensor};

/// No codes (`enum Kind` of `codes.cuh`): the norm itself.
const PLAIN: Codes = Codes { kind: 0, fixed: 0.0 };

/// Columns of a thread whose block is filled by a row; rows from which on many blocks share a multiprocessor.
const COLUMNS: usize = 16;
const MANY: usize = 1024;

/// Whether a row gives each thread of whole warps its columns.
fn fills_blocks(cols: usize) -> bool {
    cols.is_multiple_of(32 * COLUMNS) && cols / COLUMNS <= FILLED_THREADS
}

/// What a norm reads: with a delta, x changes.
struct Input<'a> {
    x: &'a Tensor<Cuda>,
    delta: Option<&'a Tensor<Cuda>>,
    weight: &'a Tensor<Cuda>,
    eps: f32,
}

impl Input<'_> {
    fn norm(&self, cuda: &Cuda, codes: Codes, out: u64, scales: u64) -> Result<()> {
        let Input { x, delta, weight, eps } = *self;
        let delta_fits = delta.is_none_or(|d| d.rows == x.rows && d.cols == x.cols);
        require("rms_norm", delta_fits && weight.rows == 1 && weight.cols == x.cols)?;
        floats("rms_norm", &[x, delta.unwrap_or(x), weight])?;
        let delta = delta.map_or(0, address);
        let (x_at, weight) = (address(x), address(weight));
        let many = x.rows >= MANY;
        if codes != PLAIN && fills_blocks(x.cols) && (many || delta == 0) {
            let kernel = if many { "norm_filled_many" } else { "norm_filled_few" };
            let per_column = 1.0 / x.cols as f64;
            let params = params![x_at, delta, weight, eps, x.cols, per_column, codes.kind, codes.fixed, out, scales];
            return cuda.launch("rms_norm", kernel, Grid::of(x.rows, x.cols / COLUMNS), params);
        }
        let (suffix, grid) = spread(x.rows, x.cols);
        let params = params![x_at, delta, weight, eps, x.cols, codes.kind, codes.fixed, out, scales];
        cuda.launch("rms_norm", &format!("norm_{suffix}"), grid, params)
    }

    fn plain(&self, cuda: &Cuda, out: &mut Tensor<Cuda>) -> Result<()> {
        require("rms_norm", out.rows == self.x.rows && out.cols == self.x.cols)?;
        floats("rms_norm", &[out])?;
        self.norm(cuda, PLAIN, address(out), 0)
    }
}

pub(crate) fn rms_norm(
    cuda: &Cuda,
    x: &Tensor<Cuda>,
    weight: &Tensor<Cuda>,
    eps: f32,
    out: &mut Tensor<Cuda>,
) -> Result<()> {
    Input { x, delta: None, weight, eps }.plain(cuda, out)
}

pub(crate) fn add_rms_norm(
    cuda: &Cuda,
    x: &mut Tensor<Cuda>,
    delta: Option<&Tensor<Cuda>>,
    weight: &Tensor<Cuda>,
    eps: f32,
    out: &mut Tensor<Cuda>,
) -> Result<()> {
    Input { x, delta, weight, eps }.plain(cuda, out)
}

pub(crate) fn add_rms_norm_quantize(
    cuda: &Cuda,
    x: &mut Tensor<Cuda>,
    delta: Option<&Tensor<Cuda>>,
    weight: &Tensor<Cuda>,
    eps: f32,
    out: &mut Q8Rows<Cuda>,
) -> Result<()> {
    let codes = check(cuda, "add_rms_norm_quantize", x.rows, x.cols, out)?;
    Input { x, delta, weight, eps }.norm(cuda, codes, address(&out.codes), address(&out.scales))
}

pub(crate) fn rms_norm_stretches(
    cuda: &Cuda,
    x: &mut Tensor<Cuda>,
    first: usize,
    count: usize,
    weight: &Tensor<Cuda>,
    eps: f32,
) -> Result<()> {
    let w = weight.cols;
    require("rms_norm_stretches", weight.rows == 1 && w > 0 && first + count * w <= x.cols)?;
    floats("rms_norm_stretches", &[x, weight])?;
    let grid = Grid::of(x.rows * count, w.next_multiple_of(32).min(1024));
    let parameters = params![address(x), x.cols, first, count, address(weight), eps, w];
    cuda.launch("rms_norm", "rms_norm_stretches", grid, parameters)
}
