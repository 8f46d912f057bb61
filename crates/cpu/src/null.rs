//! A back end that runs nothing: operations check nothing and leave zeros, so that scheduling and memory can be
//! tested without a model's cost.

use crate::host_memory;
use planish_tensor::layout::{linear_layout, rows_of};
use planish_tensor::mixture::{self, ExpertMath, ExpertRows, Experts, Mixer, Routes, Routing};
use planish_tensor::{
    Activation, AttentionShape, Backend, Batch, DType, FloatMath, HostTensor, KvLayer, LinearPart, LinearShape, Memory,
    Q8Rows, Result, RopeTable, Tensor,
};

/// The back end.
#[derive(Clone, Copy, Debug, Default)]
pub struct Null;

impl Backend for Null {
    type Buf = ();
    type Linear = LinearShape;
    type Batch = ();

    fn describe(&self) -> String {
        "null (runs nothing)".into()
    }

    fn activation_dtype(&self) -> DType {
        DType::F32
    }

    fn memory(&self) -> Memory {
        host_memory()
    }

    fn alloc(&self, dtype: DType, rows: usize, cols: usize) -> Result<Tensor<Self>> {
        Ok(Tensor { buf: (), dtype, rows, cols, capacity: rows })
    }

    fn load(&self, host: &HostTensor) -> Result<Tensor<Self>> {
        let (rows, cols) = rows_of(host)?;
        self.alloc(host.dtype(), rows, cols)
    }

    fn upload(&self, _: &[u8], _: &mut Tensor<Self>) -> Result<()> {
        Ok(())
    }

    fn download(&self, _: &Tensor<Self>, bytes: &mut [u8]) -> Result<()> {
        bytes.fill(0);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }

    fn upload_batch(&self, batch: &Batch, pages: usize) -> Result<()> {
        batch.validate(pages)
    }

    fn load_linear(&self, parts: &[LinearPart]) -> Result<LinearShape> {
        let layout = linear_layout(parts)?;
        let bytes = parts.iter().map(|p| p.weight.bytes().len()).sum();
        Ok(LinearShape { n: layout.n, k: layout.k, q8: layout.q8, grid: layout.grid, bytes })
    }

    fn linear_shape(&self, linear: &LinearShape) -> LinearShape {
        *linear
    }

    fn embed(&self, _: &Tensor<Self>, _: &(), _: f32, _: &mut Tensor<Self>) -> Result<()> {
        Ok(())
    }

    fn rms_norm(&self, _: &Tensor<Self>, _: &Tensor<Self>, _: f32, _: &mut Tensor<Self>) -> Result<()> {
        Ok(())
    }

    fn layer_norm(
        &self,
        _: &Tensor<Self>,
        _: &Tensor<Self>,
        _: &Tensor<Self>,
        _: f32,
        _: &mut Tensor<Self>,
    ) -> Result<()> {
        Ok(())
    }

    fn rms_norm_stretches(&self, _: &mut Tensor<Self>, _: usize, _: usize, _: &Tensor<Self>, _: f32) -> Result<()> {
        Ok(())
    }

    fn add_positions(&self, _: &Tensor<Self>, _: &(), _: usize, _: &mut Tensor<Self>) -> Result<()> {
        Ok(())
    }

    fn activate(&self, _: &Tensor<Self>, _: Activation, _: &mut Tensor<Self>) -> Result<()> {
        Ok(())
    }

    fn softcap(&self, _: &mut Tensor<Self>, _: f32) -> Result<()> {
        Ok(())
    }

    fn quantize_rows(&self, _: &Tensor<Self>, _: &mut Q8Rows<Self>) -> Result<()> {
        Ok(())
    }

    fn gemm_float(&self, _: &Tensor<Self>, _: &LinearShape, _: FloatMath, _: &mut Tensor<Self>) -> Result<()> {
        Ok(())
    }

    fn gemm_w8a8(&self, _: &Q8Rows<Self>, _: &LinearShape, _: &mut Tensor<Self>) -> Result<()> {
        Ok(())
    }

    fn rope_store_kv(
        &self,
        _: &mut Tensor<Self>,
        _: Option<&RopeTable<Self>>,
        _: &AttentionShape,
        _: &(),
        _: &mut KvLayer<Self>,
    ) -> Result<()> {
        Ok(())
    }

    fn clear_pages(&self, _: &mut KvLayer<Self>, _: &[u32]) -> Result<()> {
        Ok(())
    }

    fn paged_attention(
        &self,
        _: &Tensor<Self>,
        _: &AttentionShape,
        _: &(),
        _: &KvLayer<Self>,
        _: &mut Tensor<Self>,
    ) -> Result<()> {
        Ok(())
    }

    fn gated(&self, _: &Tensor<Self>, _: Activation, _: &mut Tensor<Self>) -> Result<()> {
        Ok(())
    }

    fn add(&self, _: &mut Tensor<Self>, _: &Tensor<Self>) -> Result<()> {
        Ok(())
    }

    fn gather_rows(&self, _: &Tensor<Self>, _: &(), _: &mut Tensor<Self>) -> Result<()> {
        Ok(())
    }

    fn argmax(&self, logits: &Tensor<Self>) -> Result<Vec<u32>> {
        Ok(vec![0; logits.rows])
    }

    fn log_softmax(&self, _: &mut Tensor<Self>) -> Result<()> {
        Ok(())
    }

    fn observe_columns(&self, _: &Tensor<Self>, _: &mut Tensor<Self>) -> Result<()> {
        Ok(())
    }

    fn accumulate_gram(&self, _: &Tensor<Self>, _: FloatMath, _: &mut Tensor<Self>) -> Result<()> {
        Ok(())
    }

    fn mixer(&self) -> Option<&dyn Mixer<Self>> {
        Some(self)
    }
}

impl Mixer<Null> for Null {
    fn load(&self, experts: &[[LinearPart; 3]]) -> Result<Experts<Null>> {
        Ok(Experts { grouped: true, ..mixture::load_plainly(self, experts)? })
    }

    fn route(&self, _: &Tensor<Null>, _: &Routing, _: &mut Routes<Null>) -> Result<()> {
        Ok(())
    }

    fn mix(
        &self,
        _: &Tensor<Null>,
        _: &Routes<Null>,
        _: &Experts<Null>,
        _: ExpertMath,
        _: &mut ExpertRows<Null>,
        _: &mut Tensor<Null>,
    ) -> Result<()> {
        Ok(())
    }

    fn add_gated(&self, _: &mut Tensor<Null>, _: &Tensor<Null>, _: &Tensor<Null>) -> Result<()> {
        Ok(())
    }

    fn select_rows(&self, _: &Tensor<Null>, _: &[u32], _: &mut Tensor<Null>) -> Result<()> {
        Ok(())
    }

    fn queues(&self) -> bool {
        true
    }
}
