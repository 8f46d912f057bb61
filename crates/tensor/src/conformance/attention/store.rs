//! `rope_store_kv`: rotated q and k, and the whole pool.
use super::super::case::{Case, Check, Judge, Output, activations, read};
use super::super::data::Random;
use super::{KINDS, Pool, Rotation, shape};
use crate::{AttentionShape, Backend, DType, Q8, Result};

pub(super) fn cases(judge: &mut impl Judge, random: &mut Random) {
    for i in 0..24 {
        judge.hear(&Store::new(random, i));
    }
}

/// Positions that have angles.
const POSITIONS: usize = 300;

struct Store {
    shape: AttentionShape,
    pool: Pool,
    /// (sequence, past, new)
    steps: Vec<(usize, usize, usize)>,
    kv: DType,
    /// Scales of keys and values that are given.
    fixed: Option<[f32; 2]>,
    rope: Option<Rotation>,
    qkv: Vec<f32>,
}

impl Store {
    fn new(random: &mut Random, i: usize) -> Store {
        let shape = shape(random, i);
        let steps: Vec<_> = (0..1 + i % 3).map(|s| (s, random.below(100), random.rows(i))).collect();
        let lengths: Vec<usize> = steps.iter().map(|(_, past, new)| past + new).collect();
        let tokens: usize = steps.iter().map(|s| s.2).sum();
        let rope = (i % 3 != 2).then(|| {
            // All of a head, or a part of it.
            let half = (shape.d / [2, 4][i / 3 % 2]).max(1);
            Rotation::new(random, POSITIONS, half, (i / 2).is_multiple_of(2))
        });
        Store {
            pool: Pool::new(random, &lengths, [16, 8, 32][i % 3]),
            kv: KINDS[(i + i / 4) % 4],
            fixed: (i % 5 == 3).then_some([0.5, 0.002]),
            qkv: random.activations(tokens, shape.qkv_width()),
            shape,
            steps,
            rope,
        }
    }
}

impl Case for Store {
    fn operation(&self) -> &'static str {
        "rope_store_kv"
    }

    fn describe(&self) -> String {
        let rope = &self.rope;
        format!("{:?} to {}, (sequence, past, new) {:?}, {rope:?}", self.shape, self.kv, self.steps)
    }

    fn run<B: Backend>(&self, b: &B) -> Result<Vec<Output>> {
        let batch = b.upload_batch(&self.pool.batch(&self.steps), self.pool.pages)?;
        let mut kv = self.pool.layer(b, &self.shape, self.kv)?;
        kv.fixed = self.fixed;
        let mut qkv = activations(b, self.shape.qkv_width(), &self.qkv)?;
        let rope = self.rope.as_ref().map(|rotation| rotation.table(b)).transpose()?;
        b.rope_store_kv(&mut qkv, rope.as_ref(), &self.shape, &batch, &mut kv)?;
        let (rotated, stored) = match (&self.rope, self.kv) {
            (None, _) => (Check::Equal, Check::Equal),
            (Some(_), DType::BF16) => (Check::Relative, Check::RelativeBf16),
            (Some(_), dtype) => (Check::Relative, Q8::from_dtype(dtype).map_or(Check::Relative, Check::Codes)),
        };
        let scales = if self.rope.is_some() { Check::Relative } else { Check::Equal };
        let checks = [stored, Check::Equal, scales, Check::Equal];
        let stored = kv.tensors_mut().zip(checks).map(|(tensor, check)| read(b, tensor, check));
        stored.chain([read(b, &mut qkv, rotated)]).collect()
    }
}
