//! The trait, handed to the launch file of each operation.
use crate::ahead::Ahead;
use crate::batch::DeviceBatch;
use crate::buffer::Buffer;
use crate::choose::Device;
use crate::graph::Graph;
use crate::linear::Linear;
use crate::support::family;
use crate::{Cuda, launch, vendor};
use planish_tensor::layout::{require, require_rows, rows_of};
use planish_tensor::{
    Activation, Asked, Attended, AttentionShape, Backend, Batch, DType, Error, FloatMath, HostTensor, Judged, KvLayer,
    Likely, LinearPart, LinearShape, Memory, Preferences, Projected, Q8, Q8Rows, Recording, RecordingKey, Result,
    RopeTable, SampleRow, Solver, Target, Tensor, VendorProduct,
};

impl Backend for Cuda {
    type Buf = Buffer;
    type Linear = Linear;
    type Batch = DeviceBatch;

    fn describe(&self) -> String {
        let (name, ordinal) = (&self.info.name, self.info.ordinal);
        match self.arch == self.info.arch {
            true => format!("cuda:{ordinal} ({name}, sm_{})", self.arch),
            false => format!("cuda:{ordinal} ({name}, sm_{}, with kernels of sm_{})", self.info.arch, self.arch),
        }
    }

    /// F32: a rounding of hidden states to 16 bits would move 8-bit codes.
    fn activation_dtype(&self) -> DType {
        DType::F32
    }

    fn memory(&self) -> Memory {
        self.context.memory().unwrap_or(Memory { free: 0, total: self.info.total })
    }

    /// What the allocator, the kernels' work space and recorded steps take is left free.
    fn preferences(&self) -> Preferences {
        let step_tokens = step_tokens(self.info.total, self.chip());
        Preferences {
            page_size: 64,
            fine_page_size: 64,
            step_tokens,
            offline_step_tokens: 4 * step_tokens,
            max_batch: 256,
            kv_share: 0.9,
            overlap: true,
            sample: true,
            run_ahead: true,
        }
    }

    fn runs(&self, kind: Q8) -> Result<()> {
        family(kind, self.arch).map(|_| ())
    }

    fn alloc(&self, dtype: DType, rows: usize, cols: usize) -> Result<Tensor<Self>> {
        let too_large = || Error::shape(format!("{dtype} [{rows}, {cols}] is too large"));
        let bytes = rows.checked_mul(cols).and_then(|n| n.checked_mul(dtype.size())).ok_or_else(too_large)?;
        i32::try_from(rows).and(i32::try_from(cols)).map_err(|_| too_large())?;
        let buf = Buffer::zeroed(&self.context, bytes, &format!("{dtype} [{rows}, {cols}]"))?;
        Ok(Tensor { buf, dtype, rows, cols, capacity: rows })
    }

    fn load(&self, host: &HostTensor) -> Result<Tensor<Self>> {
        let (rows, cols) = rows_of(host)?;
        let buf = Buffer::of(&self.context, host.bytes(), &format!("{} [{rows}, {cols}]", host.dtype()))?;
        Ok(Tensor { buf, dtype: host.dtype(), rows, cols, capacity: rows })
    }

    fn upload(&self, bytes: &[u8], dst: &mut Tensor<Self>) -> Result<()> {
        require("upload", bytes.len() == dst.rows * dst.cols * dst.dtype.size())?;
        dst.buf.write(0, bytes)
    }

    fn download(&self, src: &Tensor<Self>, bytes: &mut [u8]) -> Result<()> {
        require("download", bytes.len() == src.rows * src.cols * src.dtype.size())?;
        src.buf.read(0, bytes)
    }

    fn download_rows(&self, src: &Tensor<Self>, rows: &[u32], bytes: &mut [u8]) -> Result<()> {
        require_rows(src, rows, bytes)?;
        src.buf.read_rows(src.cols * src.dtype.size(), rows, bytes)
    }

    fn sync(&self) -> Result<()> {
        self.context.sync()
    }

    fn upload_batch(&self, batch: &Batch, pages: usize) -> Result<DeviceBatch> {
        batch.validate(pages)?;
        self.blocks.upload(&self.context, batch)
    }

    fn load_linear(&self, parts: &[LinearPart]) -> Result<Linear> {
        self.runs_parts(parts)?;
        Linear::new(&self.context, parts)
    }

    fn load_gated(&self, parts: &[LinearPart; 2]) -> Result<Linear> {
        self.runs_parts(parts)?;
        Linear::gated(&self.context, parts)
    }

    fn linear_shape(&self, linear: &Linear) -> LinearShape {
        linear.shape()
    }

    fn embed(&self, table: &Tensor<Self>, batch: &DeviceBatch, scale: f32, out: &mut Tensor<Self>) -> Result<()> {
        launch::rows::embed(self, table, batch, scale, out)
    }

    fn rms_norm(&self, x: &Tensor<Self>, weight: &Tensor<Self>, eps: f32, out: &mut Tensor<Self>) -> Result<()> {
        launch::rms_norm::rms_norm(self, x, weight, eps, out)
    }

    fn layer_norm(
        &self,
        x: &Tensor<Self>,
        weight: &Tensor<Self>,
        bias: &Tensor<Self>,
        eps: f32,
        out: &mut Tensor<Self>,
    ) -> Result<()> {
        launch::layer_norm::layer_norm(self, x, [weight, bias], eps, out)
    }

    fn rms_norm_stretches(
        &self,
        x: &mut Tensor<Self>,
        first: usize,
        count: usize,
        weight: &Tensor<Self>,
        eps: f32,
    ) -> Result<()> {
        launch::rms_norm::rms_norm_stretches(self, x, first, count, weight, eps)
    }

    fn add_positions(
        &self,
        table: &Tensor<Self>,
        batch: &DeviceBatch,
        offset: usize,
        x: &mut Tensor<Self>,
    ) -> Result<()> {
        launch::rows::add_positions(self, table, batch, offset, x)
    }

    fn activate(&self, x: &Tensor<Self>, act: Activation, out: &mut Tensor<Self>) -> Result<()> {
        launch::activate::activate(self, x, act, out)
    }

    fn softcap(&self, x: &mut Tensor<Self>, cap: f32) -> Result<()> {
        launch::logits::softcap(self, x, cap)
    }

    fn quantize_rows(&self, x: &Tensor<Self>, out: &mut Q8Rows<Self>) -> Result<()> {
        launch::quantize_rows::quantize_rows(self, x, out)
    }

    fn gemm_float(&self, x: &Tensor<Self>, w: &Linear, math: FloatMath, out: &mut Tensor<Self>) -> Result<()> {
        launch::gemm_float::gemm_float(self, x, w, math, out)
    }

    fn gemm_w8a8(&self, x: &Q8Rows<Self>, w: &Linear, out: &mut Tensor<Self>) -> Result<()> {
        launch::gemm_w8a8::gemm_w8a8(self, x, w, out)
    }

    fn gemm_w8a8_kernel(&self, x: &Q8Rows<Self>, w: &Linear, _: &Tensor<Self>) -> Result<String> {
        launch::gemm_w8a8::kernel_name(self, x, w)
    }

    fn vendor_product<'a>(&'a self, x: &Tensor<Self>, weights: &'a [Linear]) -> Result<Option<VendorProduct<'a>>> {
        vendor::product(self, x, weights).map(Some)
    }

    fn gemm_w8a8_add(
        &self,
        x: &Q8Rows<Self>,
        w: &Linear,
        sum: &mut Tensor<Self>,
        out: &mut Tensor<Self>,
    ) -> Result<bool> {
        launch::gemm_w8a8::gemm_w8a8_add(self, x, w, sum, out)
    }

    fn rope_store_kv(
        &self,
        qkv: &mut Tensor<Self>,
        rope: Option<&RopeTable<Self>>,
        shape: &AttentionShape,
        batch: &DeviceBatch,
        kv: &mut KvLayer<Self>,
    ) -> Result<()> {
        launch::rope_store_kv::rope_store_kv(self, qkv, rope, shape, batch, kv)
    }

    fn clear_pages(&self, kv: &mut KvLayer<Self>, pages: &[u32]) -> Result<()> {
        launch::rope_store_kv::clear_pages(self, kv, pages)
    }

    fn paged_attention(
        &self,
        qkv: &Tensor<Self>,
        shape: &AttentionShape,
        batch: &DeviceBatch,
        kv: &KvLayer<Self>,
        out: &mut Tensor<Self>,
    ) -> Result<()> {
        launch::attention::paged_attention(self, qkv, shape, batch, kv, out)
    }

    fn gated(&self, gate_up: &Tensor<Self>, act: Activation, out: &mut Tensor<Self>) -> Result<()> {
        launch::gated::gated(self, gate_up, act, out)
    }

    fn add(&self, x: &mut Tensor<Self>, y: &Tensor<Self>) -> Result<()> {
        launch::rows::add(self, x, y)
    }

    fn gather_rows(&self, x: &Tensor<Self>, batch: &DeviceBatch, out: &mut Tensor<Self>) -> Result<()> {
        launch::rows::gather_rows(self, x, batch, out)
    }

    fn argmax(&self, logits: &Tensor<Self>) -> Result<Vec<u32>> {
        launch::logits::argmax(self, logits)
    }

    fn sample(&self, logits: &Tensor<Self>, rows: &[(u32, &SampleRow)]) -> Result<Vec<Option<u32>>> {
        launch::sample::sample(self, logits, rows)
    }

    fn choose_ahead(&self, logits: &Tensor<Self>, rules: &[&SampleRow]) -> Result<bool> {
        launch::sample::choose_ahead(self, logits, rules)
    }

    fn chosen_ahead(&self) -> Result<Vec<u32>> {
        self.ahead(Ahead::read)
    }

    fn likely(&self, logits: &Tensor<Self>, asked: &[Asked]) -> Result<Vec<Option<Likely>>> {
        launch::logits::likely(self, logits, asked)
    }

    fn log_softmax(&self, logits: &mut Tensor<Self>) -> Result<()> {
        launch::logits::log_softmax(self, logits)
    }

    fn judge(&self, logits: &mut Tensor<Self>, targets: &[Target]) -> Result<Vec<Judged>> {
        launch::logits::judge(self, logits, targets)
    }

    fn observe_columns(&self, x: &Tensor<Self>, absmax: &mut Tensor<Self>) -> Result<()> {
        launch::observe::observe_columns(self, x, absmax)
    }

    fn accumulate_gram(&self, x: &Tensor<Self>, math: FloatMath, gram: &mut Tensor<Self>) -> Result<()> {
        launch::observe::accumulate_gram(self, x, math, gram)
    }

    fn add_rms_norm(
        &self,
        x: &mut Tensor<Self>,
        delta: Option<&Tensor<Self>>,
        weight: &Tensor<Self>,
        eps: f32,
        out: &mut Tensor<Self>,
    ) -> Result<()> {
        launch::rms_norm::add_rms_norm(self, x, delta, weight, eps, out)
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
        if !launch::grids::is_usual(out.grid) {
            launch::rms_norm::add_rms_norm(self, x, delta, weight, eps, scratch)?;
            return launch::quantize_rows::quantize_rows(self, scratch, out);
        }
        launch::rms_norm::add_rms_norm_quantize(self, x, delta, weight, eps, out)
    }

    fn gated_quantize(
        &self,
        gate_up: &Tensor<Self>,
        act: Activation,
        scratch: &mut Tensor<Self>,
        out: &mut Q8Rows<Self>,
    ) -> Result<()> {
        launch::gated::gated_quantize(self, gate_up, act, scratch, out)
    }

    fn paged_attention_quantize(
        &self,
        qkv: &Tensor<Self>,
        shape: &AttentionShape,
        batch: &DeviceBatch,
        kv: &KvLayer<Self>,
        scratch: &mut Tensor<Self>,
        out: &mut Q8Rows<Self>,
    ) -> Result<()> {
        launch::attention::paged_attention_quantize(self, qkv, shape, batch, kv, scratch, out)
    }

    fn rope_attention_quantize(
        &self,
        qkv: &mut Tensor<Self>,
        rope: Option<&RopeTable<Self>>,
        shape: &AttentionShape,
        batch: &DeviceBatch,
        kv: &mut KvLayer<Self>,
        to: Attended<'_, Self>,
    ) -> Result<()> {
        launch::attention::rope_attention_quantize(self, qkv, rope, shape, batch, kv, to)
    }

    fn gemm_rope_attention_quantize(
        &self,
        from: Projected<'_, Self>,
        rope: Option<&RopeTable<Self>>,
        shape: &AttentionShape,
        batch: &DeviceBatch,
        kv: &mut KvLayer<Self>,
        to: Attended<'_, Self>,
    ) -> Result<()> {
        launch::attention::gemm_rope_attention_quantize(self, from, rope, shape, batch, kv, to)
    }

    fn gemm_gated_quantize(
        &self,
        x: &Q8Rows<Self>,
        w: &Linear,
        act: Activation,
        gate_up: &mut Tensor<Self>,
        inner: &mut Tensor<Self>,
        out: &mut Q8Rows<Self>,
    ) -> Result<()> {
        launch::gated::gemm_gated_quantize(self, x, w, act, gate_up, inner, out)
    }

    /// Steps in which each sequence has one new token. Attention is spread by length classes, see its launch file.
    fn recording_key(&self, batch: &DeviceBatch) -> Option<RecordingKey> {
        let decode = batch.t > 0 && batch.t == batch.s && batch.longest_query == 1;
        let class = launch::attention::length_class(batch.longest_kv);
        decode.then(|| [batch.t, batch.rows, class, batch.header() as usize, 0].map(|n| n as u64))
    }

    fn record(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<Box<dyn Recording>> {
        Ok(Box::new(Graph::record(&self.context, work)?))
    }

    fn solver(&self) -> Option<&dyn Solver<Self>> {
        Some(self)
    }
}

/// Tokens of a usual step: many where the memory is, as a card's matrix units are full from a few thousand on. On Hopper a
/// tile of 256 for every four multiprocessors, so that the tiles of the usual weights end in whole rounds.
fn step_tokens(memory: u64, chip: Device) -> usize {
    match (memory >= 40 << 30, chip.arch) {
        (true, 90) => 256 * (chip.sm_count / 4),
        (true, _) => 8192,
        (false, _) => 2048,
    }
}

impl Cuda {
    /// Fails if a weight is of an 8-bit type that does not run here.
    fn runs_parts(&self, parts: &[LinearPart]) -> Result<()> {
        parts.iter().filter_map(|p| Q8::from_dtype(p.weight.dtype())).try_for_each(|kind| self.runs(kind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_end_in_whole_rounds() {
        let tokens = step_tokens(141 << 30, Device { arch: 90, sm_count: 132 });
        assert_eq!(tokens, 8448);
        for n in [6144, 4096, 28672] {
            assert!((tokens / 256 * (n / 128)).is_multiple_of(132), "{n}");
        }
        assert_eq!(step_tokens(80 << 30, Device { arch: 80, sm_count: 108 }), 8192);
        assert_eq!(step_tokens(24 << 30, Device { arch: 89, sm_count: 128 }), 2048);
    }
}
