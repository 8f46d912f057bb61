//! What calibration records of a block's inputs, on the device.
use planish_model::tap::{Shown, Tap};
use planish_model::{Input, Mlp, Plan};
use planish_tensor::{Backend, DType, FloatMath, Tensor};
use std::collections::BTreeMap;

/// Column maxima and Gram matrices of a block's inputs.
pub struct Statistics<B: Backend> {
    inputs: BTreeMap<Input, Seen<B>>,
    math: FloatMath,
    /// Experts that are run on every token, while all else is left alone.
    widened: Option<Vec<u16>>,
}

/// What is known of one input.
struct Seen<B: Backend> {
    tokens: u64,
    /// `[1, k]`.
    absmax: Tensor<B>,
    /// `[k, k]`, if wanted.
    gram: Option<Tensor<B>>,
}

impl<B: Backend> Seen<B> {
    fn new(backend: &B, k: usize, gram: bool) -> planish_tensor::Result<Seen<B>> {
        let alloc = |rows| backend.alloc(DType::F32, rows, k);
        Ok(Seen { tokens: 0, absmax: alloc(1)?, gram: gram.then(|| alloc(k)).transpose()? })
    }
}

impl<B: Backend> Statistics<B> {
    /// Zeroed statistics of a block; `grams` says whether Gram matrices are wanted.
    pub fn new(
        backend: &B,
        plan: &Plan,
        layer: usize,
        math: FloatMath,
        grams: bool,
    ) -> planish_tensor::Result<Statistics<B>> {
        let each = |input: Input| Ok((input, Seen::new(backend, plan.input_width(input), grams)?));
        let inputs = plan.inputs(layer).into_iter().map(each).collect::<planish_tensor::Result<_>>()?;
        Ok(Statistics { inputs, math, widened: None })
    }

    /// Tokens that each expert was given.
    pub fn expert_tokens(&self) -> Vec<(u16, u64)> {
        let tokens = |(input, seen): (&Input, &Seen<B>)| match input {
            Input::Routed(e) => Some((*e, seen.tokens)),
            _ => None,
        };
        self.inputs.iter().filter_map(tokens).collect()
    }

    /// Forgets what these experts were given: from now on they are run on every token, and nothing else is recorded.
    pub fn widen(&mut self, backend: &B, experts: Vec<u16>) -> planish_tensor::Result<()> {
        for &e in &experts {
            for input in [Input::Routed(e), Input::MlpInner(Mlp::Expert(e))] {
                if let Some(seen) = self.inputs.get_mut(&input) {
                    *seen = Seen::new(backend, seen.absmax.cols, seen.gram.is_some())?;
                }
            }
        }
        self.widened = Some(experts);
        Ok(())
    }

    /// `[k]` largest magnitude of each input channel.
    pub fn absmax(&self, backend: &B, input: Input) -> planish_tensor::Result<Vec<f32>> {
        read(backend, &self.inputs[&input].absmax)
    }

    /// `[k, k]` lower triangle of Σ x xᵀ, unless Gram matrices were not wanted.
    pub fn gram(&self, backend: &B, input: Input) -> planish_tensor::Result<Option<Vec<f32>>> {
        self.inputs[&input].gram.as_ref().map(|g| read(backend, g)).transpose()
    }

    /// Takes the same where it is, on the device.
    pub fn take_gram(&mut self, input: Input) -> Option<Tensor<B>> {
        self.inputs.get_mut(&input).and_then(|seen| seen.gram.take())
    }
}

impl<B: Backend> Tap<B> for Statistics<B> {
    fn observe(&mut self, backend: &B, input: Input, x: &Tensor<B>) -> planish_model::Result<()> {
        let of_expert = matches!(input, Input::Routed(_) | Input::MlpInner(Mlp::Expert(_)));
        if self.widened.is_some() && !of_expert {
            return Ok(());
        }
        let Some(seen) = self.inputs.get_mut(&input) else { return Ok(()) };
        seen.tokens += x.rows as u64;
        backend.observe_columns(x, &mut seen.absmax)?;
        if let Some(gram) = &mut seen.gram {
            backend.accumulate_gram(x, self.math, gram)?;
        }
        Ok(())
    }

    fn shown(&self, expert: u16) -> Shown {
        match &self.widened {
            None => Shown::Routed,
            Some(experts) if experts.contains(&expert) => Shown::All,
            Some(_) => Shown::Nothing,
        }
    }
}

/// The inputs themselves, on the host: for measuring errors on a small batch.
#[derive(Default)]
pub struct Recording {
    /// `[t, k]` of each input; none of an expert that no token was given to.
    pub inputs: BTreeMap<Input, Vec<f32>>,
}

impl<B: Backend> Tap<B> for Recording {
    fn observe(&mut self, backend: &B, input: Input, x: &Tensor<B>) -> planish_model::Result<()> {
        self.inputs.insert(input, read(backend, x)?);
        Ok(())
    }
}

/// A device tensor's elements as f32.
pub fn read<B: Backend>(backend: &B, t: &Tensor<B>) -> planish_tensor::Result<Vec<f32>> {
    let mut bytes = vec![0; t.rows * t.cols * t.dtype.size()];
    backend.download(t, &mut bytes)?;
    Ok(planish_tensor::host::decode_f32(t.dtype, &bytes))
}
