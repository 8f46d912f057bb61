//! Placeholder.
use crate::{Cuda, Linear};
use planish_tensor::{Error, FloatMath, Result, Tensor};

pub(crate) fn gemm_float(_: &Cuda, _: &Tensor<Cuda>, _: &Linear, _: FloatMath, _: &mut Tensor<Cuda>) -> Result<()> {
    Err(Error::unsupported("gemm_float: not written yet"))
}
