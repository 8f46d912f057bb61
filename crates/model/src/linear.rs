//! A fused linear on a device: float or W8A8, one product either way.
use crate::arch::Role;
use crate::error::{Error, Result};
use crate::weights::HostBlock;
use planish_tensor::{Backend, FloatMath, InputCodes, LinearPart, LinearShape, Q8, Q8Rows, Tensor};

/// The linears that read one input, packed as one weight.
pub struct Linear<B: Backend> {
    packed: B::Linear,
    shape: LinearShape,
}

impl<B: Backend> Linear<B> {
    /// Packs linears of a block that have a common input.
    pub fn of(backend: &B, block: &HostBlock, roles: &[Role]) -> Result<Linear<B>> {
        let parts: Vec<LinearPart> = roles.iter().map(|&r| block.linear(r).clone()).collect();
        one_kind(roles, &parts)?;
        match (<&[LinearPart; 2]>::try_from(parts.as_slice()), roles) {
            (Ok(gate_up), [Role::Gate(_), Role::Up(_)]) => Linear::packed(backend, backend.load_gated(gate_up)?),
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

    /// The codes that it reads, or `None` for float.
    pub fn q8(&self) -> Option<InputCodes> {
        self.shape.q8.map(|kind| InputCodes { kind, grid: self.shape.grid })
    }

    /// The back end's weight alone.
    pub fn into_packed(self) -> B::Linear {
        self.packed
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

/// Where the output of a block's half goes: added to the hidden state at once, where the device does that while it stores
/// the output, or left pending.
pub(crate) struct Residual<'a, B: Backend> {
    /// The hidden state, if nothing comes between it and the output.
    pub sum: Option<&'a mut Tensor<B>>,
    /// The output, if it is not added yet.
    pub delta: &'a mut Tensor<B>,
}

impl<B: Backend> Linear<B> {
    /// As [`Linear::apply`], to a residual. True if the output is left pending in `delta`.
    pub(crate) fn apply_residual(
        &self,
        backend: &B,
        math: FloatMath,
        x: &Tensor<B>,
        q: &Q8Rows<B>,
        to: Residual<'_, B>,
    ) -> Result<bool> {
        match (self.shape.q8, to.sum) {
            (Some(_), Some(sum)) => Ok(!backend.gemm_w8a8_add(q, &self.packed, sum, to.delta)?),
            _ => self.apply(backend, math, x, q, to.delta).map(|()| true),
        }
    }
}

/// Fails unless all parts of a product are float, or of one 8-bit type.
pub(crate) fn one_kind(roles: &[Role], parts: &[LinearPart]) -> Result<()> {
    let mut kinds = parts.iter().map(|p| (Q8::from_dtype(p.weight.dtype()), p.grid));
    let first = kinds.next();
    if kinds.all(|k| Some(k) == first) {
        return Ok(());
    }
    let names: Vec<String> = roles.iter().map(|r| format!("{r:?}").to_lowercase()).collect();
    Err(Error::Unsupported(format!(
        "{} read one input and run as one product: all or none of them must be quantized, in one type, with \
         equal input scales",
        names.join(", ")
    )))
}
