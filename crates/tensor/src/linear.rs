//! Linears: what a checkpoint holds of one, what a loaded one is, and how floats are multiplied.
use crate::host::decode_f32_into;
use crate::q8::quantize_weight_row;
use crate::{Error, Grid, HostTensor, Q8, Result};

/// How float products are computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FloatMath {
    /// f32 activations, weights as they are stored, sequential fused multiply-adds over the input channels.
    F32,
    /// Activations and weights (f32 and f16 ones too) rounded to bf16, products exact, sums in f32. A back end without such
    /// instructions may compute as [`FloatMath::F32`] does, which is never less exact.
    Bf16,
}

/// One weight `[n, k]`, as stored. A linear may be loaded from several, concatenated over `n` (q+k+v, gate+up).
#[derive(Clone, Debug)]
pub struct LinearPart {
    /// `[n, k]` F32, F16 or BF16; or I8 / F8 codes, then `scales` must be present.
    pub weight: HostTensor,
    /// `[n, groups]` scales `ws` of an 8-bit weight: one for each channel, or for each of its groups ([`Grid::groups`]).
    pub scales: Option<Vec<f32>>,
    /// `[n]` bias.
    pub bias: Option<Vec<f32>>,
    /// How the input of an 8-bit weight becomes codes.
    pub grid: Grid,
}

impl LinearPart {
    /// A float weight `[n, k]`.
    pub fn float(weight: HostTensor, bias: Option<Vec<f32>>) -> LinearPart {
        LinearPart { weight, scales: None, bias, grid: Grid::Token }
    }

    /// Codes `[n, k]` with a scale for each channel, for inputs with a scale for each token.
    pub fn channels(weight: HostTensor, scales: Vec<f32>, bias: Option<Vec<f32>>) -> LinearPart {
        LinearPart { weight, scales: Some(scales), bias, grid: Grid::Token }
    }

    /// A float part with its rows rounded to the nearest codes of `kind`, as [`crate::q8::quantize_weight_row`] does.
    pub fn quantized(&self, kind: Q8) -> Result<LinearPart> {
        let &[n, k] = self.weight.shape() else {
            return Err(Error::shape(format!("a weight to quantize: expected [n, k], found {:?}", self.weight)));
        };
        if Q8::from_dtype(self.weight.dtype()).is_some() {
            return Err(Error::dtype(format!("a weight to quantize: expected floats, found {:?}", self.weight)));
        }
        let (size, bytes) = (k * self.weight.dtype().size(), self.weight.bytes());
        let (mut codes, mut scales, mut row) = (vec![0; n * k], vec![0.0; n], vec![0.0; k]);
        for i in 0..n {
            decode_f32_into(self.weight.dtype(), &bytes[i * size..][..size], &mut row);
            scales[i] = quantize_weight_row(kind, &row, &mut codes[i * k..][..k]);
        }
        let weight = HostTensor::from_bytes(kind.dtype(), vec![n, k], codes)?;
        Ok(LinearPart::channels(weight, scales, self.bias.clone()))
    }
}

/// What a loaded linear is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LinearShape {
    /// Output channels.
    pub n: usize,
    /// Input channels.
    pub k: usize,
    /// The 8-bit type, or `None` for a float weight.
    pub q8: Option<Q8>,
    /// How the input of an 8-bit weight becomes codes.
    pub grid: Grid,
    /// Bytes that one pass over the weight reads.
    pub bytes: usize,
}
