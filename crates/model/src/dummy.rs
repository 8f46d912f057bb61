//! Weights that nobody trained: random numbers of the right shapes, made when they are asked for, so that a model of any
//! size can be timed from its `config.json` alone.
use crate::plan::Plan;
use planish_checkpoint::source::TensorSource;
use planish_checkpoint::{Error, Result};
use planish_tensor::{DType, HostTensor, float8};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// Every tensor that a plan names. The same seed gives the same weights, in any order of asking.
///
/// Weights are even over 256 values with a standard deviation of `1 / sqrt(k)`, so that activations keep their size
/// through any number of layers; norms are as if absent; biases are small.
#[derive(Clone, Debug)]
pub struct DummySource {
    path: PathBuf,
    seed: u64,
    tensors: BTreeMap<String, Entry>,
}

#[derive(Clone, Debug)]
struct Entry {
    dtype: DType,
    shape: Vec<usize>,
    fill: Fill,
}

#[derive(Clone, Copy, Debug)]
enum Fill {
    /// Every element.
    Constant(f32),
    /// Even between minus and plus this.
    Even(f32),
    /// All 8-bit codes of the type's symmetric grid.
    Codes,
}

impl DummySource {
    /// The weights of `plan`, its linears with 8-bit codes of type `quant` (I8 or F8E4M3) and channel scales, or in
    /// BF16. `path` stands in messages.
    pub fn new(plan: &Plan, quant: Option<DType>, seed: u64, path: PathBuf) -> DummySource {
        let mut source = DummySource { path, seed, tensors: BTreeMap::new() };
        let norm = Fill::Constant(1.0 - plan.arch.norm.offset());
        for (name, shape) in plan.end_tensors() {
            let fill = match shape[..] {
                [_] if name.ends_with(".bias") => Fill::Even(0.01),
                [_] => norm,
                _ if name == plan.head_tensor() => Fill::Even(even(plan.hidden)),
                _ => Fill::Even(1.0),
            };
            source.add(name, DType::BF16, shape, fill);
        }
        for layer in 0..plan.layers {
            for (place, name) in plan.arch.names.norms {
                let (name, width) = (plan.block_prefix(layer) + name, vec![plan.norm_width(*place)]);
                if plan.norms_have_biases() {
                    source.add(format!("{name}.bias"), DType::BF16, width.clone(), Fill::Even(0.01));
                }
                source.add(format!("{name}.weight"), DType::BF16, width, norm);
            }
            for module in plan.stored(layer) {
                if module.bias {
                    source.add(format!("{}.bias", module.name), DType::BF16, vec![module.n], Fill::Even(0.01));
                }
                let steers = module.roles[0].steers();
                source.linear(module.name, module.n, module.k, quant.filter(|_| !steers));
            }
        }
        source
    }

    /// Bytes of all tensors together.
    pub fn bytes(&self) -> u64 {
        self.tensors.values().map(|e| e.shape.iter().map(|&d| d as u64).product::<u64>() * e.dtype.size() as u64).sum()
    }

    fn linear(&mut self, name: String, n: usize, k: usize, quant: Option<DType>) {
        let most = even(k);
        let weight = format!("{name}.weight");
        match quant {
            None => self.add(weight, DType::BF16, vec![n, k], Fill::Even(most)),
            Some(dtype) => {
                self.add(weight, dtype, vec![n, k], Fill::Codes);
                let scale = Fill::Constant(most / largest(dtype));
                self.add(format!("{name}.weight_scale"), DType::F32, vec![n, 1], scale);
            }
        }
    }

    fn add(&mut self, name: String, dtype: DType, shape: Vec<usize>, fill: Fill) {
        self.tensors.insert(name, Entry { dtype, shape, fill });
    }
}

impl TensorSource for DummySource {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn tensor(&self, name: &str) -> Result<HostTensor> {
        let wrong = |found: String| Error::tensor(&self.path, name, "a tensor of this architecture", found);
        let entry = self.tensors.get(name).ok_or_else(|| wrong("nothing".into()))?;
        let size = planish_tensor::host::element_count(&entry.shape).map_err(|e| wrong(e.to_string()))?;
        let mut bytes = Vec::new();
        let room = size.checked_mul(entry.dtype.size());
        room.and_then(|n| bytes.try_reserve_exact(n).ok()).ok_or_else(|| wrong("more than the memory".into()))?;
        entry.write(mix(self.seed, name), size, &mut bytes);
        HostTensor::from_bytes(entry.dtype, entry.shape.clone(), bytes).map_err(|e| wrong(e.to_string()))
    }

    fn release(&self, _: &str) {}
}

impl Entry {
    /// One random byte chooses each element from 256 values.
    fn write(&self, seed: u64, size: usize, bytes: &mut Vec<u8>) {
        let most = match self.fill {
            Fill::Constant(value) => return (0..size).for_each(|_| bytes.extend(encode(self.dtype, value))),
            Fill::Even(most) => most,
            Fill::Codes => largest(self.dtype),
        };
        let values: Vec<[u8; 4]> = (0..256)
            .map(|i| {
                let mut value = [0; 4];
                let code = encode(self.dtype, most * (2.0 * i as f32 / 255.0 - 1.0));
                value[..code.len()].copy_from_slice(&code);
                value
            })
            .collect();
        let width = self.dtype.size();
        bytes.resize(size * width, 0);
        let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
        let groups = size.div_ceil(8).div_ceil(threads).max(1 << 16);
        std::thread::scope(|scope| {
            for (i, chunk) in bytes.chunks_mut(groups * 8 * width).enumerate() {
                let values = &values;
                // SplitMix64 counts up, so that a chunk's numbers do not depend on how many threads there are.
                let mut state = seed.wrapping_add(GAMMA.wrapping_mul((i * groups) as u64));
                let fill = move || {
                    for group in chunk.chunks_mut(8 * width) {
                        let random = next(&mut state).to_le_bytes();
                        for (element, byte) in group.chunks_mut(width).zip(random) {
                            element.copy_from_slice(&values[byte as usize][..width]);
                        }
                    }
                };
                scope.spawn(fill);
            }
        });
    }
}

/// The most of even numbers with the standard deviation `1 / sqrt(k)`: those up to `a` have `a / sqrt(3)`.
fn even(k: usize) -> f32 {
    (3.0 / k as f32).sqrt()
}

/// The largest code of an 8-bit type's symmetric grid.
fn largest(dtype: DType) -> f32 {
    if dtype == DType::I8 { 127.0 } else { 448.0 }
}

/// A number in its type, little-endian.
fn encode(dtype: DType, value: f32) -> Vec<u8> {
    match dtype {
        DType::I8 => vec![value.round() as i8 as u8],
        DType::F8E4M3 => vec![float8::f32_to_e4m3(value)],
        DType::F32 => value.to_le_bytes().to_vec(),
        // BF16 is the upper half of an f32; what is cut off does not matter here.
        _ => value.to_le_bytes()[2..].to_vec(),
    }
}

/// A seed for each name (FNV-1a).
fn mix(seed: u64, name: &str) -> u64 {
    name.bytes().fold(seed ^ 0xcbf2_9ce4_8422_2325, |h, b| (h ^ b as u64).wrapping_mul(0x0100_0000_01b3))
}

/// What SplitMix64 adds for each number.
const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// SplitMix64.
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(GAMMA);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arch::Role;
    use planish_checkpoint::config::Config;
    use std::path::Path;

    fn plan() -> Plan {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/llama3_rope_bias_untied");
        Plan::new(&Config::open(&dir).unwrap()).unwrap()
    }

    #[test]
    fn every_tensor_is_there_with_sane_numbers() {
        let plan = plan();
        for quant in [None, Some(DType::I8), Some(DType::F8E4M3)] {
            let source = DummySource::new(&plan, quant, 1, "config.json".into());
            let mut bytes = 0;
            for name in source.names() {
                let tensor = source.tensor(&name).unwrap();
                bytes += tensor.bytes().len() as u64;
                assert!(tensor.to_f32().iter().all(|x| x.is_finite()), "{name}");
            }
            assert_eq!(bytes, source.bytes());
            let block = crate::weights::HostBlock::read(&plan, &source, 0).unwrap();
            for part in block.linears.values() {
                let (values, k) = (part.weight.to_f32(), part.weight.shape()[1]);
                let scale = part.scales.as_ref().map_or(1.0, |s| s[0]);
                let square: f32 = values.iter().map(|x| (x * scale).powi(2)).sum::<f32>() / values.len() as f32;
                assert!((square * k as f32 - 1.0).abs() < 0.1, "{quant:?}: {}", square * k as f32);
            }
            assert!(block.norms.values().flat_map(|norm| &norm.weight).all(|w| *w == 1.0));
        }
    }

    #[test]
    fn seeds_and_names_decide_and_absent_names_are_errors() {
        let of = |seed| DummySource::new(&plan(), Some(DType::I8), seed, "dir/config.json".into());
        let read = |seed, layer| of(seed).tensor(&(plan().linear_name(layer, Role::Q) + ".weight")).unwrap();
        assert_eq!(read(1, 0).bytes(), read(1, 0).bytes());
        assert_ne!(read(1, 0).bytes(), read(2, 0).bytes());
        assert_ne!(read(1, 0).bytes(), read(1, 1).bytes());
        let error = of(1).tensor("model.nothing").unwrap_err().to_string();
        assert!(error.contains("dir/config.json") && error.contains("model.nothing"), "{error}");
    }
}
