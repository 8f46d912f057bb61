//! The factor of a Gram matrix: `kernels/gptq_factor.cu`.
use super::{PANEL_ROWS, TILE, padded, read, require_f32};
use crate::Cuda;
use crate::launch::{Grid, address, params};
use planish_tensor::layout::require;
use planish_tensor::{Backend, DType, GramFactor, HostTensor, Result, Tensor};

const FILE: &str = "gptq_factor";
/// A tile in shared memory.
const CORNER_BYTES: usize = TILE * TILE * size_of::<f32>();

pub(super) fn divide_gram(cuda: &Cuda, gram: &mut Tensor<Cuda>, s: &[f32]) -> Result<()> {
    let k = s.len();
    require_f32("divide a Gram matrix", gram, k, k)?;
    let s = cuda.numbers(s)?;
    cuda.launch(FILE, "gptq_divide_gram", Grid::of(k, 256), params![address(gram), address(&s), k])
}

pub(super) fn gram_diagonal(cuda: &Cuda, gram: &Tensor<Cuda>) -> Result<Vec<f32>> {
    let k = gram.rows;
    require_f32("diagonal of a Gram matrix", gram, k, k)?;
    let out = cuda.blank(DType::F32, 1, k)?;
    let grid = Grid::of(k.div_ceil(256), 256);
    cuda.launch(FILE, "gptq_diagonal", grid, params![address(gram), address(&out), k])?;
    read(cuda, &out)
}

pub(super) fn factor_gram(
    cuda: &Cuda,
    gram: &Tensor<Cuda>,
    order: &[usize],
    added: &[f32],
) -> Result<Option<GramFactor<Cuda>>> {
    let k = order.len();
    require_f32("factor of a Gram matrix", gram, k, k)?;
    let mut place = vec![usize::MAX; k];
    for (c, &channel) in order.iter().enumerate() {
        require("order of the solve", channel < k && place[channel] == usize::MAX)?;
        place[channel] = c;
    }
    require("damping", added.len() == k)?;
    let p = padded(k);
    let indices = |values: &[usize]| {
        let values: Vec<i32> = values.iter().map(|&v| v as i32).collect();
        cuda.load(&HostTensor::from_bytes(DType::I32, vec![k], bytemuck::cast_slice(&values).to_vec())?)
    };
    let mut raised = added.to_vec();
    raised.resize(p, 0.0);
    let factor = GramFactor {
        unit: cuda.blank(DType::F32, p, p)?,
        pivots: cuda.blank(DType::F32, 1, p)?,
        added: cuda.numbers(&raised)?,
        order: indices(order)?,
        place: indices(&place)?,
    };
    let failed = cuda.alloc(DType::I32, 1, 1)?;
    let matrix = cuda.blank(DType::F32, p, p)?;
    let reverse = params![address(gram), address(&factor.order), address(&factor.added), address(&matrix), k, p];
    cuda.launch(FILE, "gptq_reverse", Grid::of(p, 256), reverse)?;
    cholesky(cuda, &matrix, p, &failed)?;
    let squares = Grid { blocks: [p / 32, p / 32, 1], ..Grid::of(1, 256) };
    let (unit, pivots) = (address(&factor.unit), address(&factor.pivots));
    cuda.launch(FILE, "gptq_unit", squares, params![address(&matrix), unit, pivots, k, p, address(&failed)])?;
    let failed: Vec<i32> = read(cuda, &failed)?;
    Ok((failed[0] == 0).then_some(factor))
}

/// Factorizes the lower triangle `[p, p]` in place, a panel of columns at a time.
fn cholesky(cuda: &Cuda, matrix: &Tensor<Cuda>, p: usize, failed: &Tensor<Cuda>) -> Result<()> {
    for start in (0..p).step_by(TILE) {
        let corner = Grid::of(1, 512).with_shared(CORNER_BYTES, CORNER_BYTES);
        cuda.launch(FILE, "gptq_corner", corner, params![address(matrix), p, start, address(failed)])?;
        let tiles = (p - start) / TILE - 1;
        let below = Grid::of(tiles * TILE / PANEL_ROWS, PANEL_ROWS);
        cuda.launch(FILE, "gptq_below", below, params![address(matrix), p, start])?;
        let trailing = Grid::of(tiles * (tiles + 1) / 2, 256);
        cuda.launch(FILE, "gptq_trailing", trailing, params![address(matrix), p, start])?;
    }
    Ok(())
}
