//! Tokens to 8 bits: `kernels/quantize_rows.cu`. How a block takes a row is here too, for the operations that end with
//! a quantization.
use super::rows::floats;
use super::{Grid, address, params};
use crate::Cuda;
use planish_tensor::layout::require;
use planish_tensor::{Error, Q8, Q8Rows, Result, Tensor};

pub(crate) fn quantize_rows(cuda: &Cuda, x: &Tensor<Cuda>, out: &mut Q8Rows<Cuda>) -> Result<()> {
    let kind = check(cuda, "quantize_rows", x.rows, x.cols, out)?;
    floats("quantize_rows", &[x])?;
    let (suffix, grid) = spread(x.rows, x.cols);
    let (codes, scales) = (address(&out.codes), address(&out.scales));
    let name = format!("quantize_rows_{suffix}");
    cuda.launch("quantize_rows", &name, grid, params![address(x), x.cols, kind, codes, scales])
}

/// The number that the kernels know an 8-bit type by (`enum Kind` of `codes.cuh`).
fn kind_of(cuda: &Cuda, q8: Q8) -> i32 {
    let by_bits = if cuda.arch() < 89 { 2 } else { 0 };
    match q8 {
        Q8::Int8 => 1,
        Q8::E4M3 => 2 + by_bits,
        Q8::E5M2 => 3 + by_bits,
    }
}

/// Checks that `rows` rows of `cols` can be written to `out`; the number of its kind.
pub(crate) fn check(cuda: &Cuda, operation: &str, rows: usize, cols: usize, out: &Q8Rows<Cuda>) -> Result<i32> {
    let q8 = Q8::from_dtype(out.codes.dtype)
        .ok_or_else(|| Error::dtype(format!("{operation}: expected 8-bit codes, found {}", out.codes.dtype)))?;
    let (codes, scales) = (&out.codes, &out.scales);
    require(operation, codes.rows == rows && codes.cols == cols && scales.rows == rows && scales.cols == 1)?;
    floats(operation, &[scales])?;
    Ok(kind_of(cuda, q8))
}

/// A block for each row: how many times each thread takes four columns, which is the kernel's suffix (0: as often as it
/// takes, with nothing kept), and the grid. It depends on the width alone, so that a row's result does too.
pub(crate) fn spread(rows: usize, cols: usize) -> (usize, Grid) {
    let chunks = cols.div_ceil(4);
    let fits = |&turns: &usize| chunks.div_ceil(turns) <= if turns == 8 { 1024 } else { 512 };
    let turns = [1, 2, 4, 8].into_iter().find(fits).unwrap_or(0);
    let threads = if turns == 0 { 1024 } else { chunks.div_ceil(turns).next_multiple_of(32).max(32) };
    (turns, Grid::of(rows, threads))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_is_covered() {
        for cols in 1..=70_000 {
            let (turns, grid) = spread(3, cols);
            assert!(grid.blocks == [3, 1, 1] && grid.threads % 32 == 0 && grid.threads <= 1024);
            assert!(turns == 0 || 4 * turns * grid.threads >= cols);
        }
        assert_eq!(spread(1, 4096), (2, Grid::of(1, 512)));
        assert_eq!(spread(1, 14336), (8, Grid::of(1, 448)));
        assert_eq!(spread(1, 65536), (0, Grid::of(1, 1024)));
    }
}
