//! What every back end checks of its arguments before it reads them.
use crate::{Asked, Backend, DType, Error, Grid, HostTensor, LinearPart, Q8, Result, Target, Tensor};

/// Fails with the operation's name unless its sizes fit.
pub fn require(operation: &str, fits: bool) -> Result<()> {
    if fits { Ok(()) } else { Err(Error::shape(format!("{operation}: the sizes of inputs and output do not fit"))) }
}

/// Fails unless what is to be judged of `logits` is there and ascends by row.
pub fn require_targets<B: Backend>(logits: &Tensor<B>, targets: &[Target]) -> Result<()> {
    let fits = |t: &Target| (t.row as usize) < logits.rows && (t.token as usize) < logits.cols;
    require("judge", targets.iter().all(fits) && targets.is_sorted_by_key(|t| t.row))
}

/// Fails unless what is asked of `logits` is there.
pub fn require_asked<B: Backend>(logits: &Tensor<B>, asked: &[Asked]) -> Result<()> {
    let fits = |a: &Asked| (a.row as usize) < logits.rows && (a.token as usize) < logits.cols;
    require("likely", asked.iter().all(fits))
}

/// Fails unless these are rows of `src`, and there are bytes for each of them.
pub fn require_rows<B: Backend>(src: &Tensor<B>, rows: &[u32], bytes: &[u8]) -> Result<()> {
    let each = src.cols * src.dtype.size();
    require("download_rows", rows.iter().all(|&row| (row as usize) < src.rows) && bytes.len() == rows.len() * each)
}

/// Rows and columns of a host tensor of one or two dimensions.
pub fn rows_of(host: &HostTensor) -> Result<(usize, usize)> {
    match *host.shape() {
        [n] => Ok((1, n)),
        [rows, cols] => Ok((rows, cols)),
        ref other => Err(Error::shape(format!("expected one or two dimensions, found {other:?}"))),
    }
}

/// Size and kind of a linear made of parts.
pub struct LinearLayout {
    /// Output channels of all parts.
    pub n: usize,
    /// Input channels.
    pub k: usize,
    /// The 8-bit type, or `None` for float weights.
    pub q8: Option<Q8>,
    /// How the input of 8-bit weights becomes codes.
    pub grid: Grid,
}

/// Checks that parts can be one linear.
pub fn linear_layout(parts: &[LinearPart]) -> Result<LinearLayout> {
    let first = parts.first().ok_or_else(|| Error::shape("a linear needs at least one weight"))?;
    let (_, k) = rows_of(&first.weight)?;
    let q8 = Q8::from_dtype(first.weight.dtype());
    let mut n = 0;
    for part in parts {
        let (rows, cols) = rows_of(&part.weight)?;
        let dtype = part.weight.dtype();
        let float = matches!(dtype, DType::F32 | DType::F16 | DType::BF16);
        if cols != k || Q8::from_dtype(dtype) != q8 || (q8.is_none() && !float) {
            return Err(Error::shape(format!(
                "weights of one linear differ: {:?} and {:?}",
                first.weight, part.weight
            )));
        }
        if part.grid != first.grid {
            let (a, b) = (first.grid, part.grid);
            return Err(Error::unsupported(format!("inputs of one linear become codes in two ways: {a:?} and {b:?}")));
        }
        q8.map_or(Ok(()), |kind| part.grid.check(kind))?;
        let fits = |v: &Option<Vec<f32>>, each: usize| v.as_ref().is_none_or(|v| v.len() == rows * each);
        if part.scales.is_some() != q8.is_some() || !fits(&part.scales, part.grid.groups(k)) || !fits(&part.bias, 1) {
            return Err(Error::shape(format!("scales or bias do not fit {:?}", part.weight)));
        }
        n += rows;
    }
    Ok(LinearLayout { n, k, q8, grid: first.grid })
}
