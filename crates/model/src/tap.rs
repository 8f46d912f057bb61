//! A place to look at a block's inputs while it runs: calibration's eye.
use crate::arch::Input;
use crate::error::Result;
use planish_tensor::{Backend, Tensor};

/// Sees every distinct linear input of a block, in float, before it is quantized.
pub trait Tap<B: Backend> {
    /// `x[t, k]` is about to be read by the linears of `input`.
    fn observe(&mut self, backend: &B, input: Input, x: &Tensor<B>) -> Result<()>;
}
