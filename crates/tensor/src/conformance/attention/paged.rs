//! `paged_attention`, and the same quantized, over a given cache.
use super::super::case::{Case, Check, Judge, Output, activations, blank, read};
use super::super::data::Random;
use super::super::fused::quantized;
use super::{KINDS, Pool, filled, shape};
use crate::{AttentionShape, Backend, DType, Q8, Q8Rows, Result};

pub(super) fn cases(judge: &mut impl Judge, random: &mut Random) {
    for i in 0..32 {
        let steps: Vec<_> = (0..1 + i % 3).map(|s| (s, random.below(150), random.rows(i) / (1 + s))).collect();
        judge.hear(&Paged::new(random, i, steps));
    }
    // Long contexts: one token, and a chunk; with and without a window.
    for i in [0, 1, 3, 6, 10, 17] {
        judge.hear(&Paged::new(random, i, vec![(0, 1300, 1), (1, 600, 40), (2, 511, 2)]));
    }
}

struct Paged {
    shape: AttentionShape,
    pool: Pool,
    /// (sequence, past, new)
    steps: Vec<(usize, usize, usize)>,
    kv: DType,
    /// In units of their scales.
    keys: Vec<f32>,
    values: Vec<f32>,
    /// Of keys and values.
    scales: [Vec<f32>; 2],
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
        let kv = KINDS[i / 2 % 4];
        let nothing = vec![f32::NAN; pool.pages * shape.nkv * pool.page_size];
        let (mut keys, mut values) = (nothing.repeat(shape.d), nothing.repeat(shape.d));
        let mut scales = [nothing.clone(), nothing];
        for (sequence, &length) in lengths.iter().enumerate() {
            for (codes, scales) in [&mut keys, &mut values].into_iter().zip(&mut scales) {
                pool.fill(random, &shape, kv, (sequence, length), codes, scales);
            }
        }
        if i % 6 == 5 && tokens > 0 {
            // A query that is not a number, and a key in another sequence.
            qkv[random.below(tokens) * width] = f32::NAN;
            keys[pool.vector(&shape, 0, 0, 0) * shape.d] = f32::NAN;
            scales[0][pool.vector(&shape, 0, 0, 0)] = f32::NAN;
        }
        let kind = i.is_multiple_of(2).then(|| Q8::ALL[i / 2 % 3]);
        Paged { shape, pool, steps, kv, keys, values, scales, qkv, kind }
    }
}

impl Pool {
    /// Number of a head's vector.
    fn vector(&self, shape: &AttentionShape, sequence: usize, position: usize, head: usize) -> usize {
        let slot = self.slot(sequence, position);
        (slot / self.page_size * shape.nkv + head) * self.page_size + slot % self.page_size
    }

    /// Gives the positions of a sequence of this length numbers that bf16 holds, or codes and scales.
    fn fill(
        &self,
        random: &mut Random,
        shape: &AttentionShape,
        kv: DType,
        (sequence, length): (usize, usize),
        to: &mut [f32],
        scales: &mut [f32],
    ) {
        let range = Q8::from_dtype(kv).map_or(2.0, Q8::activation_range);
        for position in 0..length {
            for head in 0..shape.nkv {
                let vector = self.vector(shape, sequence, position, head);
                scales[vector] = (1.0 + random.float()) / range;
                for (to, value) in to[vector * shape.d..][..shape.d].iter_mut().zip(random.floats(shape.d)) {
                    let code = (value * range * 64.0).round() / 64.0;
                    *to = Q8::from_dtype(kv).map_or(code, |kind| kind.decode(kind.encode(code)));
                }
                // Given scales have this code as well, which no vector gets on a scale of its own.
                if kv == DType::I8 && (position + head) % 3 == 0 {
                    to[vector * shape.d + position % shape.d] = -128.0;
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
        let vectors = self.shape.nkv * self.pool.page_size;
        let scales = [self.scales[0].as_slice(), &self.scales[1]];
        let kv = filled(b, self.kv, vectors, [&self.keys, &self.values], scales)?;
        let qkv = activations(b, self.shape.qkv_width(), &self.qkv)?;
        let mut out = blank(b, qkv.dtype, qkv.rows, self.shape.nq * self.shape.d)?;
        let mut outputs = Vec::new();
        if let Some(kind) = self.kind {
            let mut codes = b.alloc_q8(kind, out.rows, out.cols)?;
            b.paged_attention_quantize(&qkv, &self.shape, &batch, &kv, &mut out, &mut codes)?;
            outputs.extend(self.quantized(b, kind, codes)?);
        }
        b.paged_attention(&qkv, &self.shape, &batch, &kv, &mut out)?;
        let mut result = read(b, &mut out, Check::Equal)?;
        // Averages of magnitudes: what the terms of each sum amount to.
        let magnitudes: Vec<f32> = self.values.iter().map(|v| v.abs()).collect();
        let kv = filled(b, self.kv, vectors, [&self.keys, &magnitudes], scales)?;
        out.set_rows(qkv.rows);
        b.paged_attention(&qkv, &self.shape, &batch, &kv, &mut out)?;
        let sums = read(b, &mut out, Check::Relative)?.values;
        result.check = if self.kv == DType::F32 { Check::Sum(sums) } else { Check::NarrowSum(sums) };
        outputs.push(result);
        Ok(outputs)
    }
}

impl Paged {
    /// Codes and scales, as they are or, where rounding before may have moved both, multiplied: within a step.
    fn quantized<B: Backend>(&self, b: &B, kind: Q8, rows: Q8Rows<B>) -> Result<Vec<Output>> {
        let [mut codes, scales] = quantized(b, kind, rows)?;
        if self.kv == DType::F32 {
            return Ok(vec![codes, scales]);
        }
        for (row, scale) in codes.values.chunks_mut(codes.cols.max(1)).zip(&scales.values) {
            row.iter_mut().for_each(|code| *code *= scale);
        }
        let step = [1.0 / 127.0, 1.0 / 14.0, 1.0 / 7.0][Q8::ALL.iter().position(|&k| k == kind).unwrap_or(0)];
        Ok(vec![Output { dtype: DType::F32, check: Check::Within(step + 1.0 / 128.0), ..codes }])
    }
}
