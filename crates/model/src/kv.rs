//! The paged KV cache's memory. Which page belongs to whom is the engine's business.
use crate::error::Result;
use crate::plan::Plan;
use planish_tensor::{Backend, DType, KvLayer, kv_scale_bytes};

/// Keys and values of all layers, in pages.
pub struct KvPool<B: Backend> {
    /// One entry for each layer.
    pub layers: Vec<KvLayer<B>>,
    /// Pages in each.
    pub pages: usize,
    /// Tokens in a page.
    pub page_size: usize,
}

impl<B: Backend> KvPool<B> {
    /// Room for `pages` pages in each of `layers` layers; `dtype` F32 or BF16, or I8 or F8E4M3 with scales.
    pub fn new(
        backend: &B,
        plan: &Plan,
        layers: usize,
        pages: usize,
        page_size: usize,
        dtype: DType,
    ) -> Result<KvPool<B>> {
        let layer = |_| KvLayer::new(backend, dtype, pages, plan.nkv * page_size, plan.d);
        let layers = (0..layers).map(layer).collect::<planish_tensor::Result<_>>()?;
        Ok(KvPool { layers, pages, page_size })
    }

    /// Bytes that one token takes in all layers, scales included.
    pub fn bytes_per_token(plan: &Plan, dtype: DType) -> usize {
        let scale = kv_scale_bytes(dtype).unwrap_or(0);
        2 * plan.layers * plan.nkv * (plan.d * dtype.size() + scale)
    }
}
