//! Placeholder.
use crate::{Cuda, DeviceBatch};
use planish_tensor::{AttentionShape, Error, KvLayer, Result, RopeTable, Tensor};

pub(crate) fn rope_store_kv(
    _: &Cuda,
    _: &mut Tensor<Cuda>,
    _: Option<&RopeTable<Cuda>>,
    _: &AttentionShape,
    _: &DeviceBatch,
    _: &mut KvLayer<Cuda>,
) -> Result<()> {
    Err(Error::unsupported("rope_store_kv: not written yet"))
}

pub(crate) fn clear_pages(_: &Cuda, _: &mut KvLayer<Cuda>, _: &[u32]) -> Result<()> {
    Err(Error::unsupported("clear_pages: not written yet"))
}
