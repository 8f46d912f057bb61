//! `clear_pages`: pages become zeros, in every tensor of the layer, and their neighbours stay.
use super::super::case::{Case, Check, Judge, Output, read};
use super::super::data::Random;
use super::{KINDS, filled};
use crate::{Backend, DType, Result};

pub(super) fn cases(judge: &mut impl Judge, random: &mut Random) {
    for i in 0..8 {
        let (pages, d) = (1 + random.below(9), [64, 7][i / 4]);
        let cleared = random.permutation(pages).into_iter().take(random.below(pages + 1)).collect();
        judge.hear(&Clear { kv: KINDS[i % 4], pages, vectors: 1 + random.below(40), d, cleared });
    }
}

struct Clear {
    kv: DType,
    pages: usize,
    /// In a page, each of width `d`.
    vectors: usize,
    d: usize,
    cleared: Vec<u32>,
}

impl Case for Clear {
    fn operation(&self) -> &'static str {
        "clear_pages"
    }

    fn describe(&self) -> String {
        let Clear { kv, pages, vectors, d, cleared } = self;
        format!("{cleared:?} of {pages} pages of {vectors} vectors of {d} {kv}")
    }

    fn run<B: Backend>(&self, b: &B) -> Result<Vec<Output>> {
        let ones = vec![1.0; self.pages * self.vectors * self.d];
        let scales = &ones[..self.pages * self.vectors];
        let mut kv = filled(b, self.kv, self.vectors, [&ones, &ones], [scales, scales])?;
        b.clear_pages(&mut kv, &self.cleared)?;
        kv.tensors_mut().map(|tensor| read(b, tensor, Check::Equal)).collect()
    }
}
