//! Statistics of activations: `kernels/observe.cu`.
use super::rows::floats;
use super::{Grid, address, params};
use crate::Cuda;
use planish_tensor::layout::require;
use planish_tensor::{FloatMath, Result, Tensor};

/// Rows that a block of `observe_columns` takes, and its threads.
const STRETCH: usize = 64;
const COLUMNS: usize = 128;
/// `TILE`, `GROUP` and `STEP` of the kernels of Gram matrices, and the bytes in which `gram_mma` keeps its steps.
const TILE: usize = 128;
const GROUP: usize = 16;
const STEP: usize = 32;
const STAGED: usize = 4 * 2 * STEP * 2 * TILE;
/// Tokens that are summed from 0 before the matrix is touched; bounds the room for narrowed rows.
const SLICE: usize = 4096;

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
    for first in (0..x.rows).step_by(SLICE) {
        let t = SLICE.min(x.rows - first);
        let from = address(x) + (4 * first * x.cols) as u64;
        match math == FloatMath::Bf16 && cuda.arch() >= 80 {
            true => multiply_narrowed(cuda, from, t, x.cols, address(gram))?,
            false => {
                let narrow = i32::from(math == FloatMath::Bf16);
                cuda.launch(
                    "observe",
                    "gram_fma",
                    tiles(x.cols, 256),
                    params![from, t, x.cols, narrow, address(gram)],
                )?;
            }
        }
    }
    Ok(())
}

/// A block for each tile of the groups on or below the diagonal.
fn tiles(k: usize, threads: usize) -> Grid {
    let groups = k.div_ceil(TILE * GROUP);
    Grid::of(groups * (groups + 1) / 2 * GROUP * GROUP, threads)
}

/// By tensor cores, of a copy in bf16 whose rows and columns are filled up with zeros.
fn multiply_narrowed(cuda: &Cuda, x: u64, t: usize, k: usize, gram: u64) -> Result<()> {
    let (rows, width) = (t.next_multiple_of(STEP), k.next_multiple_of(TILE));
    let narrowed = cuda.scratch("Gram matrices", 2 * rows * width)?;
    let grid = Grid::of((rows * width / 8).div_ceil(256), 256);
    cuda.launch("observe", "narrow_rows", grid, params![x, t, k, rows, width, narrowed])?;
    let grid = tiles(k, 128).with_shared(STAGED, STAGED);
    cuda.launch("observe", "gram_mma", grid, params![narrowed, rows, width, k, gram])
}
