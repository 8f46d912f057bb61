//! How each attention kernel is launched: sizes as its `.cu` states them.
use super::{Call, EACH_KEYS, FEW, HOPPER_ROWS, SEGMENT, length_class};
use planish_tensor::DType;

/// Keys in the shared memory of a plain block.
const PLAIN_KEYS: usize = 32;

/// Which sequences a launch takes, as `Take` in `attention.cuh`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Take {
    All = 0,
    Few = 1,
    Many = 2,
    /// All, each of which has one token.
    One = 3,
}

/// Warps of a block in which each attends by itself, and pieces of keys in the shared memory of each; as in
/// `attention_each.cu`.
const EACH_WARPS: usize = 4;
const EACH_STAGES: usize = 3;
/// Longer sequences are split over blocks.
const EACH_LONGEST: usize = 4096;

/// What a launch differs by.
pub(super) struct Launch {
    pub(super) file: &'static str,
    pub(super) name: String,
    pub(super) tiles: usize,
    pub(super) take: Take,
    pub(super) splits: usize,
    pub(super) threads: usize,
    pub(super) shared: usize,
    pub(super) blocks: Blocks,
    /// Keys and channels of what the copy engine brings at a time, for kernels that have it do so.
    pub(super) boxes: Option<[usize; 2]>,
    /// Queries are in 16 bits, and the copy engine may bring them too.
    pub(super) takes_queries: bool,
}

/// How tiles, heads and splits are spread over blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Blocks {
    /// Three dimensions.
    Box,
    /// A row of tiles and heads.
    Row,
    /// The same, each block of a multiprocessor taking several.
    Resident,
    /// A row of tiles and heads, one for each warp.
    Warps,
}

/// Bytes between rows of `bytes` in shared memory: an odd number of 16-byte chunks.
fn pitch(bytes: usize) -> usize {
    ((bytes / 16) | 1) * 16
}

/// Segments of keys or values in the shared memory of a block that attends with few rows; as in `attention_few.cu`.
fn few_pairs(dtype: DType, d: usize) -> usize {
    if d == 256 || dtype != DType::BF16 { 2 } else { 3 }
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

impl Call<'_> {
    pub(super) fn plain(&self) -> Launch {
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
            blocks: Blocks::Box,
            boxes: None,
            takes_queries: false,
        }
    }

    /// Shared memory of a block that attends with few rows and holds this many segments.
    fn few_bytes(&self, pairs: usize) -> usize {
        let (d, size) = (self.shape.d, self.kv.k.dtype.size());
        let pieces = 2 * pairs * 64 * pitch(d * size);
        FEW * (pitch(2 * d) + pitch(2 * SEGMENT)) + 4 * (64 + 256 + 16) + self.scale_bytes() + pieces
    }

    /// `None` where a block has too little shared memory.
    pub(super) fn few(&self) -> Option<Launch> {
        let (d, dtype, tiles) = (self.shape.d, self.kv.k.dtype, self.batch.s);
        let limit = self.cuda.info().shared_bytes as usize;
        // A tile takes the rows of one token, if they are not too many.
        let one = self.batch.t == self.batch.s && self.batch.longest_query == 1 && self.only_few();
        let small = d == 128 && self.few_bytes(few_pairs(dtype, d)) > limit;
        let shared = self.few_bytes(if small { 2 } else { few_pairs(dtype, d) });
        (shared <= limit).then(|| Launch {
            file: "attention_few",
            name: format!("attention_few_{}_{d}{}", type_name(dtype), if small { "_small" } else { "" }),
            tiles,
            take: if one { Take::One } else { Take::Few },
            splits: self.splits(tiles),
            threads: 128,
            shared,
            blocks: Blocks::Box,
            boxes: None,
            takes_queries: false,
        })
    }

    /// On Hopper, where each of many sequences has one token: a warp for each sequence and head, when there are enough of
    /// them for half of those that the device holds, and none has so much more to do than the others that all wait for it.
    pub(super) fn each(&self) -> Option<Launch> {
        let (b, shape, dtype) = (self.batch, self.shape, self.kv.k.dtype);
        let page_size = self.page_size();
        let pages = page_size.is_power_of_two() && page_size.is_multiple_of(EACH_KEYS);
        let fits = self.cuda.arch() == 90 && dtype.size() == 1 && shape.d == 128 && self.group() <= 8 && pages;
        let one = b.t == b.s && b.longest_query == 1 && length_class(b.longest_kv) <= EACH_LONGEST;
        let enough = b.s * shape.nkv >= 8 * self.cuda.info().sm_count as usize;
        (fits && one && enough).then(|| Launch {
            file: "attention_each",
            name: format!("attention_each_{}", type_name(dtype)),
            tiles: b.s,
            take: Take::One,
            splits: 1,
            threads: 32 * EACH_WARPS,
            shared: EACH_WARPS * (EACH_STAGES * (EACH_KEYS * (shape.d + 4) + 8) + 8 * SEGMENT) + 1024,
            blocks: Blocks::Warps,
            boxes: Some([EACH_KEYS, shape.d]),
            takes_queries: false,
        })
    }

    pub(super) fn many(&self, all: bool) -> Launch {
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
            blocks: Blocks::Row,
            boxes: None,
            takes_queries: false,
        }
    }

    /// Keys of a page.
    fn page_size(&self) -> usize {
        self.kv.k.cols / (self.shape.nkv * self.shape.d).max(1)
    }

    /// With many rows on Hopper; sizes as in `attention_hopper.cu`. The copy engine brings bf16 by whole groups of eight
    /// keys, which swizzle together.
    pub(super) fn hopper(&self) -> Option<Launch> {
        let (d, dtype, rows) = (self.shape.d, self.kv.k.dtype, HOPPER_ROWS);
        let (codes, page_size) = (dtype != DType::BF16, self.page_size());
        let pages = codes || page_size.is_power_of_two() && page_size >= 8;
        let fits = self.cuda.arch() == 90 && matches!(d, 64 | 128) && pages && self.group() <= rows;
        let stages = match (d, codes) {
            (64, _) => 6,
            (_, true) => 3,
            (_, false) => 5,
        };
        let (unit, raw) = (SEGMENT * d * 2, if codes { 3 * SEGMENT * d } else { 0 });
        fits.then(|| Launch {
            file: "attention_hopper",
            name: format!("attention_hopper_{}_{d}", type_name(dtype)),
            tiles: self.most_tiles(rows / self.group() * self.group()),
            take: Take::Many,
            splits: 1,
            threads: if codes { 512 } else { 384 },
            shared: stages * unit + 2 * rows * (2 * d + 4) + raw + 2 * self.scale_bytes() + 64 + 256 + 1024,
            blocks: Blocks::Resident,
            boxes: Some([page_size.min(SEGMENT), 64]),
            takes_queries: true,
        })
    }

    /// Scales of the keys and values of four segments.
    fn scale_bytes(&self) -> usize {
        if self.kv.k_scales.is_some() { 4 * 2 * SEGMENT * 4 } else { 0 }
    }
}
