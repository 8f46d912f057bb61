//! `rope_store_kv`: q and k rotated in place, k and v stored; a warp takes one or a few heads of a token, or some at once whose
//! pairs its lanes have. The same with q in 16 bits for attention. `clear_pages`. Arguments of every kernel: [`Heads::params`].
use super::attention::kv_type;
use super::{Grid, Param, address, params};
use crate::{Cuda, DeviceBatch};
use planish_tensor::layout::require;
use planish_tensor::{AttentionShape, DType, Error, KvLayer, Result, RopeTable, Tensor};

/// Warps of a block.
const WARPS: usize = 4;
/// Heads that a warp takes where there are tokens enough to fill the device: fewer blocks are started.
const HEADS: usize = 4;
/// Tokens from which on that is so.
const MANY: usize = 1024;
/// Channels of q, k and v that a warp takes at a time where its lanes have pairs, and times that one of many tokens has.
const CHANNELS: usize = 256;
const TURNS: usize = 3;
/// Tokens from which on products store heads themselves; and up to which, over a cache of codes.
const PRODUCT_FROM: usize = 256;
const PRODUCT_TO: usize = 8192;
/// Whether the product of so many tokens stores heads sooner than a kernel after it: not a few, and not so many that a prompt
/// over codes draws all the power there is, where what a product does besides multiplying costs most. But only the kernel that
/// has pairs is as quick as that.
const fn product_stores(tokens: usize, codes: bool, pairs: bool) -> bool {
    tokens >= PRODUCT_FROM && !(codes && pairs && tokens > PRODUCT_TO)
}

/// The widest head.
const WIDEST: usize = 256;

/// Where keys, values and perhaps queries go.
pub(crate) struct Stored<'a> {
    pub(crate) kv: &'a mut KvLayer<Cuda>,
    /// `[t, nq d]` for rotated queries in 16 bits: `qkv` then stays as it is. Or 0.
    pub(crate) queries: u64,
}

pub(crate) fn rope_store_kv(
    cuda: &Cuda,
    qkv: &mut Tensor<Cuda>,
    rope: Option<&RopeTable<Cuda>>,
    shape: &AttentionShape,
    batch: &DeviceBatch,
    kv: &mut KvLayer<Cuda>,
) -> Result<()> {
    turn(cuda, qkv, rope, shape, batch, Stored { kv, queries: 0 })
}

/// What becomes of the heads of q, k and v: `HeadArguments` of `rope_head.cuh`.
pub(crate) struct Heads<'a> {
    /// `[t, (nq + 2 nkv) d]`.
    pub(super) qkv: &'a Tensor<Cuda>,
    /// `[t, nq d]` for rotated queries in 16 bits, which then are not written to `qkv`; or 0.
    queries: u64,
    /// Angles, half, interleaved.
    rope: Option<(u64, usize, bool)>,
    shape: &'a AttentionShape,
    batch: &'a DeviceBatch,
    /// Keys, values, and their scales.
    cache: [u64; 4],
    kv_type: i32,
    /// Scales of keys and of values; 0: each head has one of its own.
    fixed: [f32; 2],
}

impl<'a> Heads<'a> {
    /// Fails where the sizes or types do not fit together.
    pub(super) fn new(
        qkv: &'a Tensor<Cuda>,
        rope: Option<&RopeTable<Cuda>>,
        shape: &'a AttentionShape,
        batch: &'a DeviceBatch,
        Stored { kv, queries }: Stored<'_>,
    ) -> Result<Heads<'a>> {
        let d = shape.d;
        let turns =
            rope.is_none_or(|r| 2 * r.half <= d && r.cos_sin.cols == 2 * r.half && r.cos_sin.dtype == DType::F32);
        require("rope_store_kv", qkv.cols == shape.qkv_width() && qkv.rows == batch.t && turns)?;
        if qkv.dtype != DType::F32 || kv.k.dtype != kv.v.dtype {
            return Err(Error::dtype("rope_store_kv: q, k and v are F32, keys and values are stored alike"));
        }
        let scales = |t: &Option<Tensor<Cuda>>| t.as_ref().map_or(0, address);
        Ok(Heads {
            qkv,
            queries,
            rope: rope.map(|r| (address(&r.cos_sin), r.half, r.interleaved)),
            shape,
            batch,
            cache: [address(&kv.k), address(&kv.v), scales(&kv.k_scales), scales(&kv.v_scales)],
            kv_type: kv_type(kv.k.dtype)?,
            fixed: kv.fixed.unwrap_or_default(),
        })
    }

    /// Whether lanes take four channels each: all that they read is in fours.
    fn in_fours(&self) -> bool {
        let (_, half, interleaved) = self.angles();
        self.shape.d.is_multiple_of(4) && (interleaved || half.is_multiple_of(4))
    }

    /// Whether a product may rotate and store them: 128 rows of its weight are whole heads of one role, which rotate whole, in
    /// pairs `(i, i + d / 2)`.
    pub(super) fn fill_rows(&self) -> bool {
        let AttentionShape { nq, nkv, d, .. } = *self.shape;
        matches!(d, 64 | 128) && self.rotate_whole() && (nq * d).is_multiple_of(128) && (nkv * d).is_multiple_of(128)
    }

    /// Whether their product stores them sooner than a kernel after it.
    pub(super) fn suit_product(&self) -> bool {
        // INT8 and E4M3 of `KvType`.
        product_stores(self.batch.t, matches!(self.kv_type, 2 | 3), self.are_pairs())
    }

    /// Columns of `qkv`.
    pub(super) fn width(&self) -> usize {
        self.shape.qkv_width()
    }

    /// Tokens of the batch.
    pub(super) fn tokens(&self) -> usize {
        self.batch.t
    }

    fn angles(&self) -> (u64, usize, bool) {
        self.rope.unwrap_or((0, 0, false))
    }

    /// In the order of `HeadArguments`.
    pub(super) fn params(&self) -> [Param<'_>; 18] {
        let (angles, half, interleaved) = self.angles();
        let ([k, v, k_scales, v_scales], [k_fixed, v_fixed]) = (self.cache, self.fixed);
        *params![
            address(self.qkv),
            self.queries,
            angles,
            self.batch.header(),
            self.batch.positions(),
            self.batch.slots(),
            k,
            v,
            k_scales,
            v_scales,
            self.shape.nq,
            self.shape.nkv,
            self.shape.d,
            half,
            i32::from(interleaved),
            self.kv_type,
            k_fixed,
            v_fixed,
        ]
    }

    /// Whether heads rotate whole, in pairs `(i, i + d / 2)`.
    fn rotate_whole(&self) -> bool {
        self.rope.is_some_and(|(_, half, interleaved)| 2 * half == self.shape.d && !interleaved)
    }

    /// Whether there is a kernel whose lanes have pairs, and its warps as many whole heads of one role as they have channels.
    fn are_pairs(&self) -> bool {
        let AttentionShape { nq, nkv, d, .. } = *self.shape;
        d == 128 && self.rotate_whole() && (nq * d).is_multiple_of(CHANNELS) && (nkv * d).is_multiple_of(CHANNELS)
    }

    /// By the kernels whose lanes have pairs.
    fn queue_pairs(&self, cuda: &Cuda) -> Result<()> {
        let t = self.batch.t;
        let turns_of_block = if t >= MANY { WARPS * TURNS } else { WARPS };
        let turns = self.width() / CHANNELS;
        let grid = Grid { blocks: [t, turns.div_ceil(turns_of_block), 1], ..Grid::of(t, 32 * WARPS) };
        cuda.launch("rope_store_kv", "rope_store_kv_pairs", grid, &self.params())
    }

    fn queue(&self, cuda: &Cuda) -> Result<()> {
        let (d, t) = (self.shape.d, self.batch.t);
        let kernel = match self.in_fours() {
            _ if d > WIDEST => {
                return Err(Error::unsupported(format!("rope_store_kv: heads of {d} channels, at most {WIDEST}")));
            }
            true if self.are_pairs() => return self.queue_pairs(cuda),
            true if d <= 128 => "rope_store_kv_128",
            true => "rope_store_kv_256",
            false => "rope_store_kv_any",
        };
        let heads = if self.cache[0] == 0 { self.shape.nq } else { self.shape.nq + 2 * self.shape.nkv };
        let heads_of_block = if t >= MANY { WARPS * HEADS } else { WARPS };
        let grid = Grid { blocks: [t, heads.div_ceil(heads_of_block), 1], ..Grid::of(t, 32 * WARPS) };
        cuda.launch("rope_store_kv", kernel, grid, &self.params())
    }
}

/// [`rope_store_kv`]; or, where there is room for queries, the same with these rounded there and `qkv` left alone.
pub(crate) fn turn(
    cuda: &Cuda,
    qkv: &mut Tensor<Cuda>,
    rope: Option<&RopeTable<Cuda>>,
    shape: &AttentionShape,
    batch: &DeviceBatch,
    stored: Stored<'_>,
) -> Result<()> {
    Heads::new(qkv, rope, shape, batch, stored)?.queue(cuda)
}

/// Rounds queries that lie rotated in `qkv` to 16 bits, of the kind and in the order that attention over a cache of this type takes.
pub(crate) fn round_queries(
    cuda: &Cuda,
    qkv: &Tensor<Cuda>,
    shape: &AttentionShape,
    batch: &DeviceBatch,
    cache: DType,
    queries: u64,
) -> Result<()> {
    let (kv_type, cache, fixed) = (kv_type(cache)?, [0; 4], [0.0; 2]);
    Heads { qkv, queries, rope: None, shape, batch, cache, kv_type, fixed }.queue(cuda)
}

pub(crate) fn clear_pages(_: &Cuda, kv: &mut KvLayer<Cuda>, pages: &[u32]) -> Result<()> {
    for tensor in kv.tensors_mut() {
        let bytes = tensor.cols * tensor.dtype.size();
        for run in pages.chunk_by(|a, b| a.checked_add(1) == Some(*b)) {
            tensor.buf.zero(run[0] as usize * bytes, run.len() * bytes)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn products_store_heads_of_some_tokens() {
        let stores = |codes, pairs| [1, 255, 256, 8192, 8193, 33_792].map(|t| product_stores(t, codes, pairs));
        assert_eq!(stores(true, true), [false, false, true, true, false, false]);
        for (codes, pairs) in [(false, true), (true, false), (false, false)] {
            assert_eq!(stores(codes, pairs), [false, false, true, true, true, true]);
        }
    }
}
