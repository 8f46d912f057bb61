//! A linear in the order that the fast kernels read.
use crate::gemm_float::PackedFloat;
use crate::gemm_w8a8::{GroupedQ8, PackedQ8};
use crate::isa::Isa;
use crate::threads::Threads;
use planish_tensor::layout::linear_layout;
use planish_tensor::{Grid, HostTensor, LinearPart, LinearShape, Result};

/// A packed weight.
pub enum CpuLinear {
    /// Float weight.
    Float(PackedFloat),
    /// 8-bit weight with a scale for each channel.
    Q8(PackedQ8),
    /// 8-bit weight with a scale for each channel and group, and the grid of its input.
    Grouped(GroupedQ8, Grid),
}

impl CpuLinear {
    /// Packs a weight made of parts for the kernels of `isa`.
    pub fn pack(parts: &[LinearPart], isa: Isa, threads: &Threads) -> Result<CpuLinear> {
        let layout = linear_layout(parts)?;
        let bias = parts.iter().any(|p| p.bias.is_some()).then(|| {
            let bias = |p: &LinearPart| p.bias.clone().unwrap_or_else(|| vec![0.0; p.weight.shape()[0]]);
            parts.iter().flat_map(bias).collect::<Vec<f32>>()
        });
        let Some(kind) = layout.q8 else {
            let weights: Vec<&HostTensor> = parts.iter().map(|p| &p.weight).collect();
            return Ok(CpuLinear::Float(PackedFloat::pack(&weights, bias, isa, threads)?));
        };
        let scales = |p: &'_ LinearPart| p.scales.clone().unwrap_or_default();
        let scales: Vec<Vec<f32>> = parts.iter().map(scales).collect();
        let codes: Vec<(&[u8], &[f32])> =
            parts.iter().zip(&scales).map(|(p, s)| (p.weight.bytes(), s.as_slice())).collect();
        if let Grid::Group(size) | Grid::Powers(size) = layout.grid {
            let packed = GroupedQ8::pack(kind, layout.k, size, &codes, bias, isa, threads);
            return Ok(CpuLinear::Grouped(packed, layout.grid));
        }
        let packed = PackedQ8::pack(kind, layout.k, &codes, bias, isa, threads);
        Ok(CpuLinear::Q8(packed.on(layout.grid, &codes)))
    }

    /// What the trait says of it.
    pub fn shape(&self) -> LinearShape {
        match self {
            CpuLinear::Float(w) => LinearShape { n: w.n(), k: w.k(), q8: None, grid: Grid::Token, bytes: w.bytes() },
            CpuLinear::Q8(w) => {
                LinearShape { n: w.n(), k: w.k(), q8: Some(w.kind()), grid: w.grid(), bytes: w.bytes() }
            }
            CpuLinear::Grouped(w, grid) => {
                LinearShape { n: w.n(), k: w.k(), q8: w.kind(), grid: *grid, bytes: w.bytes() }
            }
        }
    }
}
