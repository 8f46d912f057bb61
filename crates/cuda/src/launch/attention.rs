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

/// Kernels over caches of one class are launched alike.
pub(crate) fn length_class(longest_kv: usize) -> usize {
    longest_kv.next_power_of_two()
}
