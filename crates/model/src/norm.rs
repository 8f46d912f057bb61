//! A norm on a device: root mean square, or with the mean taken off.
use crate::error::Result;
use crate::weights::HostNorm;
use planish_tensor::{Backend, HostTensor, Q8Rows, Tensor};

/// Its numbers.
pub struct Norm<B: Backend> {
    /// `[1, w]` F32.
    pub weight: Tensor<B>,
    /// `[1, w]` F32 of a norm that takes off the mean.
    bias: Option<Tensor<B>>,
    eps: f32,
}

impl<B: Backend> Norm<B> {
    /// Puts it on a device.
    pub fn load(backend: &B, host: &HostNorm, eps: f32) -> Result<Norm<B>> {
        let tensor = |w: &Vec<f32>| Ok::<_, crate::Error>(backend.load(&HostTensor::from_f32(vec![w.len()], w)?)?);
        Ok(Norm { weight: tensor(&host.weight)?, bias: host.bias.as_ref().map(tensor).transpose()?, eps })
    }

    /// `out = norm(x)`.
    pub fn apply(&self, backend: &B, x: &Tensor<B>, out: &mut Tensor<B>) -> Result<()> {
        match &self.bias {
            None => backend.rms_norm(x, &self.weight, self.eps, out)?,
            Some(bias) => backend.layer_norm(x, &self.weight, bias, self.eps, out)?,
        }
        Ok(())
    }

    /// `x += delta` (if given), then `out = norm(x)`.
    pub fn add_apply(
        &self,
        backend: &B,
        x: &mut Tensor<B>,
        delta: Option<&Tensor<B>>,
        out: &mut Tensor<B>,
    ) -> Result<()> {
        if self.bias.is_none() {
            return Ok(backend.add_rms_norm(x, delta, &self.weight, self.eps, out)?);
        }
        if let Some(delta) = delta {
            backend.add(x, delta)?;
        }
        self.apply(backend, x, out)
    }

    /// As [`Norm::add_apply`], quantized into `out`; `scratch[t, h]` may be used or not.
    pub fn add_apply_quantize(
        &self,
        backend: &B,
        x: &mut Tensor<B>,
        delta: Option<&Tensor<B>>,
        scratch: &mut Tensor<B>,
        out: &mut Q8Rows<B>,
    ) -> Result<()> {
        if self.bias.is_none() {
            return Ok(backend.add_rms_norm_quantize(x, delta, &self.weight, self.eps, scratch, out)?);
        }
        self.add_apply(backend, x, delta, scratch)?;
        Ok(backend.quantize_rows(scratch, out)?)
    }

    /// Norms `count` neighbouring stretches of each row of `x` from column `first` on, in place.
    pub fn apply_stretches(&self, backend: &B, x: &mut Tensor<B>, first: usize, count: usize) -> Result<()> {
        Ok(backend.rms_norm_stretches(x, first, count, &self.weight, self.eps)?)
    }
}
