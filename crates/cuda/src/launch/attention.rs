//! `paged_attention`: which kernel attends, over how many blocks. All kernels of one family (tensor cores, or plain
//! multiply-adds) give a row the same bits, so what is chosen here never shows in a result.
mod shapes;

use super::tensor_map::{BF16, Map, U8};
use super::{Grid, Param, address, params};
use crate::{Cuda, DeviceBatch};
use cudarc::driver::sys;
use planish_tensor::layout::require;
use planish_tensor::{AttentionShape, DType, Error, KvLayer, Q8Rows, Result, Tensor};
use shapes::{Blocks, Launch};

/// Keys that are attended to on their own before they are merged with those before.
const SEGMENT: usize = 128;
/// Query rows of a block that attends with few; sequences with no more take such blocks.
const FEW: usize = 16;
/// Keys that a warp which attends by itself copies at a time.
const EACH_KEYS: usize = 32;
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
    let call = Call { cuda, qkv, shape, batch, kv, out: address(out) };
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
    // The last block of a row could quantize it, but that takes longer than a kernel of its own.
    paged_attention(cuda, qkv, shape, batch, kv, scratch)?;
    super::quantize_rows::quantize_rows(cuda, scratch, out)
}

/// The operands of one call.
struct Call<'a> {
    cuda: &'a Cuda,
    qkv: &'a Tensor<Cuda>,
    shape: &'a AttentionShape,
    batch: &'a DeviceBatch,
    kv: &'a KvLayer<Cuda>,
    out: u64,
}

/// Kernels with the same arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// bf16 tensor cores.
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

impl Call<'_> {
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
        match few {
            Some(few) if self.only_few() => return self.launch(few),
            // Sequences that have one token among others with many.
            Some(few) if self.batch.s > 1 => self.launch(few)?,
            _ => {}
        }
        match self.hopper().filter(|_| !all) {
            Some(hopper) => self.launch(hopper),
            None => self.launch(self.many(all)),
        }
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
        let maps = [map(&kv.k)?, map(&kv.v)?];
        let mut parameters: Vec<Param<'_>> = maps.iter().flatten().map(Param::from).collect();
        parameters.extend_from_slice(params![
            address(self.qkv),
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
        ]);
        self.cuda.launch(l.file, &l.name, grid, &parameters)
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
