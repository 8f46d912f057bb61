//! Causal attention over paged keys and values. A query's result depends on its own sequence alone, to the bit:
//! keys are taken in blocks of [`KEYS`] and segments of [`SEGMENT`], both counted from key 0 of the sequence.
//! Within a segment, the softmax is carried from block to block (Milakov and Gimelshein 2018, Dao et al. 2022);
//! segments start afresh and are merged in order, so that they may be computed anywhere.
//! Scores are chains of fused multiply-adds over the head's channels, outputs over the keys, in ascending order.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod arena;
#[cfg(target_arch = "x86_64")]
mod pairs;
mod scalar;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod scratch;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod segment;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod softmax;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod split;
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod tile;

use crate::isa::Isa;
use crate::rowwise::{Q8SliceMut, Units, quantize_rows};
use crate::threads::Threads;
use crate::vector::Shared;
use half::bf16;
use planish_tensor::{AttentionShape, Batch, DType, Q8};
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
use segment::Floats;
use std::ops::Range;

/// Keys of a block.
pub(crate) const KEYS: usize = 64;
/// Keys of a segment.
pub(crate) const SEGMENT: usize = 8 * KEYS;
/// Elements of the query rows (tokens times heads of a group) that share the reading of a block, at most: what is known
/// of these rows stays in the second-level cache.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
const QUERIES: usize = 768 * 64;

/// Keys or values of one layer: pages of `[nkv, page_size, d]`.
#[derive(Clone, Copy)]
pub enum KvSlice<'a> {
    /// As computed.
    F32(&'a [f32]),
    /// Rounded to nearest even.
    Bf16(&'a [bf16]),
    /// Codes, and a scale for each token and head.
    Q8 {
        /// [`Q8::Int8`] or [`Q8::E4M3`].
        kind: Q8,
        /// Codes.
        codes: &'a [u8],
        /// Pages of `[nkv, page_size]`.
        scales: &'a [f32],
    },
}

impl KvSlice<'_> {
    /// The elements' type.
    fn kind(&self) -> DType {
        match self {
            KvSlice::F32(_) => DType::F32,
            KvSlice::Bf16(_) => DType::BF16,
            KvSlice::Q8 { kind, .. } => kind.dtype(),
        }
    }
}

/// Keys or values of one layer, writable.
pub enum KvSliceMut<'a> {
    /// As computed.
    F32(&'a mut [f32]),
    /// Rounded to nearest even.
    Bf16(&'a mut [bf16]),
    /// Codes, and a scale for each token and head.
    Q8 {
        /// [`Q8::Int8`] or [`Q8::E4M3`], and the scale of all vectors if it is given.
        units: Units,
        /// Codes.
        codes: &'a mut [u8],
        /// Pages of `[nkv, page_size]`.
        scales: &'a mut [f32],
    },
}

impl KvSliceMut<'_> {
    /// For reading.
    pub fn as_ref(&self) -> KvSlice<'_> {
        match self {
            KvSliceMut::F32(s) => KvSlice::F32(s),
            KvSliceMut::Bf16(s) => KvSlice::Bf16(s),
            KvSliceMut::Q8 { units, codes, scales } => KvSlice::Q8 { kind: units.kind, codes, scales },
        }
    }
}

/// The operands of one call.
#[derive(Clone, Copy)]
pub struct Operands<'a> {
    /// `[t, (nq + 2 nkv) d]`, of which the q part is read.
    pub qkv: &'a [f32],
    /// Sizes and rules.
    pub shape: &'a AttentionShape,
    /// The step.
    pub batch: &'a Batch,
    /// The layer's keys.
    pub k: KvSlice<'a>,
    /// The layer's values, stored as the keys are.
    pub v: KvSlice<'a>,
}

impl Operands<'_> {
    /// Whether every sequence has rows of its own.
    fn rows_are_apart(&self) -> bool {
        let starts = &self.batch.query_starts;
        starts.len() == self.batch.sequences() + 1
            && starts.is_sorted()
            && starts.last().is_some_and(|&end| end as usize <= self.batch.t())
    }

    /// Query heads that share a key head.
    fn group(&self) -> usize {
        self.shape.nq / self.shape.nkv
    }

    /// Keys that the token in row `token` of sequence `seq` sees.
    fn visible(&self, seq: usize, token: usize) -> Range<usize> {
        let end = (self.batch.positions[token] as usize + 1).min(self.batch.kv_lens[seq] as usize);
        let start = self.shape.window.map_or(0, |w| end.saturating_sub(w.max(1) as usize));
        start..end
    }

    /// Number of a key (and value) in its layer: `d` elements and one scale each.
    fn vector(&self, seq: usize, head: usize, key: usize) -> usize {
        let (b, page_size) = (self.batch, self.batch.page_size);
        let page = b.page_tables[seq * b.pages_per_seq + key / page_size] as usize;
        (page * self.shape.nkv + head) * page_size + key % page_size
    }

    /// The q part of one head of one token.
    fn query(&self, token: usize, head: usize) -> &[f32] {
        &self.qkv[token * self.shape.qkv_width() + head * self.shape.d..][..self.shape.d]
    }
}

/// Where a call's outputs go once more, quantized by token.
pub struct Quantized<'a> {
    units: Units,
    codes: Shared<u8>,
    xs: Shared<f32>,
    /// A pool of one: rows are quantized by the thread that finishes them.
    alone: &'a Threads,
}

impl Quantized<'_> {
    /// Quantizes rows `tokens`, which are `x`, of this width.
    ///
    /// # Safety
    /// Nobody else writes these rows, and there are such.
    unsafe fn rows(&self, isa: Isa, tokens: Range<usize>, x: &[f32], width: usize) {
        // SAFETY: the caller's contract.
        let out = unsafe {
            Q8SliceMut {
                codes: std::slice::from_raw_parts_mut(self.codes.at(tokens.start * width), x.len()),
                xs: std::slice::from_raw_parts_mut(self.xs.at(tokens.start), tokens.len()),
            }
        };
        quantize_rows(self.alone, isa, self.units, x, width, out);
    }
}

/// The memory that calls of attention use again and again.
pub struct Attention {
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    arena: arena::Arena,
    alone: Threads,
}

impl Default for Attention {
    fn default() -> Self {
        Attention {
            #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
            arena: arena::Arena::default(),
            alone: Threads::new(1),
        }
    }
}

impl Attention {
    /// Attends with the q part of `qkv` to the pages of each sequence: `out` `[t, nq d]`.
    /// The new tokens' k and v must be in the pages already; the batch must be valid for them.
    pub fn attend(&self, threads: &Threads, isa: Isa, operands: Operands<'_>, out: &mut [f32]) {
        self.run(threads, isa, operands, out, None);
    }

    /// As [`Attention::attend`], with the rows of `out` quantized into `codes` as soon as they are complete.
    pub fn attend_quantize(
        &self,
        threads: &Threads,
        isa: Isa,
        operands: Operands<'_>,
        out: &mut [f32],
        units: impl Into<Units>,
        to: Q8SliceMut<'_>,
    ) {
        let fits = to.codes.len() == out.len() && to.xs.len() == operands.batch.t();
        assert!(fits, "paged_attention: codes are [t, nq d], their scales [t]");
        let (codes, xs) = (Shared(to.codes.as_mut_ptr()), Shared(to.xs.as_mut_ptr()));
        self.run(threads, isa, operands, out, Some(Quantized { units: units.into(), codes, xs, alone: &self.alone }));
    }

    fn run(&self, threads: &Threads, isa: Isa, o: Operands<'_>, out: &mut [f32], quantized: Option<Quantized<'_>>) {
        let t = o.batch.t();
        assert_eq!(o.qkv.len(), t * o.shape.qkv_width(), "paged_attention: qkv is [t, (nq + 2 nkv) d]");
        assert_eq!(out.len(), t * o.shape.nq * o.shape.d, "paged_attention: out is [t, nq d]");
        // Kernels read values as they read keys, and write a sequence's rows without asking whose they are.
        assert_eq!(o.k.kind(), o.v.kind(), "paged_attention: values are stored as the keys are");
        assert!(o.rows_are_apart(), "paged_attention: query_starts ascend, one for each sequence and an end");
        assert!(isa.runs_here(), "this machine has no {}", isa.name());
        #[cfg(target_arch = "aarch64")]
        if isa != Isa::Scalar {
            use crate::vector::Neon;
            // SAFETY: the family runs here, as asserted, and the sizes are checked.
            return unsafe { split::run::<Floats<Neon>>(threads, isa, o, &self.arena, out, quantized) };
        }
        #[cfg(target_arch = "x86_64")]
        {
            use crate::vector::{Avx2, Avx512};
            let (arena, narrow) = (&self.arena, !matches!((o.k, o.v), (KvSlice::F32(_), _) | (_, KvSlice::F32(_))));
            // SAFETY: the family runs here, as asserted, and the sizes are checked.
            unsafe {
                match isa {
                    _ if narrow && isa.has_fast_bf16_dots() => {
                        return split::run::<pairs::Pairs>(threads, isa, o, arena, out, quantized);
                    }
                    Isa::Scalar | Isa::Neon | Isa::NeonI8mm => {}
                    Isa::Avx2 | Isa::AvxVnni => {
                        return split::run::<Floats<Avx2>>(threads, isa, o, arena, out, quantized);
                    }
                    _ => return split::run::<Floats<Avx512>>(threads, isa, o, arena, out, quantized),
                }
            }
        }
        scalar::run(threads, o, out);
        if let Some(to) = quantized {
            // SAFETY: all rows, of which there are as many.
            unsafe { to.rows(isa, 0..t, out, o.shape.nq * o.shape.d) };
        }
    }
}

#[cfg(test)]
mod tests;
