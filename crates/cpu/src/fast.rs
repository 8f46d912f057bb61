//! The fast back end: every operation of the trait handed to the kernel of its name.
use crate::access::{
    add_positions, f32s, f32s_mut, gather, i32s, i32s_mut, kind_of, kv_slice, kv_slice_mut, u8s, u8s_mut,
};
use crate::attention::{Attention, Operands};
use crate::buffer::{CpuBuf, share};
use crate::gemm_float::gemm_float;
use crate::gemm_w8a8::{Q8Slice, gemm_gated_quantize, gemm_grouped, gemm_shifted, gemm_w8a8};
use crate::isa::Isa;
use crate::linear::CpuLinear;
use crate::rope::{RopeSlice, rope_store_kv};
use crate::rowwise::{self, Q8SliceMut, Units};
use crate::threads::Threads;
use crate::{gram, host_memory};
use planish_tensor::layout::{require, require_targets, rows_of};
use planish_tensor::mixture::Mixer;
use planish_tensor::{
    Activation, AttentionShape, Backend, Batch, Courtesy, DType, Error, FloatMath, HostTensor, Judged, KvLayer,
    LinearPart, LinearShape, Memory, Q8, Q8Rows, Result, RopeTable, Target, Tensor,
};

/// The CPU with its vector instructions and a pool of threads.
pub struct Cpu {
    pub(crate) threads: Threads,
    pub(crate) isa: Isa,
    attention: Attention,
}

impl Cpu {
    /// A pool of `threads` threads that uses the kernels of `isa`, which this machine must be able to run.
    pub fn new(threads: usize, isa: Isa) -> Cpu {
        assert!(isa.runs_here(), "{} kernels do not run on this machine", isa.name());
        Cpu { threads: Threads::new(threads), isa, attention: Attention::default() }
    }
}

/// What tokens become where they have one scale and no zero point: fused operations end with that alone.
fn units_of(rows: &Q8Rows<Cpu>) -> Result<Option<Units>> {
    Ok(Units::of(kind_of(&rows.codes)?, rows.grid))
}

fn q8_mut(rows: &mut Q8Rows<Cpu>) -> Result<Q8SliceMut<'_>> {
    Ok(Q8SliceMut { codes: u8s_mut(&mut rows.codes)?, xs: f32s_mut(&mut rows.scales)? })
}

impl Backend for Cpu {
    type Buf = CpuBuf;
    type Linear = CpuLinear;
    type Batch = Batch;

    fn describe(&self) -> String {
        format!("cpu ({}, {} threads)", self.isa.name(), self.threads.count())
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

    fn download_rows(&self, src: &Tensor<Self>, rows: &[u32], bytes: &mut [u8]) -> Result<()> {
        crate::access::download_rows(src, rows, bytes)
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn courtesy(&self) -> Option<Courtesy> {
        Some(self.threads.courtesy().clone())
    }

    fn upload_batch(&self, batch: &Batch, pages: usize) -> Result<Batch> {
        batch.validate(pages)?;
        Ok(batch.clone())
    }

    fn load_linear(&self, parts: &[LinearPart]) -> Result<CpuLinear> {
        CpuLinear::pack(parts, self.isa, &self.threads)
    }

    fn load_linear_as(&self, kind: Q8, parts: &[LinearPart]) -> Result<CpuLinear> {
        let quantize = |part: &LinearPart| {
            let (codes, scales) = rowwise::quantize_weight(&self.threads, self.isa, kind, &part.weight)?;
            let weight = HostTensor::from_bytes(kind.dtype(), part.weight.shape().to_vec(), codes)?;
            Ok(LinearPart::channels(weight, scales, part.bias.clone()))
        };
        let quantized: Vec<LinearPart> = parts.iter().map(quantize).collect::<Result<_>>()?;
        self.load_linear(&quantized)
    }

    fn linear_shape(&self, linear: &CpuLinear) -> LinearShape {
        linear.shape()
    }

    fn embed(&self, table: &Tensor<Self>, batch: &Batch, scale: f32, out: &mut Tensor<Self>) -> Result<()> {
        gather(table, &batch.tokens, scale, out)
    }

    fn rms_norm(&self, x: &Tensor<Self>, weight: &Tensor<Self>, eps: f32, out: &mut Tensor<Self>) -> Result<()> {
        require("rms_norm", x.cols == out.cols && x.rows == out.rows && weight.cols == x.cols)?;
        rowwise::rms_norm(&self.threads, self.isa, f32s(x)?, f32s(weight)?, eps, f32s_mut(out)?);
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
        let fits = x.cols == out.cols && x.rows == out.rows && weight.cols == x.cols && bias.cols == x.cols;
        require("layer_norm", fits)?;
        rowwise::layer_norm(&self.threads, self.isa, f32s(x)?, f32s(weight)?, f32s(bias)?, eps, f32s_mut(out)?);
        Ok(())
    }

    fn rms_norm_stretches(
        &self,
        x: &mut Tensor<Self>,
        first: usize,
        count: usize,
        weight: &Tensor<Self>,
        eps: f32,
    ) -> Result<()> {
        let cols = x.cols;
        require("rms_norm_stretches", first + count * weight.cols <= cols)?;
        rowwise::rms_norm_stretches(&self.threads, self.isa, f32s_mut(x)?, cols, first, count, f32s(weight)?, eps);
        Ok(())
    }

    fn add_positions(&self, table: &Tensor<Self>, batch: &Batch, offset: usize, x: &mut Tensor<Self>) -> Result<()> {
        add_positions(table, &batch.positions, offset, x)
    }

    fn quantize_rows(&self, x: &Tensor<Self>, out: &mut Q8Rows<Self>) -> Result<()> {
        let kind = kind_of(&out.codes)?;
        require("quantize_rows", x.cols == out.codes.cols && x.rows == out.codes.rows)?;
        let Q8Rows { codes, scales, zeros, grid } = out;
        let to = Q8SliceMut { codes: u8s_mut(codes)?, xs: f32s_mut(scales)? };
        let zeros = zeros.as_mut().map(i32s_mut).transpose()?;
        rowwise::quantize_on(&self.threads, self.isa, kind, *grid, f32s(x)?, x.cols, to, zeros);
        Ok(())
    }

    fn gemm_float(&self, x: &Tensor<Self>, w: &CpuLinear, math: FloatMath, out: &mut Tensor<Self>) -> Result<()> {
        let CpuLinear::Float(w) = w else { return Err(Error::dtype("gemm_float: the weight is 8-bit")) };
        require("gemm_float", x.cols == w.k() && out.cols == w.n() && out.rows == x.rows)?;
        gemm_float(&self.threads, f32s(x)?, w, math, f32s_mut(out)?);
        Ok(())
    }

    fn gemm_w8a8_kernel(&self, x: &Q8Rows<Self>, _: &CpuLinear, _: &Tensor<Self>) -> Result<String> {
        let family = if kind_of(&x.codes)? == Q8::Int8 { self.isa } else { self.isa.of_floats() };
        Ok(family.name().into())
    }

    fn gemm_w8a8(&self, x: &Q8Rows<Self>, w: &CpuLinear, out: &mut Tensor<Self>) -> Result<()> {
        let shape = self.linear_shape(w);
        let fits = x.codes.cols == shape.k && out.cols == shape.n && out.rows == x.codes.rows;
        require("gemm_w8a8", fits && Some(kind_of(&x.codes)?) == shape.q8 && x.grid == shape.grid)?;
        let (zeros, out) = (&x.zeros, f32s_mut(out)?);
        let x = Q8Slice { codes: u8s(&x.codes)?, xs: f32s(&x.scales)? };
        match w {
            CpuLinear::Float(_) => return Err(Error::dtype("gemm_w8a8: the weight is float")),
            CpuLinear::Grouped(w, _) => gemm_grouped(&self.threads, x, w, out),
            CpuLinear::Q8(w) => match (shape.grid.zero(), zeros) {
                (Some(0), _) => gemm_w8a8(&self.threads, x, w, out),
                (Some(zero), _) => gemm_shifted(&self.threads, x, &vec![zero.into(); x.xs.len()], w, out),
                (None, Some(zeros)) => gemm_shifted(&self.threads, x, i32s(zeros)?, w, out),
                (None, None) => return Err(Error::shape("gemm_w8a8: inputs without the zero points of their grid")),
            },
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
        require("rope_store_kv", qkv.cols == shape.qkv_width() && qkv.rows == batch.t())?;
        let rope = match rope {
            Some(r) => Some(RopeSlice { cos_sin: f32s(&r.cos_sin)?, half: r.half, interleaved: r.interleaved }),
            None => None,
        };
        let [ks, vs] = kv.fixed.map_or([None, None], |scales| scales.map(Some));
        let mut k = kv_slice_mut(&mut kv.k, kv.k_scales.as_mut(), ks)?;
        let mut v = kv_slice_mut(&mut kv.v, kv.v_scales.as_mut(), vs)?;
        rope_store_kv(&self.threads, self.isa, f32s_mut(qkv)?, rope, shape, batch, &mut k, &mut v);
        Ok(())
    }

    fn clear_pages(&self, kv: &mut KvLayer<Self>, pages: &[u32]) -> Result<()> {
        crate::access::clear_pages(kv, pages)
    }

    fn paged_attention(
        &self,
        qkv: &Tensor<Self>,
        shape: &AttentionShape,
        batch: &Batch,
        kv: &KvLayer<Self>,
        out: &mut Tensor<Self>,
    ) -> Result<()> {
        let fits = qkv.cols == shape.qkv_width() && out.cols == shape.nq * shape.d;
        require("paged_attention", fits && qkv.rows == batch.t() && out.rows == batch.t())?;
        let (k, v) = (kv_slice(&kv.k, kv.k_scales.as_ref())?, kv_slice(&kv.v, kv.v_scales.as_ref())?);
        let operands = Operands { qkv: f32s(qkv)?, shape, batch, k, v };
        self.attention.attend(&self.threads, self.isa, operands, f32s_mut(out)?);
        Ok(())
    }

    fn paged_attention_quantize(
        &self,
        qkv: &Tensor<Self>,
        shape: &AttentionShape,
        batch: &Batch,
        kv: &KvLayer<Self>,
        scratch: &mut Tensor<Self>,
        out: &mut Q8Rows<Self>,
    ) -> Result<()> {
        let Some(units) = units_of(out)? else {
            self.paged_attention(qkv, shape, batch, kv, scratch)?;
            return self.quantize_rows(scratch, out);
        };
        let (t, cols) = (batch.t(), shape.nq * shape.d);
        let fits = qkv.cols == shape.qkv_width() && out.codes.cols == cols && scratch.cols == cols;
        require("paged_attention_quantize", fits && qkv.rows == t && out.codes.rows == t && scratch.rows == t)?;
        let (k, v) = (kv_slice(&kv.k, kv.k_scales.as_ref())?, kv_slice(&kv.v, kv.v_scales.as_ref())?);
        let operands = Operands { qkv: f32s(qkv)?, shape, batch, k, v };
        self.attention.attend_quantize(&self.threads, self.isa, operands, f32s_mut(scratch)?, units, q8_mut(out)?);
        Ok(())
    }

    fn gated(&self, gate_up: &Tensor<Self>, act: Activation, out: &mut Tensor<Self>) -> Result<()> {
        require("gated", gate_up.cols == 2 * out.cols && gate_up.rows == out.rows)?;
        let f = out.cols;
        rowwise::gated(&self.threads, self.isa, f32s(gate_up)?, f, act, f32s_mut(out)?);
        Ok(())
    }

    fn activate(&self, x: &Tensor<Self>, act: Activation, out: &mut Tensor<Self>) -> Result<()> {
        require("activate", x.cols == out.cols && x.rows == out.rows)?;
        rowwise::activate(&self.threads, self.isa, f32s(x)?, x.cols, act, f32s_mut(out)?);
        Ok(())
    }

    fn softcap(&self, x: &mut Tensor<Self>, cap: f32) -> Result<()> {
        let width = x.cols;
        rowwise::softcap(&self.threads, self.isa, f32s_mut(x)?, width, cap);
        Ok(())
    }

    fn add(&self, x: &mut Tensor<Self>, y: &Tensor<Self>) -> Result<()> {
        require("add", x.cols == y.cols && x.rows == y.rows)?;
        rowwise::add(&self.threads, self.isa, f32s_mut(x)?, f32s(y)?);
        Ok(())
    }

    fn gather_rows(&self, x: &Tensor<Self>, batch: &Batch, out: &mut Tensor<Self>) -> Result<()> {
        gather(x, &batch.logit_rows, 1.0, out)
    }

    fn argmax(&self, logits: &Tensor<Self>) -> Result<Vec<u32>> {
        Ok(rowwise::argmax(&self.threads, self.isa, f32s(logits)?, logits.cols))
    }

    fn each_row(&self, logits: &mut Tensor<Self>, with: &(dyn Fn(usize, &mut [f32]) + Sync)) -> Result<bool> {
        let v = logits.cols;
        rowwise::each_row(&self.threads, f32s_mut(logits)?, v, with);
        Ok(true)
    }

    fn log_softmax(&self, logits: &mut Tensor<Self>) -> Result<()> {
        let v = logits.cols;
        rowwise::log_softmax(&self.threads, self.isa, f32s_mut(logits)?, v);
        Ok(())
    }

    fn judge(&self, logits: &mut Tensor<Self>, targets: &[Target]) -> Result<Vec<Judged>> {
        require_targets(logits, targets)?;
        Ok(rowwise::judge(&self.threads, self.isa, f32s(logits)?, logits.cols, targets))
    }

    fn observe_columns(&self, x: &Tensor<Self>, absmax: &mut Tensor<Self>) -> Result<()> {
        require("observe_columns", absmax.cols == x.cols)?;
        gram::observe_columns(&self.threads, self.isa, f32s(x)?, x.cols, f32s_mut(absmax)?);
        Ok(())
    }

    fn accumulate_gram(&self, x: &Tensor<Self>, math: FloatMath, gram: &mut Tensor<Self>) -> Result<()> {
        require("accumulate_gram", gram.cols == x.cols && gram.rows == x.cols)?;
        gram::accumulate_gram(&self.threads, self.isa, f32s(x)?, x.cols, math, f32s_mut(gram)?);
        Ok(())
    }

    fn add_rms_norm(
        &self,
        x: &mut Tensor<Self>,
        delta: Option<&Tensor<Self>>,
        weight: &Tensor<Self>,
        eps: f32,
        out: &mut Tensor<Self>,
    ) -> Result<()> {
        require("add_rms_norm", x.cols == out.cols && x.rows == out.rows && weight.cols == x.cols)?;
        let delta = delta.map(f32s).transpose()?;
        rowwise::add_rms_norm(&self.threads, self.isa, f32s_mut(x)?, delta, f32s(weight)?, eps, f32s_mut(out)?);
        Ok(())
    }

    fn add_rms_norm_quantize(
        &self,
        x: &mut Tensor<Self>,
        delta: Option<&Tensor<Self>>,
        weight: &Tensor<Self>,
        eps: f32,
        scratch: &mut Tensor<Self>,
        out: &mut Q8Rows<Self>,
    ) -> Result<()> {
        let Some(units) = units_of(out)? else {
            self.add_rms_norm(x, delta, weight, eps, scratch)?;
            return self.quantize_rows(scratch, out);
        };
        require("add_rms_norm_quantize", x.cols == out.codes.cols && x.rows == out.codes.rows)?;
        let delta = delta.map(f32s).transpose()?;
        let (x, weight) = (f32s_mut(x)?, f32s(weight)?);
        rowwise::add_rms_norm_quantize(&self.threads, self.isa, units, x, delta, weight, eps, q8_mut(out)?);
        Ok(())
    }

    fn gated_quantize(
        &self,
        gate_up: &Tensor<Self>,
        act: Activation,
        scratch: &mut Tensor<Self>,
        out: &mut Q8Rows<Self>,
    ) -> Result<()> {
        let (units, f) = (units_of(out)?, out.codes.cols);
        let Some(units) = units else {
            self.gated(gate_up, act, scratch)?;
            return self.quantize_rows(scratch, out);
        };
        require("gated_quantize", gate_up.cols == 2 * f && gate_up.rows == out.codes.rows)?;
        rowwise::gated_quantize(&self.threads, self.isa, units, f32s(gate_up)?, f, act, q8_mut(out)?);
        Ok(())
    }

    fn gemm_gated_quantize(
        &self,
        x: &Q8Rows<Self>,
        w: &CpuLinear,
        act: Activation,
        gate_up: &mut Tensor<Self>,
        inner: &mut Tensor<Self>,
        out: &mut Q8Rows<Self>,
    ) -> Result<()> {
        let (kind, f) = (kind_of(&x.codes)?, out.codes.cols);
        if let (CpuLinear::Q8(w), Some(units), Some(_)) = (w, units_of(out)?, Units::of(kind, x.grid)) {
            let fits = x.codes.cols == w.k() && x.grid == w.grid() && kind == w.kind();
            let rows = [gate_up.rows, out.codes.rows].iter().all(|&rows| rows == x.codes.rows);
            require("gemm_gated_quantize", fits && rows && w.n() == 2 * f && gate_up.cols == 2 * f)?;
            let x = Q8Slice { codes: u8s(&x.codes)?, xs: f32s(&x.scales)? };
            if gemm_gated_quantize(&self.threads, x, w, act, units, f32s_mut(gate_up)?, &mut q8_mut(out)?) {
                return Ok(());
            }
        }
        self.gemm_w8a8(x, w, gate_up)?;
        self.gated_quantize(gate_up, act, inner, out)
    }

    fn mixer(&self) -> Option<&dyn Mixer<Self>> {
        Some(self)
    }
}
