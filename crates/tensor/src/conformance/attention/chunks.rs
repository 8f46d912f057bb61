//! A token's result does not depend on how its sequence was cut into steps, nor on its company: to the bit.
use super::super::case::{Case, Check, Judge, Output, activations, blank, read};
use super::super::data::Random;
use super::{KINDS, Pool, shape};
use crate::{AttentionShape, Backend, DType, KvLayer, Result};

pub(super) fn cases(judge: &mut impl Judge, random: &mut Random) {
    for i in 0..16 {
        let lengths: Vec<usize> = (0..2 + i % 2).map(|_| 1 + random.below(130)).collect();
        judge.hear(&Chunks::new(random, i, lengths));
    }
    for i in 0..4 {
        judge.hear(&Chunks::new(random, i, vec![580, 60]));
    }
    for i in 0..8 {
        judge.hear(&Chunks::decoding(random, i, vec![75, 140]));
    }
}

struct Chunks {
    shape: AttentionShape,
    kv: DType,
    /// For whole sequences, and for those in chunks.
    pools: [Pool; 2],
    /// Of each sequence, `[length, width]`.
    qkv: Vec<Vec<f32>>,
    /// Steps of (sequence, past, new).
    steps: Vec<Vec<(usize, usize, usize)>>,
}

impl Chunks {
    /// A prompt each, then token by token, together.
    fn decoding(random: &mut Random, i: usize, lengths: Vec<usize>) -> Chunks {
        let shortest = lengths.iter().min().copied().unwrap_or(1);
        let prompts: Vec<_> = lengths.iter().enumerate().map(|(s, n)| (s, 0, n - shortest / 2)).collect();
        let token = |t: usize| prompts.iter().map(|&(s, _, past)| (s, past + t, 1)).collect();
        let steps = std::iter::once(prompts.clone()).chain((0..shortest / 2).map(token)).collect();
        Chunks { steps, ..Chunks::new(random, i, lengths) }
    }

    fn new(random: &mut Random, i: usize, lengths: Vec<usize>) -> Chunks {
        let shape = shape(random, i);
        let pools = [16, [16, 32, 8][i % 3]].map(|page_size| Pool::new(random, &lengths, page_size));
        // Magnitudes: averages of values of both signs would be small, and their errors large beside them.
        let mut rows = |n: &usize| random.floats(n * shape.qkv_width()).iter().map(|v| rounded(v.abs())).collect();
        let qkv = lengths.iter().map(&mut rows).collect();
        let (mut steps, mut done) = (Vec::new(), vec![0; lengths.len()]);
        while done != lengths {
            let mut step = Vec::new();
            for (s, past) in done.iter_mut().enumerate() {
                let left = lengths[s] - *past;
                let new = [1, 1 + random.below(17), 1 + random.below(90)][random.below(3)].min(left);
                if new > 0 && random.below(4) > 0 {
                    step.push((s, *past, new));
                    *past += new;
                }
            }
            if !step.is_empty() {
                steps.push(step);
            }
        }
        Chunks { shape, kv: KINDS[i % 4], pools, qkv, steps }
    }

    /// Runs one step; the results of its tokens, and one row more.
    fn step<B: Backend>(
        &self,
        b: &B,
        pool: &Pool,
        kv: &mut KvLayer<B>,
        step: &[(usize, usize, usize)],
    ) -> Result<Output> {
        let width = self.shape.qkv_width();
        let batch = b.upload_batch(&pool.batch(step), pool.pages)?;
        let rows = step.iter().flat_map(|&(s, past, new)| &self.qkv[s][past * width..(past + new) * width]);
        let mut qkv = activations(b, width, &rows.copied().collect::<Vec<f32>>())?;
        let mut out = blank(b, qkv.dtype, qkv.rows, self.shape.nq * self.shape.d)?;
        b.rope_store_kv(&mut qkv, None, &self.shape, &batch, kv)?;
        b.paged_attention(&qkv, &self.shape, &batch, kv, &mut out)?;
        read(b, &mut out, if self.kv == DType::F32 { Check::Relative } else { Check::Narrow })
    }
}

/// A number that bf16 holds.
fn rounded(value: f32) -> f32 {
    (value * 128.0).round() / 64.0
}

impl Case for Chunks {
    fn operation(&self) -> &'static str {
        "attention in chunks"
    }

    fn describe(&self) -> String {
        format!("{:?} over {}, steps of (sequence, past, new) {:?}", self.shape, self.kv, self.steps)
    }

    fn run<B: Backend>(&self, b: &B) -> Result<Vec<Output>> {
        let (cols, width) = (self.shape.nq * self.shape.d, self.shape.qkv_width());
        let mut kv = self.pools[0].layer(b, &self.shape, self.kv)?;
        let mut whole = Vec::new();
        for (s, qkv) in self.qkv.iter().enumerate() {
            whole.push(self.step(b, &self.pools[0], &mut kv, &[(s, 0, qkv.len() / width)])?);
        }
        let mut kv = self.pools[1].layer(b, &self.shape, self.kv)?;
        let mut different = 0;
        for step in &self.steps {
            let part = self.step(b, &self.pools[1], &mut kv, step)?;
            let mut rows = part.values.chunks(cols);
            for &(s, past, new) in step {
                let wanted = whole[s].values.chunks(cols).skip(past).take(new);
                let pairs = wanted.flatten().zip(rows.by_ref().take(new).flatten());
                different += pairs.filter(|(a, b)| a.to_bits() != b.to_bits()).count();
            }
        }
        whole.push(Output { cols: 1, dtype: DType::F32, values: vec![different as f32], check: Check::Equal });
        Ok(whole)
    }
}
