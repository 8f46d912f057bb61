//! Which tile of `kernels/gemm_hopper.cu` multiplies a size: the one that a small model of the chip finds fastest.
//! Pure and printable. The model counts what a multiprocessor multiplies, what it loads through the second-level cache,
//! what the memory reads and writes, and how evenly tiles fall on the chip; its constants were fitted to measurements.
use crate::driver::Arch;
use std::fmt;

/// Bytes of k that a stage holds.
pub(crate) const STEP_BYTES: usize = 128;

/// Element types of a product: weights, then tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Element {
    /// INT8 by INT8.
    Int8,
    /// E4M3 by E4M3.
    E4M3,
    /// E5M2 by E4M3.
    E5M2E4M3,
    /// E4M3 by E5M2.
    E4M3E5M2,
    /// E5M2 by E5M2.
    E5M2,
    /// BF16 by BF16.
    Bf16,
}

impl Element {
    /// Bytes of an element.
    pub const fn size(self) -> usize {
        if matches!(self, Element::Bf16) { 2 } else { 1 }
    }

    const fn prefix(self) -> &'static str {
        match self {
            Element::Int8 => "s8",
            Element::E4M3 => "e4m3",
            Element::E5M2E4M3 => "e5m2_e4m3",
            Element::E4M3E5M2 => "e4m3_e5m2",
            Element::E5M2 => "e5m2",
            Element::Bf16 => "bf16",
        }
    }
}

/// What a block, and the cluster it belongs to, compute at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// Tokens of a block.
    pub tokens: usize,
    /// Rows of the weight of a block, 64 for each warpgroup and its instructions.
    pub rows: usize,
    /// Blocks of a cluster along rows (they load tokens once), along tokens (they load weights once), and along k.
    pub cluster: [usize; 3],
    /// Blocks that a multiprocessor holds: with two, a kernel loads its first weights while the one before it runs.
    pub resident: usize,
}

const fn tile(tokens: usize, rows: usize, cluster: [usize; 3], resident: usize) -> Tile {
    Tile { tokens, rows, cluster, resident }
}

/// Every tile, as `gemm_hopper.cu` has them.
pub const TILES: &[Tile] = &[
    // TILES
];

impl Tile {
    /// Warpgroups that multiply.
    const fn warpgroups(&self) -> usize {
        if self.rows == 64 { 1 } else { 2 }
    }

    /// Threads of a block: those, and the producer's.
    pub(crate) const fn threads(&self) -> usize {
        128 * (self.warpgroups() + 1)
    }

    /// Bytes of dynamic shared memory: all there is, or half of it.
    pub(crate) const fn shared(&self) -> usize {
        if self.resident == 1 { 232_448 } else { 115_712 }
    }

    /// Whether the output may be written by the copy engine.
    pub(crate) const fn stores_boxes(&self) -> bool {
        self.tokens >= 64 && self.resident == 1 && self.cluster[2] == 1
    }

    /// Tokens of a stored box.
    pub(crate) const fn box_rows(&self) -> usize {
        if self.tokens < 32 { self.tokens } else { 32 }
    }

    /// Blocks of a cluster.
    const fn size(&self) -> usize {
        self.cluster[0] * self.cluster[1] * self.cluster[2]
    }
}
