//! Weights whose groups of input channels have scales of their own: a product for each group, summed in order.
use super::{PackedQ8, Q8Slice, gemm_w8a8};
use crate::isa::Isa;
use crate::threads::Threads;
use planish_tensor::Q8;

/// An 8-bit weight `[n, k]` with a scale for each channel and each `size` neighbouring input channels.
pub struct GroupedQ8 {
    k: usize,
    size: usize,
    /// One weight `[n, size]` for each group (the last may be narrower), without biases.
    groups: Vec<PackedQ8>,
    /// `[n]`.
    bias: Option<Vec<f32>>,
}

impl GroupedQ8 {
    /// Packs weights with equal `k`, concatenated over `n`; each part is its codes `[n_i, k]` and scales
    /// `[n_i, groups]`. `bias` has the sum of all `n_i`. Panics if lengths disagree or `size` is 0.
    pub fn pack(
        kind: Q8,
        k: usize,
        size: usize,
        parts: &[(&[u8], &[f32])],
        bias: Option<Vec<f32>>,
        isa: Isa,
        threads: &Threads,
    ) -> GroupedQ8 {
        let count = k.div_ceil(size);
        let group = |g: usize| {
            let (first, width) = (g * size, size.min(k - g * size));
            let cut: Vec<(Vec<u8>, Vec<f32>)> = parts
                .iter()
                .map(|(codes, scales)| {
                    assert_eq!(codes.len() * count, scales.len() * k, "a scale for each group of a channel");
                    let codes = codes.chunks_exact(k).flat_map(|row| &row[first..first + width]).copied().collect();
                    (codes, scales.iter().skip(g).step_by(count).copied().collect())
                })
                .collect();
            let cut: Vec<(&[u8], &[f32])> = cut.iter().map(|(codes, scales)| (&codes[..], &scales[..])).collect();
            PackedQ8::pack(kind, width, &cut, None, isa, threads)
        };
        GroupedQ8 { k, size, groups: (0..count).map(group).collect(), bias }
    }

    /// Output channels.
    pub fn n(&self) -> usize {
        self.groups.first().map_or(0, PackedQ8::n)
    }

    /// Input channels.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The 8-bit type.
    pub fn kind(&self) -> Option<Q8> {
        self.groups.first().map(PackedQ8::kind)
    }

    /// Bytes that one pass reads.
    pub fn bytes(&self) -> usize {
        self.groups.iter().map(PackedQ8::bytes).sum()
    }
}

/// `out[t, n] = Σ_g (x_g · w_gᵀ * xs[t, g]) * ws[n, g] (+ bias[n])`, groups ascending; `x.xs` is `[t, groups]`.
/// Panics if lengths disagree.
pub fn gemm_grouped(threads: &Threads, x: Q8Slice<'_>, w: &GroupedQ8, out: &mut [f32]) {
    let (n, count) = (w.n(), w.groups.len());
    let t = x.xs.len().checked_div(count).unwrap_or(0);
    assert_eq!((x.codes.len(), out.len()), (t * w.k, t * n), "codes and output of {t} tokens");
    let mut term = vec![0.0; if count > 1 { t * n } else { 0 }];
    for (g, group) in w.groups.iter().enumerate() {
        let (first, width) = (g * w.size, group.k());
        let codes: Vec<u8> = x.codes.chunks_exact(w.k).flat_map(|row| &row[first..first + width]).copied().collect();
        let xs: Vec<f32> = x.xs.iter().skip(g).step_by(count).copied().collect();
        let slice = Q8Slice { codes: &codes, xs: &xs };
        if g == 0 {
            gemm_w8a8(threads, slice, group, out);
            continue;
        }
        gemm_w8a8(threads, slice, group, &mut term);
        out.iter_mut().zip(&term).for_each(|(sum, term)| *sum += term);
    }
    if let Some(bias) = &w.bias {
        out.chunks_exact_mut(n).for_each(|row| row.iter_mut().zip(bias).for_each(|(y, b)| *y += b));
    }
}
