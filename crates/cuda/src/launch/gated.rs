//! Placeholder.
use crate::Cuda;
use planish_tensor::{Activation, Error, Q8Rows, Result, Tensor};

pub(crate) fn gated(_: &Cuda, _: &Tensor<Cuda>, _: Activation, _: &mut Tensor<Cuda>) -> Result<()> {
    Err(Error::unsupported("gated: not written yet"))
}

pub(crate) fn gated_quantize(_: &Cuda, _: &Tensor<Cuda>, _: Activation, _: &mut Q8Rows<Cuda>) -> Result<()> {
    Err(Error::unsupported("gated_quantize: not written yet"))
}
