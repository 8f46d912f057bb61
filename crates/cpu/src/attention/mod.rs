//! Causal attention over paged keys and values. A query's result depends on its own sequence alone, to the bit:
//! keys are taken in blocks of [`KEYS`] and segments of [`SEGMENT`], both counted from key 0 of the sequence.
//! Within a segment, the softmax is carried from block to block (Milakov and Gimelshein 2018, Dao et al. 2022);
//! segments start afresh and are merged in order, so that they may be computed anywhere.
//! Scores are chains of fused multiply-adds over the head's channels, outputs over the keys, in ascending order.
mod scalar;
#[cfg(target_arch = "x86_64")]
mod scratch;
#[cfg(target_arch = "x86_64")]
mod segment;
#[cfg(target_arch = "x86_64")]
mod softmax;
#[cfg(target_arch = "x86_64")]
mod tile;

pub use scalar::paged_attention_scalar;

use crate::isa::Isa;
use crate::threads::Threads;
use half::bf16;
use planish_tensor::{Batch, backend::AttentionShape};
use std::ops::Range;

/// Keys of a block.
pub(crate) const KEYS: usize = 64;
/// Keys of a segment.
pub(crate) const SEGMENT: usize = 8 * KEYS;
/// Query rows (tokens times heads of a group) that share the reading of a block.
#[cfg(target_arch = "x86_64")]
const QUERY_ROWS: usize = 192;

/// Keys or values of one layer: pages of `[nkv, page_size, d]`.
#[derive(Clone, Copy)]
pub enum KvSlice<'a> {
    /// As computed.
    F32(&'a [f32]),
    /// Rounded to nearest even.
    Bf16(&'a [bf16]),
}

/// Keys or values of one layer, writable.
pub enum KvSliceMut<'a> {
    /// As computed.
    F32(&'a mut [f32]),
    /// Rounded to nearest even.
    Bf16(&'a mut [bf16]),
}

impl KvSliceMut<'_> {
    /// For reading.
    pub fn as_ref(&self) -> KvSlice<'_> {
        match self {
            KvSliceMut::F32(s) => KvSlice::F32(s),
            KvSliceMut::Bf16(s) => KvSlice::Bf16(s),
        }
    }
}

/// The operands of one call.
#[derive(Clone, Copy)]
pub(crate) struct Operands<'a> {
    pub qkv: &'a [f32],
    pub shape: &'a AttentionShape,
    pub batch: &'a Batch,
    pub k: KvSlice<'a>,
    pub v: KvSlice<'a>,
}

impl Operands<'_> {
    /// Query heads that share a key head.
    pub fn group(&self) -> usize {
        self.shape.nq / self.shape.nkv
    }

    /// Keys that the token in row `token` of sequence `seq` sees.
    pub fn visible(&self, seq: usize, token: usize) -> Range<usize> {
        let end = (self.batch.positions[token] as usize + 1).min(self.batch.kv_lens[seq] as usize);
        let start = self.shape.window.map_or(0, |w| end.saturating_sub(w.max(1) as usize));
        start..end
    }

    /// Offset of a key (and value) in its layer.
    pub fn key_offset(&self, seq: usize, head: usize, key: usize) -> usize {
        let (b, page_size) = (self.batch, self.batch.page_size);
        let page = b.page_tables[seq * b.pages_per_seq + key / page_size] as usize;
        ((page * self.shape.nkv + head) * page_size + key % page_size) * self.shape.d
    }

    /// The q part of one head of one token.
    pub fn query(&self, token: usize, head: usize) -> &[f32] {
        &self.qkv[token * self.shape.qkv_width() + head * self.shape.d..][..self.shape.d]
    }
}

/// Attends with the q part of `qkv` `[t, (nq + 2 nkv) d]` to the pages of each sequence: `out` `[t, nq d]`.
/// The new tokens' k and v must be in the pages already; `batch` must be valid for them.
pub fn paged_attention(
    threads: &Threads,
    isa: Isa,
    qkv: &[f32],
    shape: &AttentionShape,
    batch: &Batch,
    k: KvSlice<'_>,
    v: KvSlice<'_>,
    out: &mut [f32],
) {
    let t = batch.t();
    assert_eq!(qkv.len(), t * shape.qkv_width(), "paged_attention: qkv is [t, (nq + 2 nkv) d]");
    assert_eq!(out.len(), t * shape.nq * shape.d, "paged_attention: out is [t, nq d]");
    assert!(isa.runs_here(), "this machine has no {}", isa.name());
    let operands = Operands { qkv, shape, batch, k, v };
    #[cfg(target_arch = "x86_64")]
    {
        use crate::vector::{Avx2, Avx512};
        // SAFETY: the family runs here, as asserted.
        unsafe {
            match isa {
                Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => return segment::run::<Avx512>(threads, operands, out),
                Isa::Avx2 | Isa::AvxVnni => return segment::run::<Avx2>(threads, operands, out),
                Isa::Scalar | Isa::Neon => {}
            }
        }
    }
    let _ = isa;
    scalar::run(threads, operands, out);
}

#[cfg(test)]
mod tests;
