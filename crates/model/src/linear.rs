//! A fused linear on a device: float or W8A8, one product either way.
use crate::arch::{Input, Role};
use crate::error::{Error, Result};
use crate::weights::HostBlock;
use planish_tensor::{Backend, FloatMath, LinearPart, LinearShape, Q8, Q8Rows, Tensor};

/// The linears that read one input, packed as one weight.
pub struct Linear<B: Backend> {
    packed: B::Linear,
    shape: LinearShape,
}

impl<B: Backend> Linear<B> {
    /// Packs all readers of `input`.
    pub fn of_input(backend: &B, block: &HostBlock, input: Input) -> Result<Linear<B>> {
        let parts: Vec<LinearPart> = input.readers().iter().map(|&r| block.linear(r).clone()).collect();
        let kinds: Vec<_> = parts.iter().map(|p| Q8::from_dtype(p.weight.dtype())).collect();
        if kinds.iter().any(|k| *k != kinds[0]) {
            let names: Vec<String> = input.readers().iter().map(|r: &Role| format!("{r:?}").to_lowercase()).collect();
            return Err(Error::Unsupported(format!(
                "{} read one input and run as one product: all or none of them must be quantized, in one type",
                names.join(", ")
            )));
        }
        match <&[LinearPart; 2]>::try_from(parts.as_slice()) {
            Ok(gate_up) if input == Input::MlpNorm => Linear::packed(backend, backend.load_gated(gate_up)?),
            _ => Linear::new(backend, &parts),
        }
    }

    /// Packs parts with a common input.
    pub fn new(backend: &B, parts: &[LinearPart]) -> Result<Linear<B>> {
        Linear::packed(backend, backend.load_linear(parts)?)
    }

    /// What the back end packed already.
    pub fn packed(backend: &B, packed: B::Linear) -> Result<Linear<B>> {
        let shape = backend.linear_shape(&packed);
        Ok(Linear { packed, shape })
    }

    /// Packs one float part, its rows rounded to the nearest codes of `kind`.
    pub fn rounded(backend: &B, part: LinearPart, kind: Q8) -> Result<Linear<B>> {
        Linear::packed(backend, backend.load_linear_as(kind, &[part])?)
    }

    /// Sizes and kind.
    pub fn shape(&self) -> LinearShape {
        self.shape
    }

    /// The 8-bit type of the activations it wants, or `None` for float.
    pub fn q8(&self) -> Option<Q8> {
        self.shape.q8
    }

    /// The back end's weight.
    pub(crate) fn weight(&self) -> &B::Linear {
        &self.packed
    }

    /// `out = input · wᵀ + bias`, reading `x` or `q` as [`Linear::q8`] says.
    pub fn apply(&self, backend: &B, math: FloatMath, x: &Tensor<B>, q: &Q8Rows<B>, out: &mut Tensor<B>) -> Result<()> {
        match self.shape.q8 {
            None => backend.gemm_float(x, &self.packed, math, out)?,
            Some(_) => backend.gemm_w8a8(q, &self.packed, out)?,
        }
        Ok(())
    }
}
