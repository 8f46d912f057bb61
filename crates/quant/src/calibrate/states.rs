//! The calibration states between blocks, a chunk of sequences at a time: on the device while it has room for them
//! beside its work, else on the host.
use super::observe::read;
use crate::error::Result;
use planish_model::Plan;
use planish_tensor::host::encode_f32;
use planish_tensor::{Backend, Solver, Tensor};

/// States of all sequences.
pub struct States<B: Backend> {
    /// In order.
    pub chunks: Vec<Chunk<B>>,
}

/// Sequences that go through a block together.
pub struct Chunk<B: Backend> {
    /// Tokens of each sequence.
    pub lengths: Vec<usize>,
    place: Place<B>,
}

/// Bytes of states, by where they are kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Placed {
    /// On the device.
    pub device: u64,
    /// In host memory.
    pub host: u64,
}

enum Place<B: Backend> {
    /// `[t, h]` as f32.
    Host(Vec<f32>),
    /// `[t, h]`.
    Device(Tensor<B>),
}

impl<B: Backend> Chunk<B> {
    /// A chunk of values in host memory.
    pub fn on_host(lengths: Vec<usize>, values: Vec<f32>) -> Chunk<B> {
        Chunk { lengths, place: Place::Host(values) }
    }

    /// A copy of what is on the device: there if `reserve` bytes stay free, else in host memory.
    pub fn of(
        backend: &B,
        solver: Option<&dyn Solver<B>>,
        reserve: u64,
        lengths: Vec<usize>,
        x: &Tensor<B>,
    ) -> Result<Chunk<B>> {
        let bytes = (x.rows * x.cols * x.dtype.size()) as u64;
        let place = match solver.filter(|_| backend.memory().free > reserve + bytes) {
            Some(solver) => {
                let mut copy = backend.alloc(x.dtype, x.rows, x.cols)?;
                solver.copy(x, &mut copy)?;
                Place::Device(copy)
            }
            None => Place::Host(read(backend, x)?),
        };
        Ok(Chunk { lengths, place })
    }

    /// Tokens.
    pub fn tokens(&self) -> usize {
        self.lengths.iter().sum()
    }

    /// Copies the states into `x`, which has as many rows.
    pub fn load(&self, backend: &B, solver: Option<&dyn Solver<B>>, x: &mut Tensor<B>) -> Result<()> {
        match (&self.place, solver) {
            (Place::Device(states), Some(solver)) => Ok(solver.copy(states, x)?),
            (Place::Device(states), None) => Ok(backend.upload(&encode_f32(x.dtype, &read(backend, states)?)?, x)?),
            (Place::Host(values), _) => Ok(backend.upload(&encode_f32(x.dtype, values)?, x)?),
        }
    }

    /// Copies `x` into the states.
    pub fn store(&mut self, backend: &B, solver: Option<&dyn Solver<B>>, x: &Tensor<B>) -> Result<()> {
        match (&mut self.place, solver) {
            (Place::Device(states), Some(solver)) => Ok(solver.copy(x, states)?),
            (place, _) => {
                *place = Place::Host(read(backend, x)?);
                Ok(())
            }
        }
    }

    /// The values as f32.
    pub fn values(&self, backend: &B) -> Result<std::borrow::Cow<'_, [f32]>> {
        Ok(match &self.place {
            Place::Host(values) => values.into(),
            Place::Device(states) => read(backend, states)?.into(),
        })
    }
}

impl<B: Backend> States<B> {
    /// Tokens in all.
    pub fn tokens(&self) -> usize {
        self.chunks.iter().map(Chunk::tokens).sum()
    }

    /// Where they are.
    pub fn placed(&self) -> Placed {
        let mut placed = Placed::default();
        for chunk in &self.chunks {
            match &chunk.place {
                Place::Device(states) => placed.device += (states.rows * states.cols * states.dtype.size()) as u64,
                Place::Host(values) => placed.host += size_of_val(&values[..]) as u64,
            }
        }
        placed
    }
}

/// Bytes that work on one block takes on a device at most: statistics, factors, the block in f32 (twice while it is
/// packed), the next one, and the walk over its largest weight.
pub fn block_bytes(plan: &Plan) -> u64 {
    let of_layer = |layer: usize| {
        let sizes = || plan.roles(layer).into_iter().map(|role| plan.linear_size(role)).map(|(n, k)| (n * k) as u64);
        let squares = || plan.inputs(layer).into_iter().map(|input| (plan.input_width(input) as u64).pow(2));
        let (weights, largest) = (sizes().sum::<u64>(), sizes().max().unwrap_or(0));
        let (grams, square) = (squares().sum::<u64>(), squares().max().unwrap_or(0));
        4 * (3 * weights + 4 * largest + grams + 2 * square)
    };
    (0..plan.layers).map(of_layer).max().unwrap_or(0) + (2 << 30)
}

/// Cuts sequences into groups of at most `most` tokens (one sequence may be longer).
pub fn groups(lengths: &[usize], most: usize) -> Vec<Vec<usize>> {
    let mut out: Vec<Vec<usize>> = Vec::new();
    let mut tokens = most;
    for &length in lengths {
        match out.last_mut() {
            Some(group) if tokens + length <= most => {
                group.push(length);
                tokens += length;
            }
            _ => {
                out.push(vec![length]);
                tokens = length;
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_counted_where_they_are() {
        let cpu = planish_cpu::Scalar;
        let device = cpu.alloc(planish_tensor::DType::F32, 4, 3).unwrap();
        let chunks = vec![
            Chunk::on_host(vec![2], vec![0.0; 6]),
            Chunk { lengths: vec![4], place: Place::Device(device) },
            Chunk::on_host(vec![1, 1], vec![0.0; 6]),
        ];
        assert_eq!(States::<planish_cpu::Scalar> { chunks }.placed(), Placed { device: 48, host: 48 });
    }

    #[test]
    fn groups_cover_everything_once() {
        let lengths = [512, 512, 100, 2048, 1, 1000, 24];
        let got = groups(&lengths, 1024);
        assert_eq!(got.concat(), lengths);
        assert_eq!(got[0], [512, 512]);
        assert_eq!(got[1..], [vec![100], vec![2048], vec![1, 1000], vec![24]]);
        assert!(groups(&[], 7).is_empty());
    }
}
