//! The tiles that matrix products are cut into, and which of them suits a product. Numbers are those of the `.cu`
//! files.

/// A kernel of a product by the instructions that several chips have: a block computes `rows` x `tokens` outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tile {
    /// The kernel's name.
    pub name: &'static str,
    /// Weight rows of a block.
    pub rows: usize,
    /// Tokens of a block.
    pub tokens: usize,
    /// Threads of a block.
    pub threads: usize,
    /// Bytes of dynamic shared memory.
    pub shared: usize,
    /// Blocks that a multiprocessor holds.
    pub resident: usize,
    /// Time of a block that has a multiprocessor to itself, measured on one chip; only ratios count.
    pub alone: usize,
    /// What each further block on the multiprocessor adds to that.
    pub more: usize,
}

impl Tile {
    /// A tile of `mma_tile.cuh`: warps over rows, tokens and k; 16-row and 8-token tiles of a warp; bytes of k in a
    /// stage, and stages.
    pub(crate) const fn tensor_core(name: &'static str, shape: [usize; 7]) -> Tile {
        let [row_warps, token_warps, k_warps, mi, ni, bytes, stages] = shape;
        let (rows, tokens) = (16 * row_warps * mi, 8 * token_warps * ni);
        let shared = (rows + tokens) * bytes * stages;
        let threads = 32 * row_warps * token_warps * k_warps;
        Tile { name, rows, tokens, threads, shared, resident: 1, alone: 1, more: 1 }
    }

    /// A tile without dynamic shared memory.
    pub(crate) const fn plain(name: &'static str, rows: usize, tokens: usize, threads: usize) -> Tile {
        Tile { name, rows, tokens, threads, shared: 0, resident: 1, alone: 1, more: 1 }
    }

    /// With what is known of its speed.
    pub(crate) const fn known(self, resident: usize, alone: usize, more: usize) -> Tile {
        Tile { resident, alone, more, ..self }
    }

    /// Blocks of a product.
    pub(crate) const fn blocks(&self, t: usize, n: usize) -> usize {
        t.div_ceil(self.tokens) * n.div_ceil(self.rows)
    }

    /// Time that a product takes: rounds of as many blocks as the chip holds, and one of the rest.
    fn time(&self, t: usize, n: usize, sm_count: usize) -> usize {
        let (blocks, places) = (self.blocks(t, n), sm_count * self.resident);
        let round = |on_each: usize| if on_each == 0 { 0 } else { self.alone + (on_each - 1) * self.more };
        blocks / places * round(self.resident) + round((blocks % places).div_ceil(sm_count))
    }
}

/// The tile that takes the least time; the first of equals.
pub(crate) fn fastest(tiles: &'static [Tile], t: usize, n: usize, sm_count: usize) -> Option<&'static Tile> {
    tiles.iter().min_by_key(|tile| tile.time(t, n, sm_count))
}

/// The first tile that takes `t` tokens in one block.
pub(crate) fn narrowest(tiles: &'static [Tile], t: usize) -> Option<&'static Tile> {
    tiles.iter().find(|tile| t <= tile.tokens)
}
