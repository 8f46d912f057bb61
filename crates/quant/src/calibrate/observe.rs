//! What calibration records of a block's inputs, on the device.
use planish_model::{Input, Plan};
use planish_tensor::{Backend, DType, FloatMath, Tensor};

/// Column maxima and Gram matrices of a block's four inputs.
pub struct Statistics<B: Backend> {
    absmax: Vec<Tensor<B>>,
    gram: Vec<Tensor<B>>,
    math: FloatMath,
}

impl<B: Backend> Statistics<B> {
    /// Zeroed statistics; `grams` says whether Gram matrices are wanted.
    pub fn new(backend: &B, plan: &Plan, math: FloatMath, grams: bool) -> planish_tensor::Result<Statistics<B>> {
        let each = |square: bool| {
            let alloc = |input: &Input| {
                let k = plan.input_width(*input);
                backend.alloc(DType::F32, if square { k } else { 1 }, k)
            };
            Input::ALL.iter().map(alloc).collect::<planish_tensor::Result<Vec<_>>>()
        };
        Ok(Statistics { absmax: each(false)?, gram: if grams { each(true)? } else { Vec::new() }, math })
    }

    /// `[k]` largest magnitude of each input channel.
    pub fn absmax(&self, backend: &B, input: Input) -> planish_tensor::Result<Vec<f32>> {
        read(backend, &self.absmax[input as usize])
    }

    /// `[k, k]` lower triangle of Σ x xᵀ, unless Gram matrices were not wanted.
    pub fn gram(&self, backend: &B, input: Input) -> planish_tensor::Result<Option<Vec<f32>>> {
        self.gram.get(input as usize).map(|g| read(backend, g)).transpose()
    }

    /// Takes the same where it is, on the device.
    pub fn take_gram(&mut self, backend: &B, input: Input) -> planish_tensor::Result<Option<Tensor<B>>> {
        let nothing = backend.alloc(DType::F32, 0, 0)?;
        Ok(self.gram.get_mut(input as usize).map(|g| std::mem::replace(g, nothing)))
    }
}

impl<B: Backend> planish_model::tap::Tap<B> for Statistics<B> {
    fn observe(&mut self, backend: &B, input: Input, x: &Tensor<B>) -> planish_model::Result<()> {
        backend.observe_columns(x, &mut self.absmax[input as usize])?;
        if let Some(gram) = self.gram.get_mut(input as usize) {
            backend.accumulate_gram(x, self.math, gram)?;
        }
        Ok(())
    }
}

/// The inputs themselves, on the host: for measuring errors on a small batch.
#[derive(Default)]
pub struct Recording {
    /// `[t, k]` for each input, in the order of [`Input::ALL`].
    pub inputs: Vec<Vec<f32>>,
}

impl<B: Backend> planish_model::tap::Tap<B> for Recording {
    fn observe(&mut self, backend: &B, _input: Input, x: &Tensor<B>) -> planish_model::Result<()> {
        self.inputs.push(read(backend, x)?);
        Ok(())
    }
}

/// A device tensor's elements as f32.
pub fn read<B: Backend>(backend: &B, t: &Tensor<B>) -> planish_tensor::Result<Vec<f32>> {
    let mut bytes = vec![0; t.rows * t.cols * t.dtype.size()];
    backend.download(t, &mut bytes)?;
    Ok(planish_tensor::host::decode_f32(t.dtype, &bytes))
}
