//! Choosing tokens: `kernels/sample.cu`.
use super::logits::{queue_argmax, read_words, write_words};
use super::rows::floats;
use super::{Grid, address, params};
use crate::Cuda;
use crate::ahead::MOST;
use crate::driver::Arch;
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
/// Bytes of weights in memory of their own, at most, but for one row.
const SPARE: usize = 64 << 20;
/// At least what a block has in shared memory besides (`Shared` in the kernel).
const FIXED_BYTES: usize = 20 << 10;

/// Whether the kernels can do this: long lists of candidates, and a token that is biased twice, are left to the host.
fn runs(row: &SampleRow, v: usize) -> bool {
    let mut biased = HashSet::new();
    let few = row.top_k <= ENOUGH || row.top_k >= v || row.top_p >= 1.0;
    few && v <= WIDEST && row.bias.iter().all(|(id, _)| biased.insert(*id))
}

pub(crate) fn sample(cuda: &Cuda, logits: &Tensor<Cuda>, rows: &[(u32, &SampleRow)]) -> Result<Vec<Option<u32>>> {
    require("sample", rows.iter().all(|(row, _)| (*row as usize) < logits.rows))?;
    floats("sample", &[logits])?;
    let (here, those): (Vec<usize>, Vec<(u32, &SampleRow)>) =
        rows.iter().copied().enumerate().filter(|(_, (_, row))| runs(row, logits.cols)).unzip();
    let mut found = vec![None; rows.len()];
    if here.is_empty() {
        return Ok(found);
    }
    let out = cuda.scratch("sampled tokens", 4 * here.len())?;
    queue_samples(cuda, logits, &those, out)?;
    let mut tokens = vec![0u32; here.len()];
    read_words(cuda, out, &mut tokens)?;
    here.into_iter().zip(tokens).for_each(|(i, token)| found[i] = Some(token));
    Ok(found)
}

/// See [`planish_tensor::Backend::choose_ahead`].
pub(crate) fn choose_ahead(cuda: &Cuda, logits: &Tensor<Cuda>, rules: &[&SampleRow]) -> Result<bool> {
    require("choose_ahead", rules.is_empty() || rules.len() == logits.rows)?;
    floats("choose_ahead", &[logits])?;
    if logits.rows > MOST || !rules.iter().all(|row| runs(row, logits.cols)) {
        return Ok(false);
    }
    let out = chosen(cuda)?;
    match rules {
        [] => queue_argmax(cuda, logits, out)?,
        rules => {
            let rows: Vec<(u32, &SampleRow)> = (0..).zip(rules.iter().copied()).collect();
            queue_samples(cuda, logits, &rows, out)?;
        }
    }
    cuda.ahead(|ahead| ahead.queue(out, logits.rows))?;
    Ok(true)
}

/// Where tokens lie that were chosen ahead, `[MOST]`: always there, as recorded steps read them.
pub(crate) fn chosen(cuda: &Cuda) -> Result<u64> {
    cuda.scratch("tokens chosen ahead", 4 * MOST)
}

fn queue_samples(cuda: &Cuda, logits: &Tensor<Cuda>, rows: &[(u32, &SampleRow)], out: u64) -> Result<()> {
    // Without clusters a row's weights take memory of their own.
    let at_once = if spreads(cuda) { rows.len() } else { SPARE / (4 * logits.cols) }.max(1);
    let parts = rows.chunks(at_once).zip((out..).step_by(4 * at_once));
    parts.into_iter().try_for_each(|(few, out)| sample_at_once(cuda, logits, few, out))
}

fn sample_at_once(cuda: &Cuda, logits: &Tensor<Cuda>, rows: &[(u32, &SampleRow)], out: u64) -> Result<()> {
    let v = logits.cols;
    let words = lay_out(rows);
    let at = cuda.scratch("sampling", 4 * words.len())?;
    write_words(cuda, &words, at)?;
    let blocks = v.div_ceil(BLOCK);
    let (name, members, stride, spare) = match spreads(cuda) {
        true => ("sample_spread", CLUSTER, STRIDE, 0),
        false => ("sample_alone", 1, 0, cuda.scratch("weights of tokens", 4 * rows.len() * v)?),
    };
    let shared = |blocks: usize| member_bytes(blocks, members, stride);
    let grid = Grid::of(members * rows.len(), THREADS).with_shared(shared(blocks), shared(WIDEST / BLOCK));
    cuda.launch("sample", name, grid, params![address(logits), v, at, spare, out])
}

/// Shared memory of a member of a cluster: the masses of its blocks, and their weights.
const fn member_bytes(blocks: usize, members: usize, stride: usize) -> usize {
    blocks.div_ceil(members) * (8 + 4 * stride)
}

/// Whether a row is spread over a cluster, whose blocks hold the weights of the widest vocabulary beside what every block has.
/// Chips with clusters and less memory for a block (sm_120) take the rows as older ones do.
fn spreads(cuda: &Cuda) -> bool {
    holds_widest(cuda.arch(), cuda.info().shared_bytes as usize)
}

const fn holds_widest(arch: Arch, shared_bytes: usize) -> bool {
    arch >= 90 && member_bytes(WIDEST / BLOCK, CLUSTER, STRIDE) + FIXED_BYTES <= shared_bytes
}

/// The kernels' rows, then their lists.
fn lay_out(rows: &[(u32, &SampleRow)]) -> Vec<u32> {
    let mut words = vec![0; ROW * rows.len()];
    for (i, &(number, row)) in rows.iter().enumerate() {
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
        let values =
            [numbers, counts, penalties].into_iter().flatten().chain(lists.into_iter().flatten()).chain([number]);
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_spread_where_blocks_hold_the_widest() {
        // Architecture, and KiB of shared memory that a block may have.
        for (arch, kib, spreads) in
            [(70, 96, false), (80, 163, false), (90, 227, true), (100, 227, true), (120, 99, false)]
        {
            assert_eq!(holds_widest(arch, kib << 10), spreads, "sm_{arch}");
        }
    }
}
