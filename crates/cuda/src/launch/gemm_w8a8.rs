//! Placeholder.
use crate::{Cuda, Linear};
use planish_tensor::{Error, Q8Rows, Result, Tensor};

pub(crate) fn gemm_w8a8(_: &Cuda, _: &Q8Rows<Cuda>, _: &Linear, _: &mut Tensor<Cuda>) -> Result<()> {
    Err(Error::unsupported("gemm_w8a8: not written yet"))
}
