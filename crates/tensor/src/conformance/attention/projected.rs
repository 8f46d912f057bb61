//! `gemm_rope_attention_quantize`: the codes, and the cache, that its product, rotation and attention give one after the
//! other, to the bit.
use super::super::case::{Case, Check, Judge, Output, activations, blank, put};
use super::super::data::Random;
use super::super::fused::quantized;
use super::{KINDS, Pool, Rotation};
use crate::{
    Attended, AttentionShape, Backend, DType, HostTensor, KvLayer, LinearPart, Projected, Q8, Q8Rows, Result, RopeTable,
};

pub(super) fn cases(judge: &mut impl Judge, random: &mut Random) {
    for i in 0..24 {
        judge.hear(&FromProduct::new(random, i));
    }
}

/// Positions that have angles.
const POSITIONS: usize = 316;

struct FromProduct {
    shape: AttentionShape,
    pool: Pool,
    /// (sequence, past, new).
    prompts: Vec<(usize, usize, usize)>,
    k: usize,
    /// Codes' values `[t, k]`, and scales.
    x: Vec<f32>,
    xs: Vec<f32>,
    /// Queries, keys, values.
    parts: [LinearPart; 3],
    kv: DType,
    kind: Q8,
    rope: Option<Rotation>,
}

impl FromProduct {
    fn new(random: &mut Random, i: usize) -> FromProduct {
        const HEADS: [(usize, usize, usize); 6] =
            [(2, 1, 128), (1, 1, 128), (4, 2, 64), (2, 2, 64), (3, 1, 64), (2, 1, 20)];
        // Shifted each time round, so that every width meets every cache and every rotation.
        let (nq, nkv, d) = HEADS[(i + i / 6) % 6];
        let shape = AttentionShape { nq, nkv, d, scale: 1.0 / (d as f32).sqrt(), window: None, softcap: None };
        let kind = Q8::ALL[i % 3];
        let k = 16 * (2 + random.below(8));
        // Products of many tokens may take other kernels than those of few.
        let (count, least) = (1 + i % 3, if i % 4 == 3 { 1 } else { 256 });
        let prompts: Vec<_> = (0..count).map(|s| (s, 0, usize::div_ceil(least, count) + random.below(60))).collect();
        let lengths: Vec<usize> = prompts.iter().map(|p| p.2).collect();
        let t: usize = lengths.iter().sum();
        let biased = i % 4 < 2;
        let parts = [nq, nkv, nkv].map(|heads| {
            let n = heads * d;
            let weight = HostTensor::from_bytes(kind.dtype(), vec![n, k], random.codes(kind, n * k));
            let scales = random.floats(n).iter().map(|s| s / 4096.0).collect();
            LinearPart::channels(weight.expect("sizes fit"), scales, biased.then(|| random.floats(n)))
        });
        let rope = (i % 5 != 4).then(|| {
            let half = d / [2, 2, 4][i / 6 % 3];
            Rotation::new(random, POSITIONS, half, i % 7 == 3)
        });
        let x = random.codes(kind, t * k).into_iter().map(|c| kind.decode(c)).collect();
        let xs = random.floats(t);
        let pool = Pool::new(random, &lengths, [16, 32, 64][i % 3]);
        FromProduct { shape, pool, prompts, k, x, xs, parts, kv: KINDS[(i + i / 4) % 4], kind, rope }
    }

    /// Codes, their scales, and the bytes of the cache, by one operation or by two.
    fn step<B: Backend>(&self, b: &B, rope: Option<&RopeTable<B>>, together: bool) -> Result<([Output; 2], Vec<u8>)> {
        let (shape, t) = (&self.shape, self.xs.len());
        let mut kv = self.pool.layer(b, shape, self.kv)?;
        let batch = b.upload_batch(&self.pool.batch(&self.prompts), self.pool.pages)?;
        let w = b.load_linear(&self.parts)?;
        let x = Q8Rows::of_tokens(put(b, self.kind.dtype(), self.k, &self.x)?, put(b, DType::F32, 1, &self.xs)?);
        let mut qkv = activations(b, shape.qkv_width(), &vec![0.0; t * shape.qkv_width()])?;
        let mut scratch = blank(b, qkv.dtype, t, shape.nq * shape.d)?;
        let mut codes = b.alloc_q8(self.kind, t, scratch.cols)?;
        let to = Attended { scratch: &mut scratch, out: &mut codes };
        if together {
            let from = Projected { x: &x, w: &w, qkv: &mut qkv };
            b.gemm_rope_attention_quantize(from, rope, shape, &batch, &mut kv, to)?;
        } else {
            b.gemm_w8a8(&x, &w, &mut qkv)?;
            b.rope_attention_quantize(&mut qkv, rope, shape, &batch, &mut kv, to)?;
        }
        Ok((quantized(b, self.kind, codes)?, bytes(b, &mut kv)?))
    }
}

/// All that a layer holds.
fn bytes<B: Backend>(b: &B, kv: &mut KvLayer<B>) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    for tensor in kv.tensors_mut() {
        let start = all.len();
        all.resize(start + tensor.rows * tensor.cols * tensor.dtype.size(), 0);
        b.download(tensor, &mut all[start..])?;
    }
    Ok(all)
}

impl Case for FromProduct {
    fn operation(&self) -> &'static str {
        "gemm_rope_attention_quantize"
    }

    fn describe(&self) -> String {
        let rope = &self.rope;
        let (shape, kv, prompts, kind) = (&self.shape, self.kv, &self.prompts, self.kind);
        format!("{shape:?} of {kind:?} over {kv}, k {}, {prompts:?}, {rope:?}", self.k)
    }

    fn multiplies(&self) -> Vec<Q8> {
        vec![self.kind]
    }

    fn run<B: Backend>(&self, b: &B) -> Result<Vec<Output>> {
        let rope = self.rope.as_ref().map(|rotation| rotation.table(b)).transpose()?;
        let (one, one_cache) = self.step(b, rope.as_ref(), true)?;
        let (two, two_cache) = self.step(b, rope.as_ref(), false)?;
        let pairs = one.iter().zip(&two).flat_map(|(a, b)| a.values.iter().zip(&b.values));
        let differing = pairs.filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        let stored = one_cache.iter().zip(&two_cache).filter(|(a, b)| a != b).count();
        let values = vec![differing as f32, stored as f32];
        Ok(vec![Output { cols: 1, dtype: DType::F32, values, check: Check::Equal }])
    }
}
