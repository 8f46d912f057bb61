//! Placeholder.
use crate::Cuda;
use planish_tensor::{Error, Q8Rows, Result, Tensor};

pub(crate) fn rms_norm(_: &Cuda, _: &Tensor<Cuda>, _: &Tensor<Cuda>, _: f32, _: &mut Tensor<Cuda>) -> Result<()> {
    Err(Error::unsupported("rms_norm: not written yet"))
}

pub(crate) fn add_rms_norm(
    _: &Cuda,
    _: &mut Tensor<Cuda>,
    _: Option<&Tensor<Cuda>>,
    _: &Tensor<Cuda>,
    _: f32,
    _: &mut Tensor<Cuda>,
) -> Result<()> {
    Err(Error::unsupported("add_rms_norm: not written yet"))
}

pub(crate) fn add_rms_norm_quantize(
    _: &Cuda,
    _: &mut Tensor<Cuda>,
    _: Option<&Tensor<Cuda>>,
    _: &Tensor<Cuda>,
    _: f32,
    _: &mut Q8Rows<Cuda>,
) -> Result<()> {
    Err(Error::unsupported("add_rms_norm_quantize: not written yet"))
}
