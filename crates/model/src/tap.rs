//! A place to look at a block's inputs while it runs: calibration's eye.
use crate::arch::Input;
use crate::error::Result;
use planish_tensor::{Backend, Tensor};

/// Sees every distinct linear input of a block, in float, before it is quantized.
pub trait Tap<B: Backend> {
    /// `x[t, k]` is about to be read by the linears of `input`.
    fn observe(&mut self, backend: &B, input: Input, x: &Tensor<B>) -> Result<()>;

    /// Which tokens an expert is to be run on and shown with.
    fn shown(&self, _expert: u16) -> Shown {
        Shown::Routed
    }
}

/// Tokens that an expert is run on while it is observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shown {
    /// Those that the router gives it.
    Routed,
    /// All, whatever the router says.
    All,
    /// None.
    Nothing,
}
