//! Tokens to 8 bits: `kernels/quantize_rows.cu`. How a block takes a row is here too, for the operations that end with
//! a quantization.
use super::rows::floats;
use super::{Grid as Blocks, address, grids, params};
use crate::Cuda;
use crate::driver::Arch;
use planish_tensor::layout::require;
use planish_tensor::{DType, Error, Grid, Q8, Q8Rows, Result, Tensor};

/// Of F32, or on the usual grids of BF16.
pub(crate) fn quantize_rows(cuda: &Cuda, x: &Tensor<Cuda>, out: &mut Q8Rows<Cuda>) -> Result<()> {
    if !grids::is_usual(out.grid) {
        floats("quantize_rows", &[x])?;
        return grids::quantize(cuda, x, out);
    }
    let name = match x.dtype {
        DType::BF16 => "quantize_rows_bf16",
        _ => floats("quantize_rows", &[x]).map(|()| "quantize_rows")?,
    };
    let codes = check(cuda, "quantize_rows", x.rows, x.cols, out)?;
    let rows = Rows { x: address(x), size: x.dtype.size(), rows: x.rows, f: x.cols, operands: 1, codes };
    rows.quantize(cuda, "quantize_rows", name, out)
}

/// Whether what becomes these codes is rounded to bf16 on its way, which spares half of what is written and read. It moves a
/// result by far less than E4M3 and E5M2 do, and only where sums of FP8 differ from the definition's anyway: on tensor cores
/// of sm_90. Not for INT8, where no code differs. The same for any number of tokens.
pub(crate) fn takes_bf16(cuda: &Cuda, out: &Q8Rows<Cuda>) -> bool {
    let fp8 = matches!(Q8::from_dtype(out.codes.dtype), Some(Q8::E4M3 | Q8::E5M2));
    cuda.arch() == 90 && fp8 && grids::is_usual(out.grid)
}

/// Blocks of a cluster that shares a row: `BLOCKS` of the kernels.
const CLUSTER: usize = 8;
/// Threads of a block that streams rows, beside those that fetch; pieces on their way, and of a row.
const STREAMING: usize = 992;
const STAGES: usize = 6;
const MOST_TURNS: usize = 8;
/// At least what a block that streams has in shared memory besides its pieces.
const FIXED_BYTES: usize = 1 << 10;

/// How rows are taken; the codes are the same.
#[derive(Debug, PartialEq)]
enum Way {
    /// A row for a cluster of blocks with this many chunks of four columns each: few rows, which would leave most of
    /// the device idle.
    Spread(usize),
    /// A block for each multiprocessor, which fetches pieces of this many columns ahead: wide rows, of which few fill a
    /// multiprocessor.
    Stream(usize),
    /// A row for a block.
    Alone,
    /// A row for a block of this many threads, each with so many times eight neighbours in bf16.
    Packed(usize, usize),
}

/// Eights of neighbours that a thread keeps where rows are many: with few, what a thread does once takes longer than they do.
const EIGHTS: usize = 4;

/// Most threads of a block that a row fills, each with all its turns.
pub(super) const FILLED_THREADS: usize = 512;

/// Rows to be quantized: `operands` vectors of `f` columns each, one after the other, of `size` bytes an element.
pub(crate) struct Rows {
    pub x: u64,
    pub size: usize,
    pub rows: usize,
    pub f: usize,
    pub operands: usize,
    pub codes: Codes,
}

/// What codes rows become.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Codes {
    /// The number that the kernels know the 8-bit type by (`enum Kind` of `codes.cuh`).
    pub kind: i32,
    /// The scale of every row, or 0: each has its own.
    pub fixed: f32,
}

impl Rows {
    fn way(&self, arch: Arch, multiprocessors: usize, shared_bytes: usize) -> Way {
        let part = (self.f / 4).div_ceil(CLUSTER);
        let clusters = arch >= 90 && self.f.is_multiple_of(4) && self.f >= 8192;
        if clusters && part <= 1024 && CLUSTER * self.rows <= multiprocessors {
            return Way::Spread(part);
        }
        match self.size {
            2 => self.packed(multiprocessors),
            _ if clusters => self.streamed(shared_bytes),
            _ => Way::Alone,
        }
    }

    fn packed(&self, multiprocessors: usize) -> Way {
        let eights = self.f / 8;
        let turns = if self.rows <= multiprocessors && eights <= 1024 { 1 } else { EIGHTS };
        let threads = eights.div_ceil(turns).next_multiple_of(32).max(32);
        match self.f.is_multiple_of(8) && threads <= 1024 {
            true => Way::Packed(turns, threads),
            false => Way::Alone,
        }
    }

    fn streamed(&self, shared_bytes: usize) -> Way {
        let chunks = self.f / 4;
        let turns = chunks.div_ceil(STREAMING);
        match turns <= MOST_TURNS && self.piece_bytes(4 * STREAMING) + FIXED_BYTES <= shared_bytes {
            true => Way::Stream(4 * chunks.div_ceil(turns).next_multiple_of(32)),
            false => Way::Alone,
        }
    }

    /// Shared memory of a block that streams pieces of this many columns.
    fn piece_bytes(&self, width: usize) -> usize {
        STAGES * self.operands * self.size * width
    }

    /// Runs the kernel whose name begins with `name`.
    pub(crate) fn quantize(&self, cuda: &Cuda, file: &'static str, name: &str, out: &mut Q8Rows<Cuda>) -> Result<()> {
        let Rows { x, rows, f, codes: Codes { kind, fixed }, .. } = *self;
        let (codes, scales) = (address(&out.codes), address(&out.scales));
        let multiprocessors = cuda.info().sm_count as usize;
        match self.way(cuda.arch(), multiprocessors, cuda.info().shared_bytes as usize) {
            Way::Spread(part) => {
                let grid = Blocks::of(CLUSTER * rows, part.next_multiple_of(32));
                cuda.launch(file, &format!("{name}_spread"), grid, params![x, f, part, kind, fixed, codes, scales])
            }
            Way::Stream(width) => {
                let grid = Blocks::of(rows.min(multiprocessors), width / 4 + 32);
                let grid = grid.with_shared(self.piece_bytes(width), self.piece_bytes(4 * STREAMING));
                cuda.launch(
                    file,
                    &format!("{name}_stream"),
                    grid,
                    params![x, rows, f, width, kind, fixed, codes, scales],
                )
            }
            Way::Packed(turns, threads) => {
                let filled = turns == EIGHTS && f == 8 * turns * threads && threads <= FILLED_THREADS;
                let kernel = format!("{name}_{}_{turns}", if filled { "filled" } else { "packed" });
                cuda.launch(file, &kernel, Blocks::of(rows, threads), params![x, f, kind, fixed, codes, scales])
            }
            Way::Alone => {
                // Numbers in bf16 whose width is no multiple of 8 are rare: nothing is kept of them.
                let (turns, grid) = spread(rows, f);
                let suffix = if self.size == 2 { 0 } else { turns };
                cuda.launch(file, &format!("{name}_{suffix}"), grid, params![x, f, kind, fixed, codes, scales])
            }
        }
    }
}

/// The number that the kernels know an 8-bit type by (`enum Kind` of `codes.cuh`).
pub(super) fn kind_of(cuda: &Cuda, q8: Q8) -> i32 {
    let by_bits = if cuda.arch() < 89 { 2 } else { 0 };
    match q8 {
        Q8::Int8 => 1,
        Q8::E4M3 => 2 + by_bits,
        Q8::E5M2 => 3 + by_bits,
    }
}

/// Checks that `rows` rows of `cols` can be written to `out`; what they become.
pub(crate) fn check(cuda: &Cuda, operation: &str, rows: usize, cols: usize, out: &Q8Rows<Cuda>) -> Result<Codes> {
    let kind = kind_of(cuda, fits(operation, rows, cols, out)?);
    match out.grid {
        Grid::Token => Ok(Codes { kind, fixed: 0.0 }),
        Grid::Static { scale, zero: 0 } => Ok(Codes { kind, fixed: scale }),
        other => Err(Error::unsupported(format!("{operation}: {other:?} is not made in one step"))),
    }
}

/// Checks that `rows` rows of `cols` can be written to `out`; their type.
pub(super) fn fits(operation: &str, rows: usize, cols: usize, out: &Q8Rows<Cuda>) -> Result<Q8> {
    let q8 = Q8::from_dtype(out.codes.dtype)
        .ok_or_else(|| Error::dtype(format!("{operation}: expected 8-bit codes, found {}", out.codes.dtype)))?;
    let (codes, scales) = (&out.codes, &out.scales);
    let scaled = scales.rows == rows && scales.cols == out.grid.groups(cols);
    require(operation, codes.rows == rows && codes.cols == cols && scaled)?;
    floats(operation, &[scales])?;
    Ok(q8)
}

/// A block for each row: how many times each thread takes four columns, which is the kernel's suffix (0: as often as it
/// takes, with nothing kept, as for widths that are no multiple of 4), and the grid. It depends on the width alone, so that
/// a row's result does too.
pub(crate) fn spread(rows: usize, cols: usize) -> (usize, Blocks) {
    let chunks = cols.div_ceil(4);
    let turns = match chunks {
        _ if !cols.is_multiple_of(4) => 0,
        0..=256 => 1,
        257..=4096 => 4,
        4097..=8192 => 8,
        _ => 0,
    };
    let threads = chunks.div_ceil(turns.max(1)).next_multiple_of(32).clamp(32, 1024);
    (turns, Blocks::of(rows, threads))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_width_is_covered() {
        for cols in 1..=70_000 {
            let (turns, grid) = spread(3, cols);
            assert!(grid.blocks == [3, 1, 1] && grid.threads % 32 == 0 && grid.threads <= 1024);
            assert!(turns == 0 || (cols % 4 == 0 && 4 * turns * grid.threads >= cols));
        }
        assert_eq!(spread(1, 4096), (4, Blocks::of(1, 256)));
        assert_eq!(spread(1, 14336), (4, Blocks::of(1, 896)));
        assert_eq!(spread(1, 65536), (0, Blocks::of(1, 1024)));
    }

    #[test]
    fn wide_rows_go_by_their_number() {
        let of = |operands, rows, f| Rows { x: 0, size: 4, rows, f, operands, codes: Codes { kind: 1, fixed: 0.0 } };
        let way = |rows, f, arch| of(2, rows, f).way(arch, 132, 227 << 10);
        assert_eq!(way(1, 14336, 90), Way::Spread(448));
        assert_eq!(way(17, 14336, 90), Way::Stream(3584));
        assert_eq!(way(8192, 14336, 90), Way::Stream(3584));
        assert_eq!(way(8192, 28672, 90), Way::Stream(3584));
        assert_eq!(way(8192, 4096, 90), Way::Alone);
        assert_eq!(way(8192, 14336, 89), Way::Alone);
        assert_eq!(way(1, 14335, 90), Way::Alone);
        let narrow = |rows, f, arch| Rows { size: 2, ..of(1, rows, f) }.way(arch, 132, 227 << 10);
        assert_eq!(narrow(8192, 14336, 90), Way::Packed(4, 448));
        assert_eq!(narrow(8192, 4096, 90), Way::Packed(4, 128));
        assert_eq!(narrow(132, 4096, 90), Way::Packed(1, 512));
        assert_eq!(narrow(132, 4096, 80), Way::Packed(1, 512));
        assert_eq!(narrow(8192, 14340, 90), Way::Alone);
        assert_eq!(narrow(8192, 40000, 90), Way::Alone);
        assert_eq!(narrow(1, 14340, 90), Way::Spread(449));
        // Chips whose blocks have less memory: pieces of one operand fit, of two not.
        assert_eq!(of(2, 8192, 14336).way(120, 170, 99 << 10), Way::Alone);
        assert_eq!(of(1, 8192, 14336).way(120, 170, 99 << 10), Way::Stream(3584));
        for f in 1..=70_000 {
            let Way::Packed(turns, threads) = narrow(200, f, 90) else { continue };
            assert!(threads.is_multiple_of(32) && threads <= 1024 && 8 * turns * threads >= f, "{f}");
        }
        for f in (8192..=65536).step_by(4) {
            let Way::Stream(width) = way(8192, f, 90) else { continue };
            assert!(width.is_multiple_of(128) && width / 4 <= STREAMING && width * MOST_TURNS >= f, "{f}");
        }
    }
}
