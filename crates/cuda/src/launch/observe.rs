//! Statistics of activations: `kernels/observe.cu`.
use super::rows::floats;
use super::{Grid, address, params};
use crate::Cuda;
use planish_tensor::layout::require;
use planish_tensor::{FloatMath, Result, Tensor};

/// Rows that a block of `observe_columns` takes, and its threads.
const STRETCH: usize = 64;
const COLUMNS: usize = 128;
/// Side of a tile of `gram_fma`.
const TILE: usize = 64;

pub(crate) fn observe_columns(cuda: &Cuda, x: &Tensor<Cuda>, absmax: &mut Tensor<Cuda>) -> Result<()> {
    require("observe_columns", absmax.cols == x.cols && absmax.rows == 1)?;
    floats("observe_columns", &[x, absmax])?;
    let blocks = [x.cols.div_ceil(COLUMNS), x.rows.div_ceil(STRETCH), 1];
    let grid = Grid { blocks, ..Grid::of(1, COLUMNS) };
    cuda.launch("observe", "observe_columns", grid, params![address(x), x.rows, x.cols, address(absmax)])
}

pub(crate) fn accumulate_gram(cuda: &Cuda, x: &Tensor<Cuda>, math: FloatMath, gram: &mut Tensor<Cuda>) -> Result<()> {
    require("accumulate_gram", gram.cols == x.cols && gram.rows == x.cols)?;
    floats("accumulate_gram", &[x, gram])?;
    if x.rows == 0 {
        return Ok(());
    }
    let tiles = x.cols.div_ceil(TILE);
    let grid = Grid::of(tiles * (tiles + 1) / 2, 256);
    let brain = i32::from(math == FloatMath::Bf16);
    cuda.launch("observe", "gram_fma", grid, params![address(x), x.rows, x.cols, brain, address(gram)])
}
