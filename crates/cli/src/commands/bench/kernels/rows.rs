//! Operations on rows that end in 8-bit codes, fused, against the plain operations that they stand for.
use super::data::{Sizes, download, floats, upload};
use super::{Random, Reference, Row, time};
use planish_tensor::{Activation, Backend, DType, Q8, Q8Rows, Result, Tensor, q8};

const EPS: f32 = 1e-5;

/// Tokens whose results are compared with the definition.
const CHECKED: usize = 4;

/// Every operation at `t` tokens.
pub fn measure<B: Backend>(b: &B, sizes: &Sizes, kind: Q8, t: usize, rows: &mut Vec<Row>) -> Result<()> {
    rows.push(norm(b, sizes.h, kind, t)?);
    rows.push(quantize(b, sizes.attended, kind, t)?);
    rows.push(gated(b, sizes.f, kind, t)?);
    Ok(())
}

fn norm<B: Backend>(b: &B, h: usize, kind: Q8, t: usize) -> Result<Row> {
    let mut random = Random(2);
    let (dtype, values) = (b.activation_dtype(), floats(&mut random, t * h));
    let weight = floats(&mut random, h);
    let device_weight = upload(b, &weight, 1, h, DType::F32)?;
    let (mut x, mut normed) = (upload(b, &values, t, h, dtype)?, b.alloc(dtype, t, h)?);
    let delta = upload(b, &vec![0.0; t * h], t, h, dtype)?;
    let mut out = b.alloc_q8(kind, t, h)?;
    let us =
        time(b, &mut |_| b.add_rms_norm_quantize(&mut x, Some(&delta), &device_weight, EPS, &mut normed, &mut out))?;
    let exact = |row: &[f32]| {
        let mean = row.iter().map(|&v| f64::from(v).powi(2)).sum::<f64>() / h as f64;
        let scale = 1.0 / (mean + f64::from(EPS)).sqrt();
        row.iter().zip(&weight).map(|(&v, &w)| (f64::from(v) * scale) as f32 * w).collect()
    };
    let rel_err = error(b, kind, &out, &values, h, &exact)?;
    let plain = time(b, &mut |_| {
        b.add(&mut x, &delta)?;
        b.rms_norm(&x, &device_weight, EPS, &mut normed)?;
        b.quantize_rows(&normed, &mut out)
    })?;
    let reference = Reference::of("add, rms_norm, quantize_rows", plain);
    let bytes = (t * h * (3 * dtype.size() + 1) + 4 * (t + h)) as f64;
    Ok(row("add_rms_norm_quantize", kind, [t, h, h], us, bytes, reference, rel_err))
}

fn quantize<B: Backend>(b: &B, k: usize, kind: Q8, t: usize) -> Result<Row> {
    let (dtype, values) = (b.activation_dtype(), floats(&mut Random(3), t * k));
    let (x, mut copy) = (upload(b, &values, t, k, dtype)?, b.alloc(dtype, t, k)?);
    let mut out = b.alloc_q8(kind, t, k)?;
    let us = time(b, &mut |_| b.quantize_rows(&x, &mut out))?;
    let rel_err = error(b, kind, &out, &values, k, &|row| row.to_vec())?;
    let reference = Reference::of("add: twice the bytes and no codes", time(b, &mut |_| b.add(&mut copy, &x))?);
    let bytes = (t * k * (dtype.size() + 1) + 4 * t) as f64;
    Ok(row("quantize_rows", kind, [t, k, k], us, bytes, reference, rel_err))
}

fn gated<B: Backend>(b: &B, f: usize, kind: Q8, t: usize) -> Result<Row> {
    let (dtype, values) = (b.activation_dtype(), floats(&mut Random(4), 2 * t * f));
    let (x, mut inner) = (upload(b, &values, t, 2 * f, dtype)?, b.alloc(dtype, t, f)?);
    let mut out = b.alloc_q8(kind, t, f)?;
    let us = time(b, &mut |_| b.gated_quantize(&x, Activation::Silu, &mut inner, &mut out))?;
    let exact = |row: &[f32]| {
        let silu = |v: f32| (f64::from(v) / (1.0 + (-f64::from(v)).exp())) as f32;
        (0..f).map(|i| silu(row[i]) * row[f + i]).collect()
    };
    let rel_err = error(b, kind, &out, &values, 2 * f, &exact)?;
    let plain = time(b, &mut |_| {
        b.gated(&x, Activation::Silu, &mut inner)?;
        b.quantize_rows(&inner, &mut out)
    })?;
    let bytes = (t * f * (2 * dtype.size() + 1) + 4 * t) as f64;
    Ok(row("gated_quantize", kind, [t, f, 2 * f], us, bytes, Reference::of("gated, quantize_rows", plain), rel_err))
}

fn row(op: &'static str, kind: Q8, size: [usize; 3], us: f64, bytes: f64, reference: Reference, rel_err: f64) -> Row {
    let operations = (size[0] * size[2]) as f64;
    let (kernel, dtype) = (op.into(), kind.dtype().to_string());
    Row { op, kernel, size, dtype, us, operations, bytes, reference, bf16_us: None, rel_err }
}

/// The largest difference between what the codes of some tokens stand for and what those of the definition do, made of
/// the float result `exact` of an input row; in parts of the largest. A result near a tie may be a step away.
fn error<B: Backend>(
    b: &B,
    kind: Q8,
    out: &Q8Rows<B>,
    values: &[f32],
    width: usize,
    exact: &dyn Fn(&[f32]) -> Vec<f32>,
) -> Result<f64> {
    let cols = out.codes.cols;
    let count = CHECKED.min(out.codes.rows);
    let codes = bytes_of(b, &out.codes, count * cols)?;
    let scales = download(b, &out.scales, count)?;
    let (mut worst, mut largest) = (0.0f32, 0.0f32);
    let mut expected = vec![0; cols];
    for i in 0..count {
        let floats = exact(&values[i * width..][..width]);
        let scale = q8::quantize_activation_row(kind, &floats, &mut expected);
        let both = codes[i * cols..][..cols].iter().zip(&expected);
        for (&found, &code) in both {
            largest = largest.max((kind.decode(code) * scale).abs());
            worst = worst.max((kind.decode(found) * scales[i] - kind.decode(code) * scale).abs());
        }
    }
    Ok(f64::from(worst / largest))
}

fn bytes_of<B: Backend>(b: &B, x: &Tensor<B>, count: usize) -> Result<Vec<u8>> {
    let mut bytes = vec![0; x.rows * x.cols * x.dtype.size()];
    b.download(x, &mut bytes)?;
    bytes.truncate(count);
    Ok(bytes)
}
