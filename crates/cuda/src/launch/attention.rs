//! `paged_attention`: which kernel attends, over how many blocks. All kernels of one family (tensor cores, or plain
//! multiply-adds) give a row the same bits, so what is chosen here never shows in a result.
mod shapes;

use super::gemm_w8a8::{gemm_w8a8, gemm_w8a8_heads};
use super::quantize_rows::{quantize_rows, takes_bf16};
use super::rope_store_kv::{self, Heads, Stored};
use super::tensor_map::{BF16, HeadsMap, Map, U8};
use super::{Grid, Param, address, params};
use crate::{Cuda, DeviceBatch};
use cudarc::driver::sys;
use planish_tensor::layout::require;
use planish_tensor::{Attended, AttentionShape, DType, Error, KvLayer, Projected, Q8Rows, Result, RopeTable, Tensor};
use shapes::{Blocks, Launch};

/// Keys that are attended to on their own before they are merged with those before.
const SEGMENT: usize = 128;
/// Query rows of a block that attends with few; sequences with no more take such blocks.
const FEW: usize = 16;
/// Keys that a warp which attends by itself copies at a time.
const EACH_KEYS: usize = 32;
/// Query rows of a block of the kernel of Hopper, less what is not a whole token's.
const HOPPER_ROWS: usize = 128;
/// The widest head.
const WIDEST: usize = 256;
/// A sequence is not split if its parts would take more memory than this.
const PARTS_BYTES: usize = 128 << 20;

/// Kernels over caches of one class are launched alike.
pub(crate) fn length_class(longest_kv: usize) -> usize {
    longest_kv.next_power_of_two().max(2 * SEGMENT)
}

pub(crate) fn paged_attention(
    cuda: &Cuda,
    qkv: &Tensor<Cuda>,
    shape: &AttentionShape,
    batch: &DeviceBatch,
    kv: &KvLayer<Cuda>,
    out: &mut Tensor<Cuda>,
) -> Result<()> {
    let call = Call::new(cuda, qkv, shape, batch, kv, out);
    call.check("paged_attention", out)?;
    call.attend()
}

pub(crate) fn paged_attention_quantize(
    cuda: &Cuda,
    qkv: &Tensor<Cuda>,
    shape: &AttentionShape,
    batch: &DeviceBatch,
    kv: &KvLayer<Cuda>,
    scratch: &mut Tensor<Cuda>,
    out: &mut Q8Rows<Cuda>,
) -> Result<()> {
    let call = Call::new(cuda, qkv, shape, batch, kv, scratch);
    call.check("paged_attention", scratch)?;
    call.attend_quantize(Attended { scratch, out })
}

/// Where a kernel takes queries in 16 bits, the rotation leaves them so: attention would round them anyway, and half as much is
/// written and read.
pub(crate) fn rope_attention_quantize(
    cuda: &Cuda,
    qkv: &mut Tensor<Cuda>,
    rope: Option<&RopeTable<Cuda>>,
    shape: &AttentionShape,
    batch: &DeviceBatch,
    kv: &mut KvLayer<Cuda>,
    to: Attended<'_, Cuda>,
) -> Result<()> {
    let call = Call::new(cuda, qkv, shape, batch, kv, to.scratch);
    call.check("rope_attention_quantize", to.scratch)?;
    let queries = call.queries_by_rotation()?;
    rope_store_kv::turn(cuda, qkv, rope, shape, batch, Stored { kv, queries })?;
    Call { queries, ..Call::new(cuda, qkv, shape, batch, kv, to.scratch) }.attend_quantize(to)
}

/// The same from the product of q, k and v, which rotates and stores them itself where it can.
pub(crate) fn gemm_rope_attention_quantize(
    cuda: &Cuda,
    from: Projected<'_, Cuda>,
    rope: Option<&RopeTable<Cuda>>,
    shape: &AttentionShape,
    batch: &DeviceBatch,
    kv: &mut KvLayer<Cuda>,
    to: Attended<'_, Cuda>,
) -> Result<()> {
    let Projected { x, w, qkv } = from;
    let call = Call::new(cuda, qkv, shape, batch, kv, to.scratch);
    call.check("rope_attention_quantize", to.scratch)?;
    let queries = call.queries_by_rotation()?;
    if !gemm_w8a8_heads(cuda, x, w, &Heads::new(qkv, rope, shape, batch, Stored { kv, queries })?)? {
        gemm_w8a8(cuda, x, w, qkv)?;
        rope_store_kv::turn(cuda, qkv, rope, shape, batch, Stored { kv, queries })?;
    }
    Call { queries, ..Call::new(cuda, qkv, shape, batch, kv, to.scratch) }.attend_quantize(to)
}

/// The operands of one call.
struct Call<'a> {
    cuda: &'a Cuda,
    qkv: &'a Tensor<Cuda>,
    shape: &'a AttentionShape,
    batch: &'a DeviceBatch,
    kv: &'a KvLayer<Cuda>,
    out: u64,
    /// Whether `out` is in bf16, not in f32.
    narrow: bool,
    /// `[t, nq d]` in 16 bits, in place of those in `qkv`; or 0.
    queries: u64,
}

/// Kernels with the same arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// 16-bit tensor cores: bf16, or f16 over codes.
    Tensor,
    /// f32 multiply-adds.
    Plain,
}

/// The family for heads of this width over a cache of this type.
fn family(arch: u32, dtype: DType, d: usize) -> Family {
    match arch >= 80 && dtype != DType::F32 && [64, 80, 96, 128, 256].contains(&d) {
        true => Family::Tensor,
        false => Family::Plain,
    }
}

/// Blocks that share a sequence: enough to fill the multiprocessors, as long as each has a segment.
fn splits(blocks: usize, class: usize, sm_count: usize) -> usize {
    (2 * sm_count / blocks.max(1)).clamp(1, class.div_ceil(SEGMENT))
}

/// As `KvType` in the kernels.
pub(super) fn kv_type(dtype: DType) -> Result<i32> {
    match dtype {
        DType::F32 => Ok(0),
        DType::BF16 => Ok(1),
        DType::I8 => Ok(2),
        DType::F8E4M3 => Ok(3),
        other => Err(Error::dtype(format!("a KV cache is of F32, BF16, I8 or F8_E4M3, not of {other}"))),
    }
}

impl<'a> Call<'a> {
    fn new(
        cuda: &'a Cuda,
        qkv: &'a Tensor<Cuda>,
        shape: &'a AttentionShape,
        batch: &'a DeviceBatch,
        kv: &'a KvLayer<Cuda>,
        out: &Tensor<Cuda>,
    ) -> Call<'a> {
        Call { cuda, qkv, shape, batch, kv, out: address(out), narrow: false, queries: 0 }
    }

    /// Attends, and quantizes what that gives. (The last block of a row could do it, but that takes longer than a kernel of
    /// its own.) Tensor cores took queries, keys and weights of values in 16 bits: so may what quantizes their sums, if
    /// [`takes_bf16`] says so.
    fn attend_quantize(&self, to: Attended<'_, Cuda>) -> Result<()> {
        let wide = to.scratch.dtype;
        let narrow = self.family() == Family::Tensor && takes_bf16(self.cuda, to.out);
        if narrow {
            to.scratch.dtype = DType::BF16;
        }
        let attended = Call { narrow, ..*self }.attend();
        let done = attended.and_then(|()| quantize_rows(self.cuda, to.scratch, to.out));
        to.scratch.dtype = wide;
        done
    }

    fn check(&self, operation: &str, out: &Tensor<Cuda>) -> Result<()> {
        let (shape, t) = (self.shape, self.batch.t);
        let fits = self.qkv.cols == shape.qkv_width() && out.cols == shape.nq * shape.d;
        require(operation, fits && self.qkv.rows == t && out.rows == t && shape.nkv > 0)?;
        require(operation, shape.nq.is_multiple_of(shape.nkv) && self.kv.k.dtype == self.kv.v.dtype)?;
        let floats = self.qkv.dtype == DType::F32 && out.dtype == DType::F32;
        let scaled = kv_type(self.kv.k.dtype)? >= 2;
        if !floats || scaled != self.kv.k_scales.is_some() || scaled != self.kv.v_scales.is_some() {
            return Err(Error::dtype(format!("{operation}: q is F32, and a cache of 8 bits has scales")));
        }
        if shape.d > WIDEST {
            return Err(Error::unsupported(format!("{operation}: heads of {} channels, at most {WIDEST}", shape.d)));
        }
        Ok(())
    }

    fn group(&self) -> usize {
        self.shape.nq / self.shape.nkv
    }

    /// Whether no sequence has more query rows than a block for few takes.
    fn only_few(&self) -> bool {
        self.batch.longest_query * self.group() <= FEW
    }

    /// Blocks of `height` rows are at most this many.
    fn most_tiles(&self, height: usize) -> usize {
        (self.batch.t * self.group() / height + self.batch.s).min(self.batch.t * self.group())
    }

    fn attend(&self) -> Result<()> {
        if self.batch.t == 0 {
            return Ok(());
        }
        if self.family() == Family::Plain {
            return self.launch(self.plain());
        }
        if let Some(each) = self.each() {
            return self.launch(each);
        }
        let few = self.few();
        let all = few.is_none();
        let hopper = self.many_by_hopper();
        let queries = match hopper.is_some() && self.queries == 0 {
            true => self.round_queries()?,
            false => self.queries,
        };
        let call = Call { queries, ..*self };
        match few {
            Some(few) if call.only_few() => return call.launch(few),
            // Sequences that have one token among others with many.
            Some(few) if call.batch.shortest_query * call.group() <= FEW => call.launch(few)?,
            _ => {}
        }
        match hopper {
            Some(hopper) => call.launch(hopper),
            None => call.launch(call.many(all)),
        }
    }

    /// The kernel of Hopper, where it is what attends with many rows.
    fn many_by_hopper(&self) -> Option<Launch> {
        let others = self.batch.t == 0 || self.family() == Family::Plain || self.each().is_some();
        if others || self.only_few() || self.few().is_none() { None } else { self.hopper() }
    }

    /// Where the rotation leaves queries in 16 bits, if this attention takes them so.
    fn queries_by_rotation(&self) -> Result<u64> {
        if self.many_by_hopper().is_some() { self.room_for_queries() } else { Ok(0) }
    }

    fn room_for_queries(&self) -> Result<u64> {
        self.cuda.scratch("queries of attention", self.batch.t * self.shape.nq * self.shape.d * 2)
    }

    /// The queries of `qkv` as the kernel of Hopper takes them.
    fn round_queries(&self) -> Result<u64> {
        let queries = self.room_for_queries()?;
        rope_store_kv::round_queries(self.cuda, self.qkv, self.shape, self.batch, self.kv.k.dtype, queries)?;
        Ok(queries)
    }

    fn family(&self) -> Family {
        family(self.cuda.arch(), self.kv.k.dtype, self.shape.d)
    }

    /// Splits of each of `tiles`, if there is room for their parts.
    fn splits(&self, tiles: usize) -> usize {
        let wanted =
            splits(tiles * self.shape.nkv, length_class(self.batch.longest_kv), self.cuda.info().sm_count as usize);
        if self.parts(tiles) * (self.shape.d + 2) * 4 <= PARTS_BYTES { wanted } else { 1 }
    }

    /// Segments that each tile may have to keep.
    fn slots(&self) -> usize {
        length_class(self.batch.longest_kv) / SEGMENT + 1
    }

    fn tile_rows(&self) -> usize {
        (self.batch.longest_query * self.group()).min(FEW)
    }

    /// Rows of all parts.
    fn parts(&self, tiles: usize) -> usize {
        tiles * self.shape.nkv * self.slots() * self.tile_rows()
    }

    fn launch(&self, l: Launch) -> Result<()> {
        let (b, shape, kv) = (self.batch, self.shape, self.kv);
        let (parts, d) = (if l.splits > 1 { self.parts(l.tiles) } else { 0 }, shape.d);
        let part_o = self.cuda.scratch("parts of attention", parts * d * 4)?;
        let part_ml = self.cuda.scratch("sums of parts of attention", parts * 8)?;
        let counters = self.cuda.scratch("counters of attention", l.tiles * shape.nkv * 4)?;
        let scales = |t: &Option<Tensor<Cuda>>| t.as_ref().map_or(0, address);
        let blocks = match l.blocks {
            Blocks::Box => [l.tiles, shape.nkv, l.splits],
            Blocks::Row => [l.tiles * shape.nkv, 1, 1],
            Blocks::Warps => [(l.tiles * shape.nkv).div_ceil(l.threads / 32), 1, 1],
            Blocks::Resident => [(l.tiles * shape.nkv).min(self.cuda.info().sm_count as usize), 1, 1],
        };
        let limit = if l.file == "attention_plain" { 58 * 1024 } else { l.shared };
        let grid = Grid { blocks, threads: l.threads, shared: l.shared, shared_limit: limit };
        // The order of ATTENTION_PARAMETERS.
        let map = |cache| l.boxes.map(|boxed| self.map(cache, boxed)).transpose();
        let maps = [if l.takes_queries { Some(self.queries_map()?) } else { None }, map(&kv.k)?, map(&kv.v)?];
        let mut parameters: Vec<Param<'_>> = maps.iter().flatten().map(Param::from).collect();
        parameters.extend_from_slice(params![
            address(self.qkv),
            self.queries,
            address(&kv.k),
            address(&kv.v),
            scales(&kv.k_scales),
            scales(&kv.v_scales),
            b.header(),
            b.positions(),
            b.query_starts(),
            b.kv_lens(),
            b.page_tables(),
            self.out,
            part_o,
            part_ml,
            counters,
            shape.scale,
            shape.softcap.unwrap_or(0.0),
            shape.nq,
            shape.nkv,
            d,
            shape.window.map_or(0, |w| w.max(1)) as i32,
            kv_type(kv.k.dtype)?,
            l.tiles,
            l.take as i32,
            l.splits,
            self.slots(),
            self.tile_rows(),
            self.narrow as i32,
        ]);
        self.cuda.launch(l.file, &l.name, grid, &parameters)
    }

    /// Queries as the copy engine sees them: heads of one key head, of the whole tokens of a tile.
    fn queries_map(&self) -> Result<sys::CUtensorMap> {
        let (shape, group) = (self.shape, self.group());
        let box_tokens = HOPPER_ROWS / group;
        HeadsMap {
            address: self.queries,
            d: shape.d,
            heads: shape.nq,
            tokens: self.batch.t,
            box_heads: group,
            box_tokens,
        }
        .encode()
    }

    /// A cache as the copy engine sees it: a row for each vector; `boxed` keys and channels at a time.
    fn map(&self, cache: &Tensor<Cuda>, [box_rows, box_cols]: [usize; 2]) -> Result<sys::CUtensorMap> {
        let (d, size) = (self.shape.d, cache.dtype.size());
        Map {
            address: address(cache),
            dtype: if size == 2 { BF16 } else { U8 },
            size,
            cols: d,
            rows: cache.rows * cache.cols / d,
            box_cols,
            box_rows,
            swizzle: sys::CUtensorMapSwizzle::CU_TENSOR_MAP_SWIZZLE_128B,
        }
        .encode()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_split_until_the_device_is_full() {
        assert_eq!(splits(8, length_class(384), 132), 4);
        assert_eq!(splits(8, length_class(8192), 132), 33);
        assert_eq!(splits(256 * 8, length_class(640), 132), 1);
        assert_eq!(splits(0, length_class(0), 132), 2);
    }

    #[test]
    fn tensor_cores_take_narrow_caches_of_common_widths() {
        assert_eq!(family(90, DType::BF16, 128), Family::Tensor);
        assert_eq!(family(80, DType::I8, 80), Family::Tensor);
        assert_eq!(family(90, DType::F32, 128), Family::Plain);
        assert_eq!(family(75, DType::BF16, 128), Family::Plain);
        assert_eq!(family(90, DType::F8E4M3, 36), Family::Plain);
    }
}
