//! Which tile of `kernels/gemm_hopper.cu` multiplies a size: the one that a small model of the chip finds fastest.
//! Pure and printable. The model counts what a multiprocessor multiplies, what it loads through the second-level cache,
//! what the memory reads and writes, and how evenly tiles fall on the chip; its constants were fitted to measurements.
use super::{Device, Operands};
use planish_tensor::Q8;
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
    /// Each warpgroup takes every other tile, and stores it while the other multiplies.
    pub turns: bool,
}

const fn tile(tokens: usize, rows: usize, cluster: [usize; 3], resident: usize) -> Tile {
    Tile { tokens, rows, cluster, resident, turns: false }
}

const fn by_turns(tokens: usize, rows: usize, cluster: [usize; 3]) -> Tile {
    Tile { tokens, rows, cluster, resident: 1, turns: true }
}

/// Every tile, as `gemm_hopper.cu` has them.
pub const TILES: &[Tile] = &[
    tile(8, 128, [1, 1, 1], 2),
    tile(8, 64, [1, 1, 2], 1),
    tile(16, 128, [1, 1, 1], 2),
    tile(16, 64, [1, 1, 2], 1),
    tile(16, 64, [1, 1, 2], 2),
    tile(32, 128, [1, 1, 1], 2),
    tile(32, 64, [1, 1, 2], 1),
    tile(32, 64, [1, 1, 2], 2),
    tile(64, 128, [2, 1, 1], 1),
    tile(64, 128, [1, 2, 1], 1),
    tile(64, 64, [1, 1, 2], 1),
    tile(64, 128, [2, 2, 1], 1),
    tile(128, 128, [2, 1, 1], 1),
    tile(128, 128, [1, 2, 1], 1),
    tile(128, 128, [1, 1, 2], 1),
    tile(128, 128, [2, 1, 2], 1),
    tile(128, 128, [2, 2, 1], 1),
    tile(192, 128, [2, 1, 1], 1),
    tile(256, 128, [2, 1, 1], 1),
    by_turns(128, 128, [1, 2, 1]),
    by_turns(192, 128, [2, 1, 1]),
];

impl Tile {
    /// Tokens x rows of a block, blocks of a cluster along rows, tokens and k, and blocks of a multiprocessor.
    pub fn name(&self) -> String {
        let Tile { tokens, rows, cluster: [cn, ct, ck], resident, turns } = self;
        format!("{tokens}x{rows}_{cn}{ct}{ck}_{resident}{}", if *turns { "_turns" } else { "" })
    }

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

    /// Whether there is a kernel of it, for INT8 and E4M3, that rotates and stores the heads of q, k and v: its rows are whole
    /// heads of 64 or 128 channels.
    pub(crate) const fn takes_heads(&self) -> bool {
        self.stores_boxes() && self.rows == 128 && !self.turns
    }

    /// Whether types other than INT8 and E4M3 have it too.
    const fn of_every_type(&self) -> bool {
        !self.turns
            && matches!(
                (self.tokens, self.rows, self.cluster),
                (16, 128, [1, 1, 1]) | (64 | 128 | 192 | 256, 128, [2, 1, 1])
            )
    }

    /// Blocks of a cluster.
    const fn size(&self) -> usize {
        self.cluster[0] * self.cluster[1] * self.cluster[2]
    }
}

/// A tile and how it is spread over the chip.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Choice {
    /// The tile.
    pub tile: Tile,
    /// Blocks launched.
    pub blocks: usize,
    /// Tiles of tokens that are walked before the next tile of rows, so that the tokens stay in the cache.
    pub group: usize,
    /// What the model expects, in microseconds.
    pub expected: f64,
}

impl Choice {
    /// The kernel's name.
    pub(crate) fn kernel(&self, element: Element) -> String {
        format!("{}_{}", element.prefix(), self.tile.name())
    }
}

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Tile { tokens, rows, cluster: [cn, ct, ck], resident, .. } = self.tile;
        write!(f, "{tokens} tokens x {rows} rows, cluster {cn}x{ct}x{ck}, {resident} a multiprocessor, ")?;
        write!(f, "{} blocks, about {:.1} us", self.blocks, self.expected)
    }
}

/// The element types of a product, if there are kernels for them.
pub(crate) fn element(operands: Operands) -> Option<Element> {
    match (operands.weight, operands.tokens) {
        (Q8::Int8, Q8::Int8) => Some(Element::Int8),
        (Q8::E4M3, Q8::E4M3) => Some(Element::E4M3),
        (Q8::E5M2, Q8::E4M3) => Some(Element::E5M2E4M3),
        (Q8::E4M3, Q8::E5M2) => Some(Element::E4M3E5M2),
        (Q8::E5M2, Q8::E5M2) => Some(Element::E5M2),
        _ => None,
    }
}

/// The tile for `out[m, n] = x[m, k] · w[n, k]ᵀ`, or nothing if the device has no such kernels. `invariant`: k is never
/// shared among blocks, so that a token's sums do not depend on m (those of INT8 never do).
pub fn choose(m: usize, n: usize, k: usize, element: Element, device: Device, invariant: bool) -> Option<Choice> {
    fastest(choices(m, n, k, element, device, invariant))
}

/// As [`choose`], for a product that rotates and stores heads.
pub(crate) fn choose_heads(m: usize, n: usize, k: usize, element: Element, device: Device) -> Option<Choice> {
    let mut choices = choices(m, n, k, element, device, true);
    choices.retain(|choice| choice.tile.takes_heads());
    fastest(choices)
}

fn fastest(choices: Vec<Choice>) -> Option<Choice> {
    choices.into_iter().min_by(|a, b| a.expected.total_cmp(&b.expected))
}

/// Every tile that can multiply a size, as [`choose`] compares them.
pub fn choices(m: usize, n: usize, k: usize, element: Element, device: Device, invariant: bool) -> Vec<Choice> {
    // Rows begin at multiples of 16 bytes, or others read them.
    let aligned = (k * element.size()).is_multiple_of(16);
    if device.arch != 90 || m == 0 || n == 0 || k == 0 || !aligned {
        return Vec::new();
    }
    let exact = element == Element::Int8;
    let compiled = |t: &&Tile| matches!(element, Element::Int8 | Element::E4M3) || t.of_every_type();
    let fits = |t: &&Tile| t.cluster[2] == 1 || (steps(k, element) >= t.cluster[2] && (exact || !invariant));
    TILES.iter().filter(compiled).filter(fits).map(|t| place(t, m, n, k, element, device.sm_count)).collect()
}

/// Steps of k.
fn steps(k: usize, element: Element) -> usize {
    (k * element.size()).div_ceil(STEP_BYTES)
}

/// Clusters that run at once. Clusters of four leave some multiprocessors of each group of the chip idle.
fn clusters_at_once(tile: &Tile, sm_count: usize) -> usize {
    let once = if tile.size() < 4 { sm_count / tile.size() } else { sm_count * 10 / 11 / tile.size() };
    once.max(1)
}

/// Microseconds that a block needs for a step of `m` tokens, when a share `busy` of the multiprocessors works.
fn step_time(tile: &Tile, m: usize, busy: f64) -> f64 {
    // 4096 products a cycle; operands come from shared memory at 128 bytes a cycle. The largest tiles keep the tensor
    // cores so busy that the clock (in MHz) falls.
    let clock = if tile.rows * tile.tokens >= 128 * 256 { 2120.0 - 730.0 * busy } else { 1380.0 };
    let multiply = (tile.rows / 64 * (2 * tile.tokens).max(64 + tile.tokens)) as f64 / clock;
    // What a block asks of the cache, and what it receives with what others of its cluster ask for (bytes in a
    // microsecond): less when many ask, when half a ring runs ahead, and when several clusters ask for the same weights;
    // more when nobody pauses to store.
    let [cn, ct, _] = tile.cluster;
    let asked = ((tile.rows / ct + tile.tokens / cn) * STEP_BYTES) as f64;
    let received = ((tile.rows + tile.tokens) * STEP_BYTES) as f64;
    let shallow = if tile.resident == 2 { 0.92 } else { 1.0 };
    let evenly = if tile.turns { 0.96 } else { 1.0 };
    let again = if cn > 1 && ct == 1 && m > tile.tokens { 0.95 } else { 1.0 };
    let load = (asked / 109e3).max(received / 160e3 + asked / 3e6) * (1.0 + 0.79 * busy) * evenly / (shallow * again);
    multiply.max(load)
}

fn place(tile: &Tile, m: usize, n: usize, k: usize, element: Element, sm_count: usize) -> Choice {
    let [cn, ct, ck] = tile.cluster;
    let size = tile.size();
    let clusters = n.div_ceil(tile.rows * cn) * m.div_ceil(tile.tokens * ct);
    let once = clusters_at_once(tile, sm_count);
    let whole_rounds = clusters.div_ceil(once) as f64;
    // Where the memory is the limit, blocks that have nothing to do cost nothing.
    let rounds = if m <= 64 { (clusters as f64 / once as f64).max(1.0) } else { whole_rounds };
    let step = step_time(tile, m, (clusters.min(once) * size) as f64 / sm_count as f64);
    let join = match size {
        _ if ck == 1 => 0.0,
        2 => 1.0,
        _ => 2.0,
    };
    let finish = (tile.rows * tile.tokens) as f64 / 20e3 + join;
    // With turns, storing shows after the last round alone, by one warpgroup.
    let finishes = if tile.turns { 2.0 } else { rounds };
    // Blocks of a later round that begin together.
    let refill = if (ck > 1 || size == 4) && tile.resident == 1 { 2.0 * (whole_rounds - 1.0) } else { 0.0 };
    let multiplied = rounds * steps(k, element) as f64 / ck as f64 * step + finishes * finish + refill;
    // Half a ring alone on its multiprocessor keeps fewer bytes on their way. The largest tile is slow where it reads all
    // weights of 8 bits once (measured among a layer's other kernels; not so on its own, and it is not known why).
    let bandwidth = match tile.resident {
        2 if clusters * size <= sm_count => 3.45e6,
        1 if tile.tokens >= 256 && m <= tile.tokens && element != Element::Bf16 => 2.15e6,
        _ => 4.1e6,
    };
    let moved = ((n + m) * k * element.size() + 4 * m * n) as f64 / bandwidth;
    let start = if tile.resident == 2 { 2.0 } else { 3.3 };
    let groups = ((m + GROUP_TOKENS / 2) / GROUP_TOKENS).max(1);
    // Blocks walk over tiles, except those that share a tile's k: these add up once.
    let slots = if ck == 1 { once * tile.resident } else { clusters };
    Choice {
        tile: *tile,
        blocks: clusters.min(slots) * size,
        group: m.div_ceil(tile.tokens * ct).div_ceil(groups),
        expected: multiplied.max(moved) + start,
    }
}

/// Tokens, about, whose tiles are walked before the next tile of rows. What runs at once is then about as many rows as
/// tokens, and memory is asked for least: under the power limit that is worth more clock. Groups are even: a small last one
/// would read all weights for few tokens.
const GROUP_TOKENS: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;

    const H200: Device = Device { arch: 90, sm_count: 132 };

    /// The name's numbers: tokens x rows, the cluster, blocks of a multiprocessor.
    fn tile_of(m: usize, n: usize, k: usize) -> String {
        choose(m, n, k, Element::Int8, H200, false).expect("a Hopper kernel").tile.name()
    }

    #[test]
    fn what_was_measured_fastest_is_chosen() {
        assert_eq!(tile_of(1, 28672, 4096), "8x128_111_2");
        assert_eq!(tile_of(1, 4096, 14336), "8x64_112_1");
        assert_eq!(tile_of(16, 28672, 4096), "16x128_111_2");
        assert_eq!(tile_of(16, 8192, 8192), "16x64_112_2");
        assert_eq!(tile_of(32, 28672, 4096), "32x128_111_2");
        assert_eq!(tile_of(32, 4096, 14336), "32x64_112_1");
        assert_eq!(tile_of(64, 28672, 4096), "64x128_211_1");
        assert_eq!(tile_of(128, 4096, 4096), "64x128_221_1");
        assert_eq!(tile_of(192, 28672, 4096), "192x128_211_1");
        assert_eq!(tile_of(256, 4096, 4096), "64x128_121_1");
        assert_eq!(tile_of(256, 6144, 4096), "128x128_121_1");
        assert_eq!(tile_of(256, 28672, 4096), "128x128_121_1_turns");
        assert_eq!(tile_of(256, 4096, 14336), "128x128_112_1");
        assert_eq!(tile_of(512, 28672, 4096), "128x128_121_1_turns");
        assert_eq!(tile_of(512, 4096, 14336), "128x128_121_1_turns");
        assert_eq!(tile_of(1024, 4096, 14336), "256x128_211_1");
        assert_eq!(tile_of(2048, 6144, 4096), "192x128_211_1_turns");
        assert_eq!(tile_of(2048, 28672, 4096), "192x128_211_1_turns");
        assert_eq!(tile_of(8192, 4096, 14336), "256x128_211_1");
    }

    #[test]
    fn output_projections_in_bf16_read_their_weights_once() {
        let tile = |m| choose(m, 128_256, 4096, Element::Bf16, H200, true).expect("a tile").tile.name();
        assert_eq!([64, 128, 192, 256].map(tile), ["64x128_211_1", "128x128_211_1", "192x128_211_1", "256x128_211_1"]);
        assert_eq!(tile(193), "256x128_211_1");
    }

    #[test]
    fn every_size_has_a_tile() {
        for m in (1..130).chain([256, 300, 8192]) {
            for (n, k) in [(1, 16), (8, 128), (333, 144), (4096, 4096), (28672, 4096), (128_256, 4096)] {
                let choice = choose(m, n, k, Element::Int8, H200, false).expect("a tile");
                let [cn, ct, ck] = choice.tile.cluster;
                assert!(choice.blocks > 0 && choice.blocks.is_multiple_of(cn * ct * ck), "{m} {n} {k}: {choice}");
                assert!(ck == 1 || k.div_ceil(STEP_BYTES) >= ck, "{m} {n} {k}: {choice}");
            }
        }
    }

    #[test]
    fn invariant_sums_are_never_split() {
        for m in 1..300 {
            let choice = choose(m, 4096, 14336, Element::E4M3, H200, true).expect("a tile");
            assert_eq!(choice.tile.cluster[2], 1);
        }
    }

    #[test]
    fn other_chips_have_none() {
        for arch in [75, 80, 89, 100, 120] {
            assert_eq!(choose(16, 4096, 4096, Element::E4M3, Device { arch, sm_count: 100 }, false), None);
        }
    }

    #[test]
    fn choices_can_be_read() {
        let choice = choose(1, 28672, 4096, Element::Int8, H200, false).expect("a tile");
        assert_eq!(choice.kernel(Element::Int8), "s8_8x128_111_2");
        assert!(choice.to_string().starts_with("8 tokens x 128 rows, cluster 1x1x1, 2 a multiprocessor, 224 blocks"));
    }
}
