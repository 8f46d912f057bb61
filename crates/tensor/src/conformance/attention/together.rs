//! `rope_attention_quantize`: the codes that rotation and attention give one after the other, to the bit.
use super::super::case::{Case, Check, Judge, Output, activations, blank};
use super::super::data::Random;
use super::super::fused::quantized;
use super::{KINDS, Pool, Rotation, shape};
use crate::{Attended, AttentionShape, Backend, DType, KvLayer, Q8, Result, RopeTable};

pub(super) fn cases(judge: &mut impl Judge, random: &mut Random) {
    for i in 0..24 {
        judge.hear(&Together::new(random, i));
    }
}

/// Positions that have angles.
const POSITIONS: usize = 400;

struct Together {
    shape: AttentionShape,
    pool: Pool,
    /// Steps of (sequence, past, new): prompts, then the next of some beside one token of others.
    steps: [Vec<(usize, usize, usize)>; 2],
    /// Of each step.
    qkv: [Vec<f32>; 2],
    kv: DType,
    kind: Q8,
    rope: Option<Rotation>,
}

impl Together {
    fn new(random: &mut Random, i: usize) -> Together {
        let shape = shape(random, i);
        let prompts: Vec<_> = (0..1 + i % 3).map(|s| (s, 0, 1 + random.below(170))).collect();
        let more: Vec<_> = prompts.iter().map(|&(s, _, n)| (s, n, if s % 2 == 0 { 40 } else { 1 })).collect();
        let lengths: Vec<usize> = more.iter().map(|(_, past, new)| past + new).collect();
        let steps = [prompts, more];
        let width = shape.qkv_width();
        let qkv = steps.each_ref().map(|step| random.activations(step.iter().map(|s| s.2).sum(), width));
        let rope = (i % 4 != 3).then(|| {
            let half = (shape.d / [2, 4][i / 4 % 2]).max(1);
            Rotation::new(random, POSITIONS, half, i.is_multiple_of(2))
        });
        let pool = Pool::new(random, &lengths, [16, 32, 64][i % 3]);
        Together { shape, pool, steps, qkv, kv: KINDS[(i + i / 4) % 4], kind: Q8::ALL[i % 3], rope }
    }

    /// Runs a step by one operation or by two.
    fn step<B: Backend>(
        &self,
        b: &B,
        step: usize,
        rope: Option<&RopeTable<B>>,
        kv: &mut KvLayer<B>,
        together: bool,
    ) -> Result<[Output; 2]> {
        let shape = &self.shape;
        let batch = b.upload_batch(&self.pool.batch(&self.steps[step]), self.pool.pages)?;
        let mut qkv = activations(b, shape.qkv_width(), &self.qkv[step])?;
        let mut scratch = blank(b, qkv.dtype, qkv.rows, shape.nq * shape.d)?;
        let mut codes = b.alloc_q8(self.kind, scratch.rows, scratch.cols)?;
        if together {
            let to = Attended { scratch: &mut scratch, out: &mut codes };
            b.rope_attention_quantize(&mut qkv, rope, shape, &batch, kv, to)?;
        } else {
            b.rope_store_kv(&mut qkv, rope, shape, &batch, kv)?;
            b.paged_attention_quantize(&qkv, shape, &batch, kv, &mut scratch, &mut codes)?;
        }
        quantized(b, self.kind, codes)
    }
}

impl Case for Together {
    fn operation(&self) -> &'static str {
        "rope_attention_quantize"
    }

    fn describe(&self) -> String {
        let rope = &self.rope;
        let (shape, kv, steps) = (&self.shape, self.kv, &self.steps);
        format!("{shape:?} over {kv}, (sequence, past, new) {steps:?}, {rope:?}, to {:?}", self.kind)
    }

    fn run<B: Backend>(&self, b: &B) -> Result<Vec<Output>> {
        let rope = self.rope.as_ref().map(|rotation| rotation.table(b)).transpose()?;
        let mut layers = [self.pool.layer(b, &self.shape, self.kv)?, self.pool.layer(b, &self.shape, self.kv)?];
        let mut different = 0;
        for step in 0..self.steps.len() {
            let one = self.step(b, step, rope.as_ref(), &mut layers[0], true)?;
            let two = self.step(b, step, rope.as_ref(), &mut layers[1], false)?;
            let pairs = one.iter().zip(&two).flat_map(|(a, b)| a.values.iter().zip(&b.values));
            different += pairs.filter(|(a, b)| a.to_bits() != b.to_bits()).count();
        }
        Ok(vec![Output { cols: 1, dtype: DType::F32, values: vec![different as f32], check: Check::Equal }])
    }
}
