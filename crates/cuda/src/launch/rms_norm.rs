//! Sums of hidden states, their norms and the norms' codes: `kernels/rms_norm.cu`.
use super::quantize_rows::{check, spread};
use super::rows::floats;
use super::{address, params};
use crate::Cuda;
use planish_tensor::layout::require;
use planish_tensor::{Q8Rows, Result, Tensor};

/// `enum Kind` of `codes.cuh`: the norm itself.
const PLAIN: i32 = 0;

/// What a norm reads: with a delta, x changes.
struct Input<'a> {
    x: &'a Tensor<Cuda>,
    delta: Option<&'a Tensor<Cuda>>,
    weight: &'a Tensor<Cuda>,
    eps: f32,
}

impl Input<'_> {
    fn norm(&self, cuda: &Cuda, kind: i32, out: u64, scales: u64) -> Result<()> {
        let Input { x, delta, weight, eps } = *self;
        let delta_fits = delta.is_none_or(|d| d.rows == x.rows && d.cols == x.cols);
        require("rms_norm", delta_fits && weight.rows == 1 && weight.cols == x.cols)?;
        floats("rms_norm", &[x, delta.unwrap_or(x), weight])?;
        let (suffix, grid) = spread(x.rows, x.cols);
        let delta = delta.map_or(0, address);
        cuda.launch(
            "rms_norm",
            &format!("norm_{suffix}"),
            grid,
            params![address(x), delta, address(weight), eps, x.cols, kind, out, scales],
        )
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
    let kind = check(cuda, "add_rms_norm_quantize", x.rows, x.cols, out)?;
    Input { x, delta, weight, eps }.norm(cuda, kind, address(&out.codes), address(&out.scales))
}
