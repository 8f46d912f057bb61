//! The paged KV cache's memory. Which page belongs to whom is the engine's business.
use crate::error::Result;
use crate::plan::Plan;
use planish_tensor::{Backend, DType, KvLayer};

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
    /// Room for `pages` pages in each of `layers` layers; `dtype` F32 or BF16.
    pub fn new(
        backend: &B,
        plan: &Plan,
        layers: usize,
        pages: usize,
        page_size: usize,
        dtype: DType,
    ) -> Result<KvPool<B>> {
        let cols = plan.nkv * page_size * plan.d;
        let layers = (0..layers)
            .map(|_| Ok(KvLayer { k: backend.alloc(dtype, pages, cols)?, v: backend.alloc(dtype, pages, cols)? }))
            .collect::<Result<_>>()?;
        Ok(KvPool { layers, pages, page_size })
    }

    /// Bytes that one token takes in all layers.
    pub fn bytes_per_token(plan: &Plan, dtype: DType) -> usize {
        2 * plan.layers * plan.nkv * plan.d * dtype.size()
    }
}
