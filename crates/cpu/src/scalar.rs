//! The scalar reference: every operation in plain loops. This file is the definition; fast paths are tested against it.
use crate::access::{add_positions, f32s, f32s_mut, gather, i32s, i32s_mut, u8s, u8s_mut};
use crate::buffer::{CpuBuf, share};
use crate::host_memory;
use half::bf16;
use planish_tensor::layout::{linear_layout, require, require_asked, rows_of};
use planish_tensor::{
    Activation, Asked, AttentionShape, Backend, Batch, DType, Error, FloatMath, Grid, HostTensor, KvLayer, Likely,
    LinearPart, LinearShape, Memory, Q8, Q8Rows, Result, RopeTable, Tensor, grid,
};
use std::cmp::Ordering;

mod kv;
mod rows;

pub use kv::KEY_BLOCK;
pub use rows::activate;

/// The reference back end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Scalar;

/// A weight as it is stored, rows concatenated.
pub enum ScalarLinear {
    /// `[n, k]` widened to f32.
    Float {
        /// Values.
        w: Vec<f32>,
        /// `[n]` bias.
        bias: Vec<f32>,
        /// Input channels.
        k: usize,
        /// Bytes as stored.
        bytes: usize,
    },
    /// `[n, k]` codes.
    W8A8 {
        /// 8-bit type.
        kind: Q8,
        /// Codes.
        codes: Vec<u8>,
        /// How the input becomes codes.
        grid: Grid,
        /// `[n, groups]` scales.
        ws: Vec<f32>,
        /// `[n]` bias.
        bias: Vec<f32>,
        /// Input channels.
        k: usize,
    },
}

impl Backend for Scalar {
    type Buf = CpuBuf;
    type Linear = ScalarLinear;
    type Batch = Batch;

    fn describe(&self) -> String {
        "cpu (scalar reference)".into()
    }

    fn activation_dtype(&self) -> DType {
        DType::F32
    }

    fn memory(&self) -> Memory {
        host_memory()
    }

    fn alloc(&self, dtype: DType, rows: usize, cols: usize) -> Result<Tensor<Self>> {
        crate::access::alloc(dtype, rows, cols)
    }

    fn load(&self, host: &HostTensor) -> Result<Tensor<Self>> {
        let (rows, cols) = rows_of(host)?;
        Ok(Tensor { buf: share(host)?, dtype: host.dtype(), rows, cols, capacity: rows })
    }

    fn upload(&self, bytes: &[u8], dst: &mut Tensor<Self>) -> Result<()> {
        crate::access::upload(bytes, dst)
    }

    fn download(&self, src: &Tensor<Self>, bytes: &mut [u8]) -> Result<()> {
        crate::access::download(src, bytes)
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn upload_batch(&self, batch: &Batch, pages: usize) -> Result<Batch> {
        batch.validate(pages)?;
        Ok(batch.clone())
    }

    fn load_linear(&self, parts: &[LinearPart]) -> Result<ScalarLinear> {
        let layout = linear_layout(parts)?;
        let mut bias = Vec::with_capacity(layout.n);
        for part in parts {
            let n = part.weight.shape()[0];
            bias.extend(part.bias.clone().unwrap_or_else(|| vec![0.0; n]));
        }
        let Some(kind) = layout.q8 else {
            let w = parts.iter().flat_map(|p| p.weight.to_f32()).collect();
            let bytes = parts.iter().map(|p| p.weight.bytes().len()).sum();
            return Ok(ScalarLinear::Float { w, bias, k: layout.k, bytes });
        };
        let codes = parts.iter().flat_map(|p| p.weight.bytes().to_vec()).collect();
        let ws = parts.iter().flat_map(|p| p.scales.clone().unwrap_or_default()).collect();
        Ok(ScalarLinear::W8A8 { kind, codes, grid: layout.grid, ws, bias, k: layout.k })
    }

    fn linear_shape(&self, linear: &ScalarLinear) -> LinearShape {
        match linear {
            ScalarLinear::Float { bias, k, bytes, .. } => {
                LinearShape { n: bias.len(), k: *k, q8: None, grid: Grid::Token, bytes: *bytes }
            }
            ScalarLinear::W8A8 { kind, codes, grid, ws, bias, k } => {
                let bytes = codes.len() + 4 * ws.len();
                LinearShape { n: bias.len(), k: *k, q8: Some(*kind), grid: *grid, bytes }
            }
        }
    }

    fn embed(&self, table: &Tensor<Self>, batch: &Batch, scale: f32, out: &mut Tensor<Self>) -> Result<()> {
        gather(table, &batch.tokens, scale, out)
    }

    fn rms_norm(&self, x: &Tensor<Self>, weight: &Tensor<Self>, eps: f32, out: &mut Tensor<Self>) -> Result<()> {
        require("rms_norm", x.cols == out.cols && x.rows == out.rows && weight.cols == x.cols)?;
        let h = x.cols;
        let (x, weight, out) = (f32s(x)?, f32s(weight)?, f32s_mut(out)?);
        for (x, out) in x.chunks_exact(h).zip(out.chunks_exact_mut(h)) {
            rows::rms_norm_row(x, weight, eps, out);
        }
        Ok(())
    }

    fn layer_norm(
        &self,
        x: &Tensor<Self>,
        weight: &Tensor<Self>,
        bias: &Tensor<Self>,
        eps: f32,
        out: &mut Tensor<Self>,
    ) -> Result<()> {
        rows::layer_norm(x, [weight, bias], eps, out)
    }

    fn rms_norm_stretches(
        &self,
        x: &mut Tensor<Self>,
        first: usize,
        count: usize,
        weight: &Tensor<Self>,
        eps: f32,
    ) -> Result<()> {
        rows::rms_norm_stretches(x, first, count, weight, eps)
    }

    fn add_positions(&self, table: &Tensor<Self>, batch: &Batch, offset: usize, x: &mut Tensor<Self>) -> Result<()> {
        add_positions(table, &batch.positions, offset, x)
    }

    fn quantize_rows(&self, x: &Tensor<Self>, out: &mut Q8Rows<Self>) -> Result<()> {
        let k = x.cols;
        let kind = Q8::from_dtype(out.codes.dtype).ok_or_else(|| Error::dtype("quantize_rows: 8-bit codes"))?;
        let groups = out.grid.groups(k);
        require("quantize_rows", out.codes.cols == k && out.codes.rows == x.rows && out.scales.cols == groups)?;
        let (x, codes, xs) = (f32s(x)?, u8s_mut(&mut out.codes)?, f32s_mut(&mut out.scales)?);
        let mut zeros = out.zeros.as_mut().map(i32s_mut).transpose()?;
        let rows = x.chunks_exact(k).zip(codes.chunks_exact_mut(k)).zip(xs.chunks_exact_mut(groups));
        for (i, ((x, codes), xs)) in rows.enumerate() {
            let zero = out.grid.quantize_row(kind, x, codes, xs);
            zeros.iter_mut().for_each(|zeros| zeros[i] = zero.into());
        }
        Ok(())
    }

    fn gemm_float(&self, x: &Tensor<Self>, w: &ScalarLinear, math: FloatMath, out: &mut Tensor<Self>) -> Result<()> {
        let ScalarLinear::Float { w, bias, k, .. } = w else {
            return Err(Error::dtype("gemm_float: the weight is 8-bit"));
        };
        require("gemm_float", x.cols == *k && out.cols == bias.len() && out.rows == x.rows)?;
        let rounded = |v: f32| if math == FloatMath::Bf16 { bf16::from_f32(v).to_f32() } else { v };
        let n = bias.len();
        let (x, out) = (f32s(x)?, f32s_mut(out)?);
        for (x, out) in x.chunks_exact(*k).zip(out.chunks_exact_mut(n)) {
            for (j, w) in w.chunks_exact(*k).enumerate() {
                out[j] = x.iter().zip(w).fold(0.0f32, |acc, (&a, &b)| rounded(a).mul_add(rounded(b), acc)) + bias[j];
            }
        }
        Ok(())
    }

    fn gemm_w8a8(&self, x: &Q8Rows<Self>, w: &ScalarLinear, out: &mut Tensor<Self>) -> Result<()> {
        let ScalarLinear::W8A8 { kind, codes: w, grid, ws, bias, k } = w else {
            return Err(Error::dtype("gemm_w8a8: the weight is float"));
        };
        let (n, groups, size) = (bias.len(), grid.groups(*k), grid.group_size(*k));
        let fits = x.codes.cols == *k && out.cols == n && out.rows == x.codes.rows;
        require("gemm_w8a8", fits && x.grid == *grid)?;
        let zeros = match (grid.zero(), &x.zeros) {
            (Some(zero), _) => vec![zero.into(); out.rows],
            (None, Some(zeros)) => i32s(zeros)?.to_vec(),
            (None, None) => return Err(Error::shape("gemm_w8a8: inputs without the zero points of their grid")),
        };
        let (x, xs, out) = (u8s(&x.codes)?, f32s(&x.scales)?, f32s_mut(out)?);
        let rows = x.chunks_exact(*k).zip(xs.chunks_exact(groups)).zip(&zeros);
        for (((x, xs), zero), out) in rows.zip(out.chunks_exact_mut(n)) {
            for (j, (w, ws)) in w.chunks_exact(*k).zip(ws.chunks_exact(groups)).enumerate() {
                out[j] = grid::product(*kind, size, (x, xs, *zero as i8), (w, ws)) + bias[j];
            }
        }
        Ok(())
    }

    fn rope_store_kv(
        &self,
        qkv: &mut Tensor<Self>,
        rope: Option<&RopeTable<Self>>,
        shape: &AttentionShape,
        batch: &Batch,
        kv: &mut KvLayer<Self>,
    ) -> Result<()> {
        require("rope_store_kv", qkv.cols == shape.qkv_width())?;
        kv::rope_store(f32s_mut(qkv)?, rope, shape, batch, kv)
    }

    fn clear_pages(&self, kv: &mut KvLayer<Self>, pages: &[u32]) -> Result<()> {
        kv::clear(kv, pages)
    }

    fn paged_attention(
        &self,
        qkv: &Tensor<Self>,
        shape: &AttentionShape,
        batch: &Batch,
        kv: &KvLayer<Self>,
        out: &mut Tensor<Self>,
    ) -> Result<()> {
        kv::attention(f32s(qkv)?, shape, batch, kv, f32s_mut(out)?)
    }

    fn gated(&self, gate_up: &Tensor<Self>, act: Activation, out: &mut Tensor<Self>) -> Result<()> {
        let f = out.cols;
        require("gated", gate_up.cols == 2 * f)?;
        let (x, out) = (f32s(gate_up)?, f32s_mut(out)?);
        for (x, out) in x.chunks_exact(2 * f).zip(out.chunks_exact_mut(f)) {
            for i in 0..f {
                out[i] = activate(act, x[i]) * x[f + i];
            }
        }
        Ok(())
    }

    fn activate(&self, x: &Tensor<Self>, act: Activation, out: &mut Tensor<Self>) -> Result<()> {
        require("activate", x.cols == out.cols && x.rows == out.rows)?;
        f32s_mut(out)?.iter_mut().zip(f32s(x)?).for_each(|(y, &x)| *y = activate(act, x));
        Ok(())
    }

    fn softcap(&self, x: &mut Tensor<Self>, cap: f32) -> Result<()> {
        f32s_mut(x)?.iter_mut().for_each(|x| *x = cap * (*x / cap).tanh());
        Ok(())
    }

    fn add(&self, x: &mut Tensor<Self>, y: &Tensor<Self>) -> Result<()> {
        require("add", x.cols == y.cols && x.rows == y.rows)?;
        for (x, y) in f32s_mut(x)?.iter_mut().zip(f32s(y)?) {
            *x += y;
        }
        Ok(())
    }

    fn gather_rows(&self, x: &Tensor<Self>, batch: &Batch, out: &mut Tensor<Self>) -> Result<()> {
        gather(x, &batch.logit_rows, 1.0, out)
    }

    fn argmax(&self, logits: &Tensor<Self>) -> Result<Vec<u32>> {
        let best = |row: &[f32]| {
            if row.iter().any(|v| v.is_nan()) {
                return u32::MAX;
            }
            (1..row.len()).fold(0, |best, i| if row[i] > row[best] { i } else { best }) as u32
        };
        Ok(f32s(logits)?.chunks_exact(logits.cols).map(best).collect())
    }

    fn likely(&self, logits: &Tensor<Self>, asked: &[Asked]) -> Result<Vec<Option<Likely>>> {
        require_asked(logits, asked)?;
        let (values, v) = (f32s(logits)?, logits.cols);
        Ok(asked.iter().map(|a| Some(likely(&values[a.row as usize * v..][..v], a))).collect())
    }

    fn log_softmax(&self, logits: &mut Tensor<Self>) -> Result<()> {
        let v = logits.cols;
        for row in f32s_mut(logits)?.chunks_exact_mut(v) {
            let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
            let sum: f64 = row.iter().map(|&x| ((x - max) as f64).exp()).sum();
            let log_sum = sum.ln() as f32;
            row.iter_mut().for_each(|x| *x = (*x - max) - log_sum);
        }
        Ok(())
    }

    fn observe_columns(&self, x: &Tensor<Self>, absmax: &mut Tensor<Self>) -> Result<()> {
        require("observe_columns", absmax.cols == x.cols)?;
        let (k, absmax) = (x.cols, f32s_mut(absmax)?);
        for row in f32s(x)?.chunks_exact(k) {
            for (m, v) in absmax.iter_mut().zip(row) {
                *m = if v.is_nan() || m.is_nan() { f32::NAN } else { m.max(v.abs()) };
            }
        }
        Ok(())
    }

    fn accumulate_gram(&self, x: &Tensor<Self>, math: FloatMath, gram: &mut Tensor<Self>) -> Result<()> {
        require("accumulate_gram", gram.cols == x.cols && gram.rows == x.cols)?;
        let rounded = |v: f32| if math == FloatMath::Bf16 { bf16::from_f32(v).to_f32() } else { v };
        let (k, gram) = (x.cols, f32s_mut(gram)?);
        for row in f32s(x)?.chunks_exact(k) {
            for i in 0..k {
                for j in 0..=i {
                    gram[i * k + j] = rounded(row[i]).mul_add(rounded(row[j]), gram[i * k + j]);
                }
            }
        }
        Ok(())
    }
}

fn likely(row: &[f32], asked: &Asked) -> Likely {
    // The larger of two is the one that is a number.
    let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = row.iter().filter(|x| **x > f32::NEG_INFINITY).map(|&x| ((x - max) as f64).exp()).sum();
    let log_prob = |id: u32| ((row[id as usize] - max) as f64 - sum.ln()) as f32;
    let mut ids: Vec<u32> = (0..row.len() as u32).filter(|&id| !row[id as usize].is_nan()).collect();
    // Stable: equals stay by id.
    ids.sort_by(|&a, &b| row[b as usize].partial_cmp(&row[a as usize]).unwrap_or(Ordering::Equal));
    let top = ids.into_iter().take(asked.top).map(|id| (id, log_prob(id))).collect();
    Likely { log_prob: log_prob(asked.token), top }
}
