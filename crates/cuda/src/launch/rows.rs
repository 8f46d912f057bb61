//! Placeholder.
use crate::{Cuda, DeviceBatch};
use planish_tensor::{Error, Result, Tensor};

pub(crate) fn embed(_: &Cuda, _: &Tensor<Cuda>, _: &DeviceBatch, _: f32, _: &mut Tensor<Cuda>) -> Result<()> {
    Err(Error::unsupported("embed: not written yet"))
}

pub(crate) fn add(_: &Cuda, _: &mut Tensor<Cuda>, _: &Tensor<Cuda>) -> Result<()> {
    Err(Error::unsupported("add: not written yet"))
}

pub(crate) fn gather_rows(_: &Cuda, _: &Tensor<Cuda>, _: &DeviceBatch, _: &mut Tensor<Cuda>) -> Result<()> {
    Err(Error::unsupported("gather_rows: not written yet"))
}
