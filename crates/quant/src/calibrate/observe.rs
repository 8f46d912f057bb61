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
pub(super) struct Seen<B: Backend> {
    tokens: u64,
    /// `[1, k]`.
    absmax: Tensor<B>,
    /// `[k, k]`, if wanted.
    gram: Option<Tensor<B>>,
    /// `[k]` smallest and `[k]` largest values, 0 at most and at least; if wanted.
    range: Option<[Vec<f32>; 2]>,
}

impl<B: Backend> Seen<B> {
    /// Nothing yet of an input of width `k`; says what is wanted beside the largest magnitudes.
    pub fn new(backend: &B, k: usize, gram: bool, range: bool) -> planish_tensor::Result<Seen<B>> {
        let alloc = |rows| backend.alloc(DType::F32, rows, k);
        let range = range.then(|| [vec![0.0; k], vec![0.0; k]]);
        Ok(Seen { tokens: 0, absmax: alloc(1)?, gram: gram.then(|| alloc(k)).transpose()?, range })
    }

    /// Takes in the next tokens.
    pub fn observe(&mut self, backend: &B, math: FloatMath, x: &Tensor<B>) -> planish_tensor::Result<()> {
        self.tokens += x.rows as u64;
        backend.observe_columns(x, &mut self.absmax)?;
        if let Some(gram) = &mut self.gram {
            backend.accumulate_gram(x, math, gram)?;
        }
        if let Some([min, max]) = &mut self.range {
            for row in read(backend, x)?.chunks_exact(x.cols) {
                // A NaN stays: it is no smaller and no larger than anything.
                min.iter_mut().zip(row).for_each(|(m, &x)| *m = if *m <= x { *m } else { x });
                max.iter_mut().zip(row).for_each(|(m, &x)| *m = if *m >= x { *m } else { x });
            }
        }
        Ok(())
    }

    /// `[k, k]` lower triangle of Σ x xᵀ, unless it was not wanted.
    pub fn gram(&self, backend: &B) -> planish_tensor::Result<Option<Vec<f32>>> {
        self.gram.as_ref().map(|g| read(backend, g)).transpose()
    }

    /// Smallest and largest value of all channels, each divided by its factor of `s`; without ranges the largest
    /// magnitude and its negative.
    pub fn reach(&self, backend: &B, s: Option<&[f32]>) -> planish_tensor::Result<[f32; 2]> {
        let divided = |values: &[f32], pick: fn(f32, f32) -> f32| {
            let divided = values.iter().enumerate().map(|(j, m)| s.map_or(*m, |s| m / s[j]));
            divided.fold(0.0, |found: f32, m| if m.is_nan() || found.is_nan() { f32::NAN } else { pick(found, m) })
        };
        match &self.range {
            Some([min, max]) => Ok([divided(min, f32::min), divided(max, f32::max)]),
            None => {
                let largest = divided(&read(backend, &self.absmax)?, f32::max);
                Ok([-largest, largest])
            }
        }
    }
}

impl<B: Backend> Statistics<B> {
    /// Zeroed statistics of a block; `grams` and `ranges` say whether Gram matrices, and smallest and largest values are
    /// wanted.
    pub fn new(
        backend: &B,
        plan: &Plan,
        layer: usize,
        math: FloatMath,
        grams: bool,
        ranges: bool,
    ) -> planish_tensor::Result<Statistics<B>> {
        let each = |input: Input| Ok((input, Seen::new(backend, plan.input_width(input), grams, ranges)?));
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
                    *seen = Seen::new(backend, seen.absmax.cols, seen.gram.is_some(), seen.range.is_some())?;
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
        self.inputs[&input].gram(backend)
    }

    /// See [`Seen::reach`].
    pub(super) fn reach(&self, backend: &B, input: Input, s: Option<&[f32]>) -> planish_tensor::Result<[f32; 2]> {
        self.inputs[&input].reach(backend, s)
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
        Ok(seen.observe(backend, self.math, x)?)
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
