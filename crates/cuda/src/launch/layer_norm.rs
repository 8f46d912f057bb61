//! Norms about the mean: `kernels/layer_norm.cu`.
use super::rows::floats;
use super::{Grid, address, params};
use crate::Cuda;
use planish_tensor::layout::require;
use planish_tensor::{Result, Tensor};

pub(crate) fn layer_norm(
    cuda: &Cuda,
    x: &Tensor<Cuda>,
    [weight, bias]: [&Tensor<Cuda>; 2],
    eps: f32,
    out: &mut Tensor<Cuda>,
) -> Result<()> {
    let h = x.cols;
    let of_width = |t: &Tensor<Cuda>| t.rows == 1 && t.cols == h;
    require("layer_norm", out.rows == x.rows && out.cols == h && of_width(weight) && of_width(bias))?;
    floats("layer_norm", &[x, weight, bias, out])?;
    let grid = Grid::of(x.rows, h.next_multiple_of(32).clamp(32, 1024));
    let parameters = params![address(x), address(weight), address(bias), eps, h, address(out)];
    cuda.launch("layer_norm", "layer_norm", grid, parameters)
}
