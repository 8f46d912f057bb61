//! `paged_attention`, and the same quantized, over a given cache.
use super::super::case::{Case, Check, Judge, Output, activations, blank, put, read};
use super::super::data::Random;
use super::super::fused::quantized;
use super::{Pool, shape};
use crate::{AttentionShape, Backend, DType, KvLayer, Q8, Result};

pub(super) fn cases(judge: &mut impl Judge, random: &mut Random) {
    for i in 0..24 {
        let steps: Vec<_> = (0..1 + i % 3).map(|s| (s, random.below(150), random.rows(i) / (1 + s))).collect();
        judge.hear(&Paged::new(random, i, steps));
    }
    // Long contexts: one token, and a chunk; with and without a window.
    for i in [0, 1, 3, 6] {
        judge.hear(&Paged::new(random, i, vec![(0, 1300, 1), (1, 600, 40), (2, 511, 2)]));
    }
}

struct Paged {
    shape: AttentionShape,
    pool: Pool,
    /// (sequence, past, new)
    steps: Vec<(usize, usize, usize)>,
    kv: DType,
    keys: Vec<f32>,
    values: Vec<f32>,
    qkv: Vec<f32>,
    /// Also quantized to this.
    kind: Option<Q8>,
}

impl Paged {
    fn new(random: &mut Random, i: usize, steps: Vec<(usize, usize, usize)>) -> Paged {
        let shape = shape(random, i);
        let lengths: Vec<usize> = steps.iter().map(|(_, past, new)| past + new).collect();
        let pool = Pool::new(random, &lengths, [16, 8, 32, 64, 5][i % 5]);
        let tokens: usize = steps.iter().map(|s| s.2).sum();
        let width = shape.qkv_width();
        let mut qkv: Vec<f32> = random.floats(tokens * width).iter().map(|v| (v * 256.0).round() / 64.0).collect();
        let (mut keys, mut values) = (pool.nothing(&shape), pool.nothing(&shape));
        for (sequence, &length) in lengths.iter().enumerate() {
            pool.fill(random, &shape, sequence, length, &mut keys);
            pool.fill(random, &shape, sequence, length, &mut values);
        }
        if i % 6 == 5 && tokens > 0 {
            // A query that is not a number, and a key in another sequence.
            qkv[random.below(tokens) * width] = f32::NAN;
            keys[pool.element(&shape, 0, 0, 0)] = f32::NAN;
        }
        let kind = i.is_multiple_of(2).then(|| Q8::ALL[i / 2 % 3]);
        Paged { shape, pool, steps, kv: [DType::BF16, DType::F32][i / 2 % 2], keys, values, qkv, kind }
    }
}

impl Pool {
    fn nothing(&self, shape: &AttentionShape) -> Vec<f32> {
        vec![f32::NAN; self.pages * shape.nkv * self.page_size * shape.d]
    }

    /// First element of a head's vector.
    fn element(&self, shape: &AttentionShape, sequence: usize, position: usize, head: usize) -> usize {
        let slot = self.slot(sequence, position);
        ((slot / self.page_size * shape.nkv + head) * self.page_size + slot % self.page_size) * shape.d
    }

    /// Gives a sequence's positions numbers that bf16 holds.
    fn fill(&self, random: &mut Random, shape: &AttentionShape, sequence: usize, length: usize, to: &mut [f32]) {
        for position in 0..length {
            for head in 0..shape.nkv {
                let at = self.element(shape, sequence, position, head);
                for (to, value) in to[at..at + shape.d].iter_mut().zip(random.floats(shape.d)) {
                    *to = (value * 128.0).round() / 64.0;
                }
            }
        }
    }
}

impl Case for Paged {
    fn operation(&self) -> &'static str {
        if self.kind.is_some() { "paged_attention_quantize" } else { "paged_attention" }
    }

    fn describe(&self) -> String {
        let Pool { page_size, pages, .. } = self.pool;
        let (shape, kv, steps) = (&self.shape, self.kv, &self.steps);
        format!(
            "{shape:?} over {kv}, {pages} pages of {page_size}, (sequence, past, new) {steps:?}, to {:?}",
            self.kind
        )
    }

    fn run<B: Backend>(&self, b: &B) -> Result<Vec<Output>> {
        let batch = b.upload_batch(&self.pool.batch(&self.steps), self.pool.pages)?;
        let cols = self.shape.nkv * self.pool.page_size * self.shape.d;
        let kv = KvLayer { k: put(b, self.kv, cols, &self.keys)?, v: put(b, self.kv, cols, &self.values)? };
        let qkv = activations(b, self.shape.qkv_width(), &self.qkv)?;
        let mut out = blank(b, qkv.dtype, qkv.rows, self.shape.nq * self.shape.d)?;
        let mut outputs = Vec::new();
        if let Some(kind) = self.kind {
            let mut codes = b.alloc_q8(kind, out.rows, out.cols)?;
            b.paged_attention_quantize(&qkv, &self.shape, &batch, &kv, &mut out, &mut codes)?;
            outputs.extend(quantized(b, kind, codes)?);
        }
        b.paged_attention(&qkv, &self.shape, &batch, &kv, &mut out)?;
        let mut result = read(b, &mut out, Check::Equal)?;
        // Averages of magnitudes: what the terms of each sum amount to.
        let magnitudes: Vec<f32> = self.values.iter().map(|v| v.abs()).collect();
        let kv = KvLayer { k: kv.k, v: put(b, self.kv, cols, &magnitudes)? };
        out.set_rows(qkv.rows);
        b.paged_attention(&qkv, &self.shape, &batch, &kv, &mut out)?;
        result.check = Check::Sum(read(b, &mut out, Check::Relative)?.values);
        outputs.push(result);
        Ok(outputs)
    }
}
