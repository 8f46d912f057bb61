//! `rope_store_kv`: q and k rotated in place, k and v stored; a warp takes one or a few heads of a token. The same with q
//! in 16 bits for attention. `clear_pages`.
use super::attention::kv_type;
use super::{Grid, address, params};
use crate::{Cuda, DeviceBatch};
use planish_tensor::layout::require;
use planish_tensor::{AttentionShape, DType, Error, KvLayer, Result, RopeTable, Tensor};

/// Warps of a block.
const WARPS: usize = 4;
/// Heads that a warp takes where there are tokens enough to fill the device: fewer blocks are started.
const HEADS: usize = 4;
/// Tokens from which on that is so.
const MANY: usize = 1024;
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

/// [`rope_store_kv`]; or, where there is room for queries, the same with these rounded there and `qkv` left alone.
pub(crate) fn turn(
    cuda: &Cuda,
    qkv: &mut Tensor<Cuda>,
    rope: Option<&RopeTable<Cuda>>,
    shape: &AttentionShape,
    batch: &DeviceBatch,
    Stored { kv, queries }: Stored<'_>,
) -> Result<()> {
    let d = shape.d;
    let turns = rope.is_none_or(|r| 2 * r.half <= d && r.cos_sin.cols == 2 * r.half && r.cos_sin.dtype == DType::F32);
    require("rope_store_kv", qkv.cols == shape.qkv_width() && qkv.rows == batch.t && turns)?;
    if qkv.dtype != DType::F32 || kv.k.dtype != kv.v.dtype {
        return Err(Error::dtype("rope_store_kv: q, k and v are F32, keys and values are stored alike"));
    }
    let rope = rope.map(|r| (address(&r.cos_sin), r.half, r.interleaved));
    queue(cuda, address(qkv), queries, rope, shape, batch, Cache::Of(kv))
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
    queue(cuda, address(qkv), queries, None, shape, batch, Cache::None(cache))
}

/// What keys and values go to.
enum Cache<'a> {
    Of(&'a KvLayer<Cuda>),
    /// Nothing: only queries are wanted, as attention over a cache of this type takes them.
    None(DType),
}

/// `rope`: angles, half, interleaved.
fn queue(
    cuda: &Cuda,
    qkv: u64,
    queries: u64,
    rope: Option<(u64, usize, bool)>,
    shape: &AttentionShape,
    batch: &DeviceBatch,
    cache: Cache<'_>,
) -> Result<()> {
    let d = shape.d;
    if d > WIDEST {
        return Err(Error::unsupported(format!("rope_store_kv: heads of {d} channels, at most {WIDEST}")));
    }
    let (angles, half, interleaved) = rope.unwrap_or((0, 0, false));
    let scales = |t: &Option<Tensor<Cuda>>| t.as_ref().map_or(0, address);
    let (addresses, dtype, fixed, heads) = match cache {
        Cache::Of(kv) => {
            let addresses = [address(&kv.k), address(&kv.v), scales(&kv.k_scales), scales(&kv.v_scales)];
            (addresses, kv.k.dtype, kv.fixed, shape.nq + 2 * shape.nkv)
        }
        Cache::None(dtype) => ([0; 4], dtype, None, shape.nq),
    };
    let [k, v, k_scales, v_scales] = addresses;
    // 0: each head has a scale of its own.
    let [k_fixed, v_fixed] = fixed.unwrap_or_default();
    let heads_of_block = if batch.t >= MANY { WARPS * HEADS } else { WARPS };
    let grid = Grid { blocks: [batch.t, heads.div_ceil(heads_of_block), 1], ..Grid::of(batch.t, 32 * WARPS) };
    cuda.launch(
        "rope_store_kv",
        kernel(d, half, interleaved),
        grid,
        params![
            qkv,
            queries,
            angles,
            batch.header(),
            batch.positions(),
            batch.slots(),
            k,
            v,
            k_scales,
            v_scales,
            shape.nq,
            shape.nkv,
            d,
            half,
            i32::from(interleaved),
            kv_type(dtype)?,
            k_fixed,
            v_fixed,
        ],
    )
}

/// Lanes with four channels each, where all that they read is in fours.
fn kernel(d: usize, half: usize, interleaved: bool) -> &'static str {
    match d.is_multiple_of(4) && (interleaved || half.is_multiple_of(4)) {
        true if d <= 128 => "rope_store_kv_128",
        true => "rope_store_kv_256",
        false => "rope_store_kv_any",
    }
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
