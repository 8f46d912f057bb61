//! The tiles that matrix products are cut into, and which of them suits a product. Numbers are those of the `.cu` files.

/// A kernel of a product: a block computes `rows` x `tokens` outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Tile {
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
    /// Blocks that a multiprocessor holds, about.
    pub resident: usize,
    /// Speed of a busy multiprocessor, in hundredths of the fastest tile's.
    pub speed: usize,
}

impl Tile {
    /// A tile of `mma_tile.cuh`: warps over rows, tokens and k; 16-row and 8-token tiles of a warp; bytes of k in a
    /// stage, and stages.
    pub(crate) const fn tensor_core(name: &'static str, shape: [usize; 7]) -> Tile {
        let [row_warps, token_warps, k_warps, mi, ni, bytes, stages] = shape;
        let (rows, tokens) = (16 * row_warps * mi, 8 * token_warps * ni);
        let shared = (rows + tokens) * bytes * stages;
        let threads = 32 * row_warps * token_warps * k_warps;
        Tile { name, rows, tokens, threads, shared, resident: 2, speed: 50 }
    }

    /// A tile without dynamic shared memory.
    pub(crate) const fn plain(name: &'static str, rows: usize, tokens: usize, threads: usize) -> Tile {
        Tile { name, rows, tokens, threads, shared: 0, resident: 2, speed: 50 }
    }

    /// With what is known of its speed.
    pub(crate) const fn known(self, resident: usize, speed: usize) -> Tile {
        Tile { resident, speed, ..self }
    }

    /// Blocks of a product.
    pub(crate) const fn blocks(&self, t: usize, n: usize) -> usize {
        t.div_ceil(self.tokens) * n.div_ceil(self.rows)
    }

    /// Time that a product takes, in any unit: rounds of blocks, each as long as its outputs.
    fn time(&self, t: usize, n: usize, sm_count: usize) -> usize {
        let rounds = self.blocks(t, n).div_ceil(sm_count * self.resident);
        // Fewer blocks than places: those that are there have a multiprocessor more to themselves.
        let shared_by = self.blocks(t, n).div_ceil(sm_count).min(self.resident);
        rounds * shared_by * self.rows * self.tokens * 100 / self.speed
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
