//! Rope, the storing of keys and values, and attention over shuffled pages that hold NaN where nothing was stored.
mod chunks;
mod clear;
mod paged;
mod projected;
mod store;
mod together;

use super::case::{Judge, encode, put};
use super::data::Random;
use crate::{AttentionShape, Backend, Batch, DType, KvLayer, Result, RopeTable};
use std::fmt;

pub(super) fn cases(judge: &mut impl Judge, random: &mut Random) {
    store::cases(judge, random);
    clear::cases(judge, random);
    paged::cases(judge, random);
    chunks::cases(judge, random);
    together::cases(judge, random);
    projected::cases(judge, random);
}

/// Element types of caches.
const KINDS: [DType; 4] = [DType::F32, DType::BF16, DType::I8, DType::F8E4M3];

/// A layer with these keys and values (in units of their scales) and, if it keeps any, these scales; its pages have
/// room for `vectors`.
fn filled<B: Backend>(
    b: &B,
    dtype: DType,
    vectors: usize,
    [k, v]: [&[f32]; 2],
    scales: [&[f32]; 2],
) -> Result<KvLayer<B>> {
    let pages = scales[0].len() / vectors;
    let mut kv = KvLayer::new(b, dtype, pages, vectors, k.len() / scales[0].len())?;
    for (tensor, values) in kv.tensors_mut().zip([k, v].into_iter().chain(scales)) {
        b.upload(&encode(tensor.dtype, values)?, tensor)?;
    }
    Ok(kv)
}

/// Heads, head width, and every rule in turn.
fn shape(random: &mut Random, i: usize) -> AttentionShape {
    const HEADS: [(usize, usize); 5] = [(4, 2), (1, 1), (9, 3), (8, 1), (3, 3)];
    const WIDTHS: [usize; 6] = [64, 128, 16, 80, 36, 7];
    // Shifted each time round, so that every width meets every rule.
    let ((nq, nkv), d) = (HEADS[i % HEADS.len()], WIDTHS[(i + i / WIDTHS.len()) % WIDTHS.len()]);
    let window = (i % 3 == 1).then(|| 1 + random.below(90) as u32);
    let softcap = (i % 4 == 3).then_some([5.0, 30.0][i / 4 % 2]);
    AttentionShape { nq, nkv, d, scale: 1.0 / (d as f32).sqrt(), window, softcap }
}

/// Angles of some positions.
struct Rotation {
    /// `[positions, 2 half]`: cosines, then sines.
    cos_sin: Vec<f32>,
    half: usize,
    interleaved: bool,
}

impl Rotation {
    fn new(random: &mut Random, positions: usize, half: usize, interleaved: bool) -> Rotation {
        let angles: Vec<f32> = random.floats(positions * half).into_iter().map(|a| a * 7.0).collect();
        let row = |row: &[f32]| row.iter().map(|a| a.cos()).chain(row.iter().map(|a| a.sin())).collect::<Vec<_>>();
        Rotation { cos_sin: angles.chunks(half).flat_map(row).collect(), half, interleaved }
    }

    fn table<B: Backend>(&self, b: &B) -> Result<RopeTable<B>> {
        let cos_sin = put(b, DType::F32, 2 * self.half, &self.cos_sin)?;
        Ok(RopeTable { cos_sin, half: self.half, interleaved: self.interleaved })
    }
}

/// What is turned by them; the numbers themselves would be too many.
impl fmt::Debug for Rotation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "half {}, interleaved {}", self.half, self.interleaved)
    }
}

/// Where sequences are: a pool of pages and, for each sequence, some of them in no order.
#[derive(Clone)]
struct Pool {
    page_size: usize,
    pages: usize,
    tables: Vec<Vec<u32>>,
}

impl Pool {
    /// Room for sequences of these lengths, and a few pages more.
    fn new(random: &mut Random, lengths: &[usize], page_size: usize) -> Pool {
        let needed: Vec<usize> = lengths.iter().map(|n| n.div_ceil(page_size)).collect();
        let pages = needed.iter().sum::<usize>() + 1 + random.below(3);
        let mut shuffled = random.permutation(pages).into_iter();
        let tables = needed.iter().map(|&n| shuffled.by_ref().take(n).collect()).collect();
        Pool { page_size, pages, tables }
    }

    fn slot(&self, sequence: usize, position: usize) -> usize {
        self.tables[sequence][position / self.page_size] as usize * self.page_size + position % self.page_size
    }

    /// A step that adds positions `past..past + new` of each of some sequences, given as (sequence, past, new).
    fn batch(&self, steps: &[(usize, usize, usize)]) -> Batch {
        let pages_per_seq = self.tables.iter().map(Vec::len).max().unwrap_or(0);
        let page_size = self.page_size;
        let mut batch = Batch { pages_per_seq, page_size, query_starts: vec![0], ..Batch::default() };
        for &(sequence, past, new) in steps {
            for position in past..past + new {
                batch.tokens.push(0);
                batch.positions.push(position as u32);
                batch.slots.push(self.slot(sequence, position) as u32);
            }
            batch.query_starts.push(batch.positions.len() as u32);
            batch.kv_lens.push((past + new) as u32);
            let table = &self.tables[sequence];
            // Entries past a sequence's length mean nothing.
            batch.page_tables.extend((0..pages_per_seq).map(|i| table.get(i).copied().unwrap_or(u32::MAX)));
        }
        batch
    }

    /// An empty layer: nothing in it is a number.
    fn layer<B: Backend>(&self, b: &B, shape: &AttentionShape, dtype: DType) -> Result<KvLayer<B>> {
        let vectors = shape.nkv * self.page_size;
        let nothing = vec![f32::NAN; self.pages * vectors * shape.d];
        filled(b, dtype, vectors, [&nothing, &nothing], [&nothing, &nothing].map(|n| &n[..self.pages * vectors]))
    }
}
