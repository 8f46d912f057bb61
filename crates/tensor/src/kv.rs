//! Where a layer keeps keys and values.
use crate::{Backend, DType, Error, Result, Tensor};

/// One layer's k and v: each `[pages, nkv * page_size * d]`, a page holding `[nkv, page_size, d]`.
/// F32, BF16, or codes (I8, F8E4M3) with a scale for each token and head: a head of a token is quantized as
/// [`crate::q8::quantize_activation_row`] does, and stands for `code * scale`.
pub struct KvLayer<B: Backend> {
    /// Keys, after rope.
    pub k: Tensor<B>,
    /// Values.
    pub v: Tensor<B>,
    /// `[pages, nkv * page_size]` f32 scales of 8-bit keys, a page holding `[nkv, page_size]`.
    pub k_scales: Option<Tensor<B>>,
    /// The same of the values.
    pub v_scales: Option<Tensor<B>>,
    /// Scales of all keys and all values of an 8-bit cache, in place of each vector's own: values outside saturate.
    pub fixed: Option<[f32; 2]>,
}

impl<B: Backend> KvLayer<B> {
    /// Zeroed pages with room for `heads_tokens = nkv * page_size` vectors of width `d` each. Fails on an element
    /// type that no cache has.
    pub fn new(b: &B, dtype: DType, pages: usize, heads_tokens: usize, d: usize) -> Result<KvLayer<B>> {
        let scaled = kv_scale_bytes(dtype)? > 0;
        let rows = || b.alloc(dtype, pages, heads_tokens * d);
        let scales = || scaled.then(|| b.alloc(DType::F32, pages, heads_tokens)).transpose();
        Ok(KvLayer { k: rows()?, v: rows()?, k_scales: scales()?, v_scales: scales()?, fixed: None })
    }

    /// All tensors of the layer, each with a row for each page.
    pub fn tensors_mut(&mut self) -> impl Iterator<Item = &mut Tensor<B>> {
        [&mut self.k, &mut self.v].into_iter().chain(&mut self.k_scales).chain(&mut self.v_scales)
    }
}

/// Bytes of the scale that a cache of this type keeps for each token and head: 0 for F32 and BF16, 4 for I8 and
/// F8E4M3; other types hold no keys.
pub fn kv_scale_bytes(dtype: DType) -> Result<usize> {
    match dtype {
        DType::F32 | DType::BF16 => Ok(0),
        DType::I8 | DType::F8E4M3 => Ok(DType::F32.size()),
        other => Err(Error::dtype(format!("a KV cache is of F32, BF16, I8 or F8_E4M3, not of {other}"))),
    }
}
