//! Sizes of a block, and random inputs for its operations.
use super::Random;
use planish_model::Plan;
use planish_tensor::{Backend, DType, HostTensor, LinearPart, Q8, Result, Tensor, float8};

/// The sizes that a block's operations have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Hidden width.
    pub h: usize,
    /// MLP width.
    pub f: usize,
    /// Width of q, k and v together.
    pub qkv: usize,
    /// Width of the attention's output.
    pub attended: usize,
    /// Vocabulary.
    pub v: usize,
}

impl Sizes {
    /// Those of Llama-3-8B.
    pub const LLAMA_3_8B: Sizes = Sizes { h: 4096, f: 14336, qkv: 6144, attended: 4096, v: 128_256 };

    /// Those of a model's first block.
    pub fn of(plan: &Plan) -> Sizes {
        let attention = plan.attention(0);
        let attended = attention.nq * attention.d;
        Sizes { h: plan.hidden, f: plan.ffn, qkv: attention.qkv_width(), attended, v: plan.vocab }
    }

    /// n and k of the block's products.
    pub fn products(&self) -> [(usize, usize); 4] {
        [(self.qkv, self.h), (self.h, self.attended), (2 * self.f, self.h), (self.h, self.f)]
    }
}

/// Random 8-bit codes over the whole range of a type, without NaN and infinity.
pub fn codes(random: &mut Random, kind: Q8, n: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> = (0..n.div_ceil(8)).flat_map(|_| random.next().to_le_bytes()).collect();
    bytes.truncate(n);
    if kind == Q8::E4M3 {
        bytes.iter_mut().for_each(|b| *b = (*b & 0x80) | (*b & 0x7f).min(float8::f32_to_e4m3(float8::E4M3_MAX)));
    }
    bytes
}

/// Random numbers in [-1, 1).
pub fn floats(random: &mut Random, n: usize) -> Vec<f32> {
    (0..n).map(|_| (random.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0).collect()
}

/// A random 8-bit weight `[n, k]` with channel scales of 2^-10.
pub fn weight(random: &mut Random, kind: Q8, n: usize, k: usize) -> Result<LinearPart> {
    let weight = HostTensor::from_bytes(kind.dtype(), vec![n, k], codes(random, kind, n * k))?;
    Ok(LinearPart::channels(weight, vec![WEIGHT_SCALE; n], None))
}

/// Of every channel.
pub const WEIGHT_SCALE: f32 = 1.0 / 1024.0;

/// A random bf16 weight `[n, k]`: ordinary numbers between 2^-7 and 2 in magnitude.
pub fn float_weight(random: &mut Random, n: usize, k: usize) -> Result<LinearPart> {
    let numbers = (0..(n * k).div_ceil(4)).flat_map(|_| {
        let bits = random.next();
        [0, 16, 32, 48].map(|at| ((bits >> at) as u16 & 0x83ff | 0x3c00).to_le_bytes())
    });
    let mut bytes: Vec<u8> = numbers.flatten().collect();
    bytes.truncate(2 * n * k);
    let weight = HostTensor::from_bytes(DType::BF16, vec![n, k], bytes)?;
    Ok(LinearPart::float(weight, None))
}

/// Numbers `[t, cols]` on a device, of the activations' type or F32.
pub fn upload<B: Backend>(b: &B, values: &[f32], t: usize, cols: usize, dtype: DType) -> Result<Tensor<B>> {
    let mut tensor = b.alloc(dtype, t, cols)?;
    b.upload(&planish_tensor::host::encode_f32(dtype, values)?, &mut tensor)?;
    Ok(tensor)
}

/// The first `count` numbers of a tensor.
pub fn download<B: Backend>(b: &B, x: &Tensor<B>, count: usize) -> Result<Vec<f32>> {
    let mut bytes = vec![0; x.rows * x.cols * x.dtype.size()];
    b.download(x, &mut bytes)?;
    bytes.truncate(count * x.dtype.size());
    Ok(planish_tensor::host::decode_f32(x.dtype, &bytes))
}
