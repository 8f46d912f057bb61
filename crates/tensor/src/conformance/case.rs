//! One case: how it runs on any back end, and how two results are compared.
use super::Tolerance;
use crate::host::{decode_f32, encode_f32};
use crate::{Backend, DType, Q8, Result, Tensor};

/// Inputs for one operation.
pub(super) trait Case {
    /// Name in the trait.
    fn operation(&self) -> &'static str;
    /// Sizes and kinds, for people.
    fn describe(&self) -> String;
    /// 8-bit types of the weights that are multiplied: what a back end without one of them refuses.
    fn multiplies(&self) -> Vec<Q8> {
        Vec::new()
    }
    /// Whether a back end may leave this to the host: it then counts as refused, and no more.
    fn may_be_left(&self) -> bool {
        false
    }
    /// Runs the operation.
    fn run<B: Backend>(&self, b: &B) -> Result<Vec<Output>>;
}

/// Who cases are brought before.
pub(super) trait Judge {
    fn hear(&mut self, case: &impl Case);
}

/// One result, `[rows, cols]`.
pub(super) struct Output {
    pub cols: usize,
    pub dtype: DType,
    pub values: Vec<f32>,
    pub check: Check,
}

/// How a result is to agree.
#[derive(Clone)]
pub(super) enum Check {
    Equal,
    /// Within [`Tolerance::relative`].
    Relative,
    /// Values rounded to bf16 after arithmetic that is within [`Tolerance::relative`].
    RelativeBf16,
    /// Within [`Tolerance::float8`].
    Float8,
    /// Within [`Tolerance::product`] of these sums of magnitudes.
    Product(Vec<f32>),
    /// Within [`Tolerance::relative`] of these sums of magnitudes.
    Sum(Vec<f32>),
    /// Within [`Tolerance::narrow_attention`].
    Narrow,
    /// Within [`Tolerance::narrow_attention`] of these sums of magnitudes.
    NarrowSum(Vec<f32>),
    /// Within this share of the row's largest magnitude.
    Within(f32),
    /// Within [`Tolerance::bf16_product`] of these sums of magnitudes.
    Bf16Product(Vec<f32>),
    /// Codes, as values; each may be the next one.
    Codes(Q8),
}

/// How close two results were.
#[derive(Default)]
pub(super) struct Agreement {
    pub worst: f32,
    pub codes: usize,
    pub neighbours: usize,
}

/// A row that operations must leave alone follows those in use, filled with this.
const PAST_THE_END: f32 = 7.5;

/// A matrix of `values`.
pub(super) fn put<B: Backend>(b: &B, dtype: DType, cols: usize, values: &[f32]) -> Result<Tensor<B>> {
    let mut tensor = b.alloc(dtype, values.len() / cols, cols)?;
    b.upload(&encode(dtype, values)?, &mut tensor)?;
    Ok(tensor)
}

/// A matrix of `values`, of the back end's activation type, with a row to be left alone after it.
pub(super) fn activations<B: Backend>(b: &B, cols: usize, values: &[f32]) -> Result<Tensor<B>> {
    let mut tensor = blank(b, b.activation_dtype(), values.len() / cols, cols)?;
    b.upload(&encode(tensor.dtype, values)?, &mut tensor)?;
    Ok(tensor)
}

/// A matrix to write to, with a row to be left alone after it.
pub(super) fn blank<B: Backend>(b: &B, dtype: DType, rows: usize, cols: usize) -> Result<Tensor<B>> {
    let mut tensor = put(b, dtype, cols, &vec![PAST_THE_END; (rows + 1) * cols])?;
    tensor.set_rows(rows);
    Ok(tensor)
}

/// All values, those past the end included.
pub(super) fn read<B: Backend>(b: &B, tensor: &mut Tensor<B>, check: Check) -> Result<Output> {
    tensor.set_rows(tensor.capacity);
    let mut bytes = vec![0; tensor.rows * tensor.cols * tensor.dtype.size()];
    b.download(tensor, &mut bytes)?;
    Ok(Output { cols: tensor.cols, dtype: tensor.dtype, values: decode_f32(tensor.dtype, &bytes), check })
}

/// Little-endian bytes of `values`.
pub(super) fn encode(dtype: DType, values: &[f32]) -> Result<Vec<u8>> {
    match Q8::from_dtype(dtype) {
        Some(kind) => Ok(values.iter().map(|&v| kind.encode(v)).collect()),
        None => encode_f32(dtype, values),
    }
}

/// Compares what was found with what was expected.
pub(super) fn compare(expected: &Output, found: &Output, tolerance: &Tolerance) -> Result<Agreement, String> {
    let mut wanted = expected.values.clone();
    if found.dtype == DType::BF16 && expected.dtype == DType::F32 {
        wanted = decode_f32(DType::BF16, &encode_f32(DType::BF16, &wanted).map_err(|e| e.to_string())?);
    }
    if wanted.len() != found.values.len() {
        return Err(format!("{} values instead of {}", found.values.len(), wanted.len()));
    }
    let by_row = |relative: f32| within(&wanted, found, relative, &row_scales(&wanted, found.cols));
    match &expected.check {
        Check::Equal => within(&wanted, found, 0.0, &[]),
        Check::Relative => by_row(tolerance.relative),
        Check::RelativeBf16 => by_row(tolerance.relative.max(1.0 / 256.0)),
        Check::Float8 => by_row(tolerance.float8),
        Check::Product(scales) => within(&wanted, found, tolerance.product, scales),
        Check::Narrow => by_row(tolerance.narrow_attention),
        Check::NarrowSum(scales) => within(&wanted, found, tolerance.narrow_attention, scales),
        Check::Within(share) => by_row(*share),
        Check::Sum(scales) => within(&wanted, found, tolerance.relative, scales),
        Check::Bf16Product(scales) => within(&wanted, found, tolerance.bf16_product, scales),
        Check::Codes(kind) => neighbours(*kind, &wanted, found),
    }
}

/// For each element, the largest finite magnitude of its row.
fn row_scales(values: &[f32], cols: usize) -> Vec<f32> {
    let scale = |row: &[f32]| row.iter().filter(|v| v.is_finite()).fold(0.0f32, |m, v| m.max(v.abs()));
    values.chunks(cols.max(1)).flat_map(|row| vec![scale(row); row.len()]).collect()
}

/// `scales` end where the row past the end begins; there, and without scales, values are to be equal.
fn within(wanted: &[f32], found: &Output, relative: f32, scales: &[f32]) -> Result<Agreement, String> {
    let mut agreement = Agreement::default();
    for (i, (&want, &got)) in wanted.iter().zip(&found.values).enumerate() {
        if want == got || (want.is_nan() && got.is_nan()) {
            continue;
        }
        let error = (want as f64 - got as f64).abs();
        let scale = scales.get(i).copied().unwrap_or(0.0) as f64;
        if error.is_nan() || error > relative as f64 * scale {
            let (row, col) = (i / found.cols, i % found.cols);
            return Err(format!("at [{row}, {col}]: {got:e} instead of {want:e} (error {:.1e})", error / scale));
        }
        agreement.worst = agreement.worst.max((error / scale) as f32);
    }
    Ok(agreement)
}

fn neighbours(kind: Q8, wanted: &[f32], found: &Output) -> Result<Agreement, String> {
    let mut agreement = Agreement { codes: wanted.len(), ..Agreement::default() };
    for (i, (&want, &got)) in wanted.iter().zip(&found.values).enumerate() {
        if want == got {
            continue;
        }
        agreement.neighbours += 1;
        if (place(kind, want) - place(kind, got)).abs() > 1 {
            return Err(format!("at [{}, {}]: code {got} instead of {want}", i / found.cols, i % found.cols));
        }
    }
    Ok(agreement)
}

/// Where a code's value stands among all values.
fn place(kind: Q8, value: f32) -> i32 {
    match kind {
        Q8::Int8 => value as i32,
        _ => {
            let magnitude = i32::from(kind.encode(value.abs()));
            if value < 0.0 { -magnitude } else { magnitude }
        }
    }
}
