//! Choosing tokens: `kernels/sample.cu`.
use super::logits::{read_words, write_words};
use super::rows::floats;
use super::{Grid, address, params};
use crate::Cuda;
use planish_tensor::layout::require;
use planish_tensor::{Result, SampleRow, Tensor};
use std::collections::HashSet;

/// Words of the kernels' `Row`; threads of a block; tokens in a block of weights, and words that it takes in shared memory.
const ROW: usize = 18;
const THREADS: usize = 512;
const BLOCK: usize = 64;
const STRIDE: usize = BLOCK + 8;
/// Blocks of a cluster that shares a row.
const CLUSTER: usize = 8;
/// Tokens whose masses are sorted, and columns for which there is shared memory.
const ENOUGH: usize = 2048;
const WIDEST: usize = 1 << 18;

/// Whether the kernels can do this: long lists of candidates, and a token that is biased twice, are left to the host.
fn runs(row: &SampleRow, v: usize) -> bool {
    let mut biased = HashSet::new();
    let few = row.top_k <= ENOUGH || row.top_k >= v || row.top_p >= 1.0;
    few && v <= WIDEST && row.bias.iter().all(|(id, _)| biased.insert(*id))
}

pub(crate) fn sample(cuda: &Cuda, logits: &mut Tensor<Cuda>, rows: &[SampleRow]) -> Result<Option<Vec<u32>>> {
    require("sample", logits.rows == rows.len())?;
    floats("sample", &[logits])?;
    let v = logits.cols;
    if rows.is_empty() || !rows.iter().all(|row| runs(row, v)) {
        return Ok(rows.is_empty().then(Vec::new));
    }
    let words = lay_out(rows);
    let mut found = vec![0u32; rows.len()];
    // A whole number of kilobytes, so that the answers are aligned whatever the lists are.
    let room = (4 * words.len()).next_multiple_of(1024);
    let at = cuda.scratch("sampling", room + 4 * rows.len())?;
    write_words(cuda, &words, at)?;
    let out = at + room as u64;
    let blocks = v.div_ceil(BLOCK);
    let (name, members, stride) = match cuda.arch() >= 90 {
        true => ("sample_spread", CLUSTER, STRIDE),
        false => ("sample_alone", 1, 0),
    };
    // The masses of a member's blocks, and their weights.
    let shared = |blocks: usize| blocks.div_ceil(members) * (8 + 4 * stride);
    let grid = Grid::of(members * rows.len(), THREADS).with_shared(shared(blocks), shared(WIDEST / BLOCK));
    cuda.launch("sample", name, grid, params![address(logits), v, at, out])?;
    read_words(cuda, out, &mut found)?;
    Ok(Some(found))
}

/// The kernels' rows, then their lists.
fn lay_out(rows: &[SampleRow]) -> Vec<u32> {
    let mut words = vec![0; ROW * rows.len()];
    for (i, row) in rows.iter().enumerate() {
        let plain = row.repetition_penalty == 1.0 && row.frequency_penalty == 0.0 && row.presence_penalty == 0.0;
        let seen: &[(u32, u32)] = if plain { &[] } else { &row.seen };
        let lists = [
            append(&mut words, seen.len(), seen.iter().flat_map(|&(id, count)| [id, count])),
            append(&mut words, row.bias.len(), row.bias.iter().flat_map(|&(id, bias)| [id, bias.to_bits()])),
            append(&mut words, row.banned.len(), row.banned.iter().copied()),
            row.mask.as_ref().map_or([u32::MAX, 0], |mask| append(&mut words, mask.len(), mask.iter().copied())),
        ];
        let inverse = if row.temperature == 0.0 { 0.0 } else { 1.0 / row.temperature };
        let numbers = [inverse, row.top_p, row.min_p].map(f32::to_bits);
        let point = row.point.to_bits();
        let counts = [row.top_k.min(u32::MAX as usize) as u32, point as u32, (point >> 32) as u32];
        let penalties = [row.repetition_penalty, row.frequency_penalty, row.presence_penalty].map(f32::to_bits);
        let values = [numbers, counts, penalties].into_iter().flatten().chain(lists.into_iter().flatten());
        words[ROW * i..][..ROW].iter_mut().zip(values).for_each(|(to, from)| *to = from);
    }
    words
}

/// Where a list begins, and how many entries it has.
fn append(words: &mut Vec<u32>, count: usize, list: impl Iterator<Item = u32>) -> [u32; 2] {
    let at = words.len() as u32;
    words.extend(list);
    [at, count as u32]
}
