//! Placeholder.
use crate::Cuda;
use planish_tensor::{Error, FloatMath, Result, Tensor};

pub(crate) fn observe_columns(_: &Cuda, _: &Tensor<Cuda>, _: &mut Tensor<Cuda>) -> Result<()> {
    Err(Error::unsupported("observe_columns: not written yet"))
}

pub(crate) fn accumulate_gram(_: &Cuda, _: &Tensor<Cuda>, _: FloatMath, _: &mut Tensor<Cuda>) -> Result<()> {
    Err(Error::unsupported("accumulate_gram: not written yet"))
}
