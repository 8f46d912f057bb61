//! Codes and products on grids other than a scale for each token: `kernels/grids.cu`.
use super::gemm_w8a8::out_type;
use super::quantize_rows::{fits, kind_of};
use super::{Grid as Blocks, address, params};
use crate::{Cuda, Linear};
use planish_tensor::layout::require;
use planish_tensor::{Error, Grid, Q8, Q8Rows, Result, Tensor};

/// Warps of a block that quantizes groups; rows and tokens of a block that multiplies.
const WARPS: usize = 8;
const ROWS: usize = 128;
const TOKENS: usize = 4;

/// Whether rows of a grid are made by the kernels that end with a quantization.
pub(crate) fn is_usual(grid: Grid) -> bool {
    matches!(grid, Grid::Token | Grid::Static { zero: 0, .. })
}

pub(crate) fn quantize(cuda: &Cuda, x: &Tensor<Cuda>, out: &mut Q8Rows<Cuda>) -> Result<()> {
    let q8 = fits("quantize_rows", x.rows, x.cols, out)?;
    let (codes, scales, k) = (address(&out.codes), address(&out.scales), x.cols);
    let grouped = |size: usize, powers: bool| {
        // A group may be wider than the rows; the kernel counts in 32 bits.
        let size = size.min(k.max(1));
        let blocks = Blocks::of((x.rows * k.div_ceil(size)).div_ceil(WARPS), 32 * WARPS);
        let kind = kind_of(cuda, q8);
        let parameters = params![address(x), x.rows, k, size, i32::from(powers), kind, codes, scales];
        cuda.launch("grids", "quantize_groups", blocks, parameters)
    };
    let shifted = |fixed: f32, zero: i8, zeros: u64| {
        let parameters = params![address(x), k, fixed, i32::from(zero), codes, scales, zeros];
        cuda.launch("grids", "quantize_shifted", Blocks::of(x.rows, 256), parameters)
    };
    match out.grid {
        Grid::Group(size) => grouped(size, false),
        Grid::Powers(size) => grouped(size, true),
        Grid::Static { scale, zero } => shifted(scale, zero, 0),
        Grid::Asymmetric => shifted(0.0, 0, zeros_of(out)?),
        Grid::Token => Err(Error::unsupported("quantize_rows: a usual grid among the others")),
    }
}

fn zeros_of(rows: &Q8Rows<Cuda>) -> Result<u64> {
    let missing = || Error::shape("rows with zero points have no room for them");
    rows.zeros.as_ref().filter(|z| z.rows == rows.codes.rows).map(address).ok_or_else(missing)
}

/// `out[t, n]`, gate and up in order where the weight's rows go by turns.
pub(crate) fn product(cuda: &Cuda, x: &Q8Rows<Cuda>, w: &Linear, out: &mut Tensor<Cuda>) -> Result<()> {
    let (t, n, k) = (x.codes.rows, w.n, w.k);
    let groups = w.grid.groups(k);
    require("gemm_w8a8", x.codes.cols == k && x.scales.rows == t && x.scales.cols == groups && out.rows == t)?;
    let name = kernel_name(x, w)?;
    let zeros = if w.grid == Grid::Asymmetric { zeros_of(x)? } else { 0 };
    let scales = w.scales.as_ref().ok_or_else(|| Error::dtype("gemm_w8a8: the weight has no scales"))?;
    let parameters = params![
        w.weight.address(),
        address(&x.codes),
        address(&x.scales),
        zeros,
        i32::from(w.grid.zero().unwrap_or(0)),
        scales.address(),
        w.bias.as_ref().map_or(0, |b| b.address()),
        address(out),
        t,
        n,
        k,
        w.grid.group_size(k).min(k.max(1)),
        i32::from(w.interleaved),
        out_type("gemm_w8a8", out.dtype)?,
    ];
    let blocks = Blocks::of(n.div_ceil(ROWS) * t.div_ceil(TOKENS), ROWS);
    cuda.launch("grids", name, blocks, parameters)
}

/// The kernel of [`product`].
pub(crate) fn kernel_name(x: &Q8Rows<Cuda>, w: &Linear) -> Result<&'static str> {
    match (w.q8, Q8::from_dtype(x.codes.dtype)) {
        (Some(Q8::Int8), Some(Q8::Int8)) => Ok("grid_product_int8_int8"),
        (Some(Q8::E4M3), Some(Q8::E4M3)) => Ok("grid_product_e4m3_e4m3"),
        (Some(Q8::E4M3), Some(Q8::E5M2)) => Ok("grid_product_e4m3_e5m2"),
        (Some(Q8::E5M2), Some(Q8::E4M3)) => Ok("grid_product_e5m2_e4m3"),
        (Some(Q8::E5M2), Some(Q8::E5M2)) => Ok("grid_product_e5m2_e5m2"),
        (weight, tokens) => Err(Error::dtype(format!("gemm_w8a8: weights of {weight:?} with tokens of {tokens:?}"))),
    }
}
