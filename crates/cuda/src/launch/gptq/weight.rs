//! Weights that are changed on the device: `kernels/gptq_weight.cu`.
use super::require_f32;
use crate::buffer::Buffer;
use crate::launch::{Grid, address, params};
use crate::{Cuda, Linear};
use planish_tensor::layout::{require, rows_of};
use planish_tensor::{Backend, DType, HostTensor, Result, Tensor};

const FILE: &str = "gptq_weight";

pub(super) fn load_f32(cuda: &Cuda, host: &HostTensor) -> Result<Tensor<Cuda>> {
    let kernel = match host.dtype() {
        DType::F32 => return cuda.load(host),
        DType::BF16 => "gptq_widen_bf16",
        DType::F16 => "gptq_widen_f16",
        _ => return cuda.load(&HostTensor::from_f32(host.shape().to_vec(), &host.to_f32())?),
    };
    let (rows, cols) = rows_of(host)?;
    let (stored, out) = (cuda.load(host)?, cuda.blank(DType::F32, rows, cols)?);
    let grid = Grid::of((rows * cols).div_ceil(1024).min(4096), 256);
    cuda.launch(FILE, kernel, grid, params![address(&stored), address(&out), rows, cols])?;
    Ok(out)
}

pub(super) fn linear_of(cuda: &Cuda, parts: &[(&Tensor<Cuda>, Option<&[f32]>)]) -> Result<Linear> {
    let k = parts.first().map_or(0, |(w, _)| w.cols);
    let n = parts.iter().map(|(w, _)| w.rows).sum();
    let fits = |(w, bias): &(&Tensor<Cuda>, Option<&[f32]>)| bias.is_none_or(|b| b.len() == w.rows);
    require("linear of tensors", !parts.is_empty() && parts.iter().all(fits))?;
    let row = k * size_of::<f32>();
    let weight = Buffer::uninitialized(&cuda.context, n * row, "a weight")?;
    let mut above = 0;
    for (w, _) in parts {
        require_f32("linear of tensors", w, w.rows, k)?;
        cuda.copy_bytes(&w.buf, &weight, above * row, w.rows * row)?;
        above += w.rows;
    }
    let of = |(w, bias): &(&Tensor<Cuda>, Option<&[f32]>)| bias.map_or_else(|| vec![0.0; w.rows], <[f32]>::to_vec);
    let bias: Option<Vec<f32>> =
        parts.iter().any(|(_, bias)| bias.is_some()).then(|| parts.iter().flat_map(of).collect());
    let bias = bias.map(|b| Buffer::of(&cuda.context, bytemuck::cast_slice(&b), "a bias")).transpose()?;
    let grid = planish_tensor::Grid::Token;
    Ok(Linear { n, k, dtype: DType::F32, q8: None, grid, interleaved: false, weight, scales: None, bias })
}

pub(super) fn multiply_columns(cuda: &Cuda, w: &mut Tensor<Cuda>, s: &[f32]) -> Result<()> {
    require_f32("multiply columns", w, w.rows, s.len())?;
    let s = cuda.numbers(s)?;
    cuda.launch(FILE, "gptq_scale", Grid::of(w.rows, 256), params![address(w), address(&s), 0u64, w.cols])
}

pub(super) fn divide_rows(cuda: &Cuda, w: &mut Tensor<Cuda>, s: &[f32]) -> Result<()> {
    require_f32("divide rows", w, s.len(), w.cols)?;
    let s = cuda.numbers(s)?;
    cuda.launch(FILE, "gptq_scale", Grid::of(w.rows, 256), params![address(w), 0u64, address(&s), w.cols])
}
