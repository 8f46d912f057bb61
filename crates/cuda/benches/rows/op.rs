//! The operations that are measured alike: inputs, results, and how far these are from the scalar reference's.
use planish_cpu::Scalar;
use planish_tensor::{Activation, Backend, DType, Q8, Q8Rows, Result, Tensor};

/// Rows that are compared with the reference's.
pub const CHECKED: usize = 4;
const EPS: f32 = 1e-5;

/// An operation from floats to floats or codes.
#[derive(Clone, Copy, Debug)]
pub enum Op {
    Quantize(Q8),
    /// Of numbers that were rounded to bf16.
    QuantizeBf16(Q8),
    Norm,
    Add,
    /// With what is added first, and without.
    AddNormQuantize(Q8),
    NormQuantize(Q8),
    Gated,
    GatedQuantize(Q8),
    LogSoftmax,
}

/// What an operation reads and writes.
pub struct Io<B: Backend> {
    /// `[t, cols]`, or `[t, 2 cols]` of gate and up.
    pub x: Tensor<B>,
    /// `x` in bf16, where an operation reads that.
    pub rounded: Option<Tensor<B>>,
    /// `[t, cols]`.
    pub delta: Tensor<B>,
    /// `[t, cols]`.
    pub out: Tensor<B>,
    /// `[t, cols]`.
    pub codes: Q8Rows<B>,
}

impl Op {
    pub fn name(self) -> String {
        match self {
            Op::Quantize(kind) => format!("quantize_rows {}", kind.dtype()),
            Op::QuantizeBf16(kind) => format!("quantize_rows bf16 {}", kind.dtype()),
            Op::Norm => "rms_norm".into(),
            Op::Add => "add".into(),
            Op::AddNormQuantize(kind) => format!("add_rms_norm_quantize {}", kind.dtype()),
            Op::NormQuantize(kind) => format!("rms_norm_quantize {}", kind.dtype()),
            Op::Gated => "gated".into(),
            Op::GatedQuantize(kind) => format!("gated_quantize {}", kind.dtype()),
            Op::LogSoftmax => "log_softmax".into(),
        }
    }

    /// Bytes read and written for each element of the result.
    pub const fn bytes(self) -> usize {
        match self {
            Op::QuantizeBf16(_) => 3,
            Op::Quantize(_) | Op::NormQuantize(_) => 5,
            Op::Norm | Op::LogSoftmax => 8,
            Op::Add | Op::Gated => 12,
            Op::AddNormQuantize(_) => 13,
            Op::GatedQuantize(_) => 9,
        }
    }

    /// The type of codes that it makes.
    pub const fn kind(self) -> Option<Q8> {
        match self {
            Op::Quantize(kind) | Op::QuantizeBf16(kind) | Op::GatedQuantize(kind) => Some(kind),
            Op::AddNormQuantize(kind) | Op::NormQuantize(kind) => Some(kind),
            Op::Norm | Op::Add | Op::Gated | Op::LogSoftmax => None,
        }
    }

    /// Width of its input by that of its result.
    pub const fn factor(self) -> usize {
        if matches!(self, Op::Gated | Op::GatedQuantize(_)) { 2 } else { 1 }
    }

    pub fn run<B: Backend>(self, b: &B, weight: &Tensor<B>, io: &mut Io<B>) -> Result<()> {
        let Io { x, rounded, delta, out, codes } = io;
        match self {
            Op::Quantize(_) => b.quantize_rows(x, codes),
            Op::QuantizeBf16(_) => b.quantize_rows(rounded.as_ref().unwrap_or(x), codes),
            Op::Norm => b.rms_norm(x, weight, EPS, out),
            Op::Add => b.add(x, delta),
            Op::AddNormQuantize(_) => b.add_rms_norm_quantize(x, Some(delta), weight, EPS, out, codes),
            Op::NormQuantize(_) => b.add_rms_norm_quantize(x, None, weight, EPS, out, codes),
            Op::Gated => b.gated(x, Activation::Silu, out),
            Op::GatedQuantize(_) => b.gated_quantize(x, Activation::Silu, out, codes),
            Op::LogSoftmax => b.log_softmax(x),
        }
    }

    /// The first rows of the result, codes as what they stand for.
    pub fn result<B: Backend>(self, b: &B, io: &mut Io<B>) -> Result<Vec<f32>> {
        let Some(kind) = self.kind() else {
            return head(b, if matches!(self, Op::Add | Op::LogSoftmax) { &mut io.x } else { &mut io.out });
        };
        let (codes, scales) = (bytes_of(b, &mut io.codes.codes)?, head(b, &mut io.codes.scales)?);
        let cols = io.codes.codes.cols;
        Ok(codes.iter().enumerate().map(|(i, &code)| kind.decode(code) * scales[i / cols]).collect())
    }
}

/// The first rows of a tensor.
fn bytes_of<B: Backend>(b: &B, x: &mut Tensor<B>) -> Result<Vec<u8>> {
    let all = x.rows;
    x.set_rows(all.min(CHECKED));
    let mut bytes = vec![0; x.rows * x.cols * x.dtype.size()];
    let read = b.download(x, &mut bytes);
    x.set_rows(all);
    read.map(|()| bytes)
}

pub fn head<B: Backend>(b: &B, x: &mut Tensor<B>) -> Result<Vec<f32>> {
    Ok(planish_tensor::host::decode_f32(x.dtype, &bytes_of(b, x)?))
}

/// A matrix of the reference's.
pub fn scalar(values: &[f32], cols: usize) -> Result<Tensor<Scalar>> {
    let mut tensor = Scalar.alloc(DType::F32, values.len() / cols, cols)?;
    Scalar.upload(bytemuck::cast_slice(values), &mut tensor)?;
    Ok(tensor)
}

/// The largest difference, in parts of the largest magnitude expected; infinite where a number is none.
pub fn difference(found: &[f32], expected: &[f32]) -> f64 {
    let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
    let apart = |(a, b): (&f32, &f32)| if (a - b).is_nan() { f32::INFINITY } else { (a - b).abs() };
    f64::from(found.iter().zip(expected).map(apart).fold(0.0, f32::max) / largest)
}
