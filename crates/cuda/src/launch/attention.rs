//! `paged_attention`: which kernel attends, over how many blocks. All kernels of one family (tensor cores, or plain
//! multiply-adds) give a row the same bits, so what is chosen here never shows in a result.
use super::{Grid, Param, address, params};
use crate::{Cuda, DeviceBatch};
use planish_tensor::layout::require;
use planish_tensor::{AttentionShape, DType, Error, KvLayer, Q8, Q8Rows, Result, Tensor};

/// Keys that are attended to on their own before they are merged with those before.
const SEGMENT: usize = 128;
/// Query rows of a block that attends with few; sequences with no more take such blocks.
const FEW: usize = 16;
/// The widest head.
const WIDEST: usize = 256;
/// Keys in the shared memory of a plain block.
const PLAIN_KEYS: usize = 32;
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
    let call = Call { cuda, qkv, shape, batch, kv, out: address(out), quantized: None };
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
    let mut call = Call { cuda, qkv, shape, batch, kv, out: address(scratch), quantized: None };
    call.check("paged_attention_quantize", scratch)?;
    let fits = out.codes.rows == batch.t && out.codes.cols == scratch.cols && out.scales.rows == batch.t;
    require("paged_attention_quantize", fits)?;
    let kind = Q8::from_dtype(out.codes.dtype)
        .ok_or_else(|| Error::dtype(format!("attention is not quantized to {}", out.codes.dtype)))?;
    if !call.only_few() || (call.family() == Family::Tensor && call.few().is_none()) {
        call.attend()?;
        return super::quantize_rows::quantize_rows(cuda, scratch, out);
    }
    call.quantized = Some((kind, address(&out.codes), address(&out.scales)));
    call.attend()
}

/// The operands of one call.
struct Call<'a> {
    cuda: &'a Cuda,
    qkv: &'a Tensor<Cuda>,
    shape: &'a AttentionShape,
    batch: &'a DeviceBatch,
    kv: &'a KvLayer<Cuda>,
    out: u64,
    /// Type, codes and scales.
    quantized: Option<(Q8, u64, u64)>,
}

/// Kernels with the same arithmetic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    /// bf16 tensor cores.
    Tensor,
    /// f32 multiply-adds.
    Plain,
}

/// Which sequences a launch takes, as `Take` in `attention.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Take {
    All = 0,
    Few = 1,
    Many = 2,
    /// All, each of which has one token.
    One = 3,
}

/// What a launch differs by.
struct Launch {
    file: &'static str,
    name: String,
    tiles: usize,
    take: Take,
    splits: usize,
    threads: usize,
    shared: usize,
    /// One row of blocks instead of tiles, heads and splits.
    flat: bool,
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

/// Bytes between rows of `bytes` in shared memory: an odd number of 16-byte chunks.
fn pitch(bytes: usize) -> usize {
    ((bytes / 16) | 1) * 16
}

/// Segments of keys or values in the shared memory of a block that attends with few rows; as in `attention_few.cu`.
fn few_pairs(d: usize) -> usize {
    if d == 256 { 2 } else { 3 }
}

/// Pieces of 64 keys in the shared memory of a block that attends with many rows; as in `attention_many.cu`.
fn many_stages(dtype: DType, d: usize) -> usize {
    match (dtype, d) {
        (DType::BF16, 64) => 5,
        (DType::BF16, 80 | 96) => 4,
        (DType::BF16, 128) => 3,
        (DType::BF16, _) => 2,
        (_, 256) => 3,
        _ => 5,
    }
}

fn type_name(dtype: DType) -> &'static str {
    match dtype {
        DType::BF16 => "bf16",
        DType::I8 => "i8",
        _ => "e4m3",
    }
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
        let few = self.few();
        let all = few.is_none();
        match few {
            Some(few) if self.only_few() => return self.launch(few),
            // Sequences that have one token among others with many.
            Some(few) if self.batch.s > 1 => self.launch(few)?,
            _ => {}
        }
        self.launch(self.many(all))
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

    fn plain(&self) -> Launch {
        let (d, only_few) = (self.shape.d, self.only_few());
        let tiles = if only_few { self.batch.s } else { self.most_tiles(FEW) };
        let even = d.next_multiple_of(4);
        Launch {
            file: "attention_plain",
            name: format!("attention_plain_{}", [2, 4, 8].into_iter().find(|n| d <= 32 * n).unwrap_or(8)),
            tiles,
            take: Take::All,
            splits: self.splits(tiles),
            threads: 128,
            shared: 4 * (FEW * (even + SEGMENT) + PLAIN_KEYS * (even + 1)),
            flat: false,
        }
    }

    /// Shared memory of a block that attends with few rows and holds this many segments.
    fn few_bytes(&self, pairs: usize) -> usize {
        let (d, size) = (self.shape.d, self.kv.k.dtype.size());
        let pieces = 2 * pairs * 64 * pitch(d * size);
        FEW * (pitch(2 * d) + pitch(2 * SEGMENT)) + 4 * (64 + 256 + 16) + self.scale_bytes() + pieces
    }

    /// `None` where a block has too little shared memory.
    fn few(&self) -> Option<Launch> {
        let (d, tiles, limit) = (self.shape.d, self.batch.s, self.cuda.info().shared_bytes as usize);
        let one = self.batch.t == self.batch.s && self.batch.longest_query == 1;
        let small = d == 128 && self.few_bytes(few_pairs(d)) > limit;
        let shared = self.few_bytes(if small { 2 } else { few_pairs(d) });
        (shared <= limit).then(|| Launch {
            file: "attention_few",
            name: format!("attention_few_{}_{d}{}", type_name(self.kv.k.dtype), if small { "_small" } else { "" }),
            tiles,
            take: if one { Take::One } else { Take::Few },
            splits: self.splits(tiles),
            threads: 128,
            shared,
            flat: false,
        })
    }

    fn many(&self, all: bool) -> Launch {
        let (d, dtype) = (self.shape.d, self.kv.k.dtype);
        let rows = if d > 128 { 64 } else { 128 };
        Launch {
            file: "attention_many",
            name: format!("attention_many_{}_{d}", type_name(dtype)),
            tiles: self.most_tiles(rows),
            take: if all { Take::All } else { Take::Many },
            splits: 1,
            threads: 256,
            shared: rows * pitch(2 * d) + self.scale_bytes() + many_stages(dtype, d) * 64 * pitch(d * dtype.size()),
            flat: true,
        }
    }

    /// Scales of the keys and values of four segments.
    fn scale_bytes(&self) -> usize {
        if self.kv.k_scales.is_some() { 4 * 2 * SEGMENT * 4 } else { 0 }
    }

    fn launch(&self, l: Launch) -> Result<()> {
        let (b, shape, kv) = (self.batch, self.shape, self.kv);
        let (parts, d) = (if l.splits > 1 { self.parts(l.tiles) } else { 0 }, shape.d);
        let part_o = self.cuda.scratch("parts of attention", parts * d * 4)?;
        let part_ml = self.cuda.scratch("sums of parts of attention", parts * 8)?;
        let counters = self.cuda.scratch("counters of attention", l.tiles * (shape.nkv + 1) * 4)?;
        let scales = |t: &Option<Tensor<Cuda>>| t.as_ref().map_or(0, address);
        let (q8, codes, xs) = self
            .quantized
            .map_or((0, 0, 0), |(kind, codes, xs)| (Q8::ALL.iter().position(|&k| k == kind).unwrap_or(0), codes, xs));
        let blocks = match l.flat {
            true => [l.tiles * shape.nkv, 1, 1],
            false => [l.tiles, shape.nkv, l.splits],
        };
        let limit = if l.file == "attention_plain" { 58 * 1024 } else { l.shared };
        let grid = Grid { blocks, threads: l.threads, shared: l.shared, shared_limit: limit };
        // The order of ATTENTION_PARAMETERS.
        let parameters: &[Param<'_>] = params![
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
            codes,
            xs,
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
            q8,
            l.tiles,
            l.take as i32,
            l.splits,
            self.slots(),
            self.tile_rows(),
        ];
        self.cuda.launch(l.file, &l.name, grid, parameters)
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
