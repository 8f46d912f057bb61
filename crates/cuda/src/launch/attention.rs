//! Placeholder.
use crate::{Cuda, DeviceBatch};
use planish_tensor::{AttentionShape, Error, KvLayer, Q8Rows, Result, Tensor};

pub(crate) fn paged_attention(
    _: &Cuda,
    _: &Tensor<Cuda>,
    _: &AttentionShape,
    _: &DeviceBatch,
    _: &KvLayer<Cuda>,
    _: &mut Tensor<Cuda>,
) -> Result<()> {
    Err(Error::unsupported("paged_attention: not written yet"))
}

pub(crate) fn paged_attention_quantize(
    _: &Cuda,
    _: &Tensor<Cuda>,
    _: &AttentionShape,
    _: &DeviceBatch,
    _: &KvLayer<Cuda>,
    _: &mut Tensor<Cuda>,
    _: &mut Q8Rows<Cuda>,
) -> Result<()> {
    Err(Error::unsupported("paged_attention_quantize: not written yet"))
}
