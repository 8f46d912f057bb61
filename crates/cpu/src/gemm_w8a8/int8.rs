//! INT8: exact int32 sums in register tiles of rows by columns, scaled as they leave the registers.
//!
//! Instructions that multiply unsigned by signed bytes take the weights plus 128; the surplus, 128 times the sum of a
//! token's codes, is subtracted at the end. Sums may wrap on the way: modulo 2^32 nothing is lost.
use super::{BLOCK_ROWS, Block};
use crate::simd::{Op, Simd};

/// Input channels (in groups of 4) that a tile sums before the next tile reads the same weights again.
const CHUNK: usize = 1024;

pub(super) struct Product<'a>(pub(super) Block<'a>);

impl Op for Product<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Product(b) = self;
        let (rows, groups) = (b.xs.len(), b.w.layout.kp / 4);
        let mut surplus = [0i32; BLOCK_ROWS];
        if S::UNSIGNED_WEIGHTS {
            for (r, sum) in surplus[..rows].iter_mut().enumerate() {
                // SAFETY: every row has `kp` codes.
                *sum = unsafe { s.sum_bytes(b.x.add(r * b.ldx), b.ldx) }.wrapping_mul(128);
            }
        }
        let tiles = rows.div_ceil(S::ROWS);
        // One tile never comes back to the same weights.
        let chunk = if tiles == 1 { groups } else { groups.div_ceil(groups.div_ceil(CHUNK).max(1)) };
        let mut partial = if chunk < groups { vec![0i32; rows * b.w.layout.width] } else { Vec::new() };
        for panel in b.panels.clone() {
            let (columns, vectors) = b.w.panel_width(panel);
            let first_column = panel * b.w.layout.width;
            for g in (0..groups.max(1)).step_by(chunk.max(1)) {
                for tile in 0..tiles {
                    let (r, end) = (rows * tile / tiles, rows * (tile + 1) / tiles);
                    // SAFETY: rows, panel and groups are inside their buffers, whose sizes `pack` and `gemm_w8a8` set.
                    unsafe {
                        let t = Tile {
                            x: b.x.add(r * b.ldx + g * 4),
                            ldx: b.ldx,
                            groups: chunk.min(groups - g),
                            w: b.w.codes.bytes().as_ptr().add(first_column * groups * 4 + g * vectors * S::LANES * 4),
                            first: g == 0,
                            last: g + chunk >= groups,
                            partial: partial.as_mut_ptr().wrapping_add(r * b.w.layout.width),
                            surplus: surplus.as_ptr().add(r),
                            xs: b.xs.as_ptr().add(r),
                            ws: b.w.ws.as_ptr().add(first_column),
                            bias: b.w.bias.as_ptr().add(first_column),
                            out: b.out.add(r * b.w.n + first_column),
                            ldo: b.w.n,
                            columns,
                        };
                        match vectors {
                            1 => t.rows::<S, 1>(s, end - r),
                            2 => t.rows::<S, 2>(s, end - r),
                            3 => t.rows::<S, 3>(s, end - r),
                            _ => t.rows::<S, 4>(s, end - r),
                        }
                    }
                }
            }
        }
    }
}

/// One register tile's sources and targets.
struct Tile {
    x: *const u8,
    ldx: usize,
    groups: usize,
    w: *const u8,
    /// Sums start from zero, else from `partial`.
    first: bool,
    /// Sums end as outputs, else in `partial`.
    last: bool,
    /// `[rows][vectors][lanes]` sums.
    partial: *mut i32,
    surplus: *const i32,
    xs: *const f32,
    ws: *const f32,
    bias: *const f32,
    out: *mut f32,
    ldo: usize,
    columns: usize,
}

impl Tile {
    /// # Safety
    /// As for [`Tile::run`]; `rows` is at most 8.
    #[inline(always)]
    unsafe fn rows<S: Simd, const V: usize>(&self, s: S, rows: usize) {
        // SAFETY: the caller's.
        unsafe {
            match rows {
                1 => self.run::<S, 1, V>(s),
                2 => self.run::<S, 2, V>(s),
                3 => self.run::<S, 3, V>(s),
                4 => self.run::<S, 4, V>(s),
                5 => self.run::<S, 5, V>(s),
                6 => self.run::<S, 6, V>(s),
                7 => self.run::<S, 7, V>(s),
                _ => self.run::<S, 8, V>(s),
            }
        }
    }

    /// `R` rows by `V` vectors.
    ///
    /// # Safety
    /// Every pointer must be valid for the tile.
    #[inline(always)]
    unsafe fn run<S: Simd, const R: usize, const V: usize>(&self, s: S) {
        // Never called; said here so that no code is made for it.
        if R > S::ROWS || V > S::VECTORS {
            return;
        }
        // Few rows: several sums for one output, or each addition would wait for the one before.
        let phases = if R == 1 { 4 } else if R == 2 { 2 } else { 1 };
        let mut acc = [[[s.isplat(0); V]; R]; 4];
        // SAFETY: the caller's.
        unsafe {
            let mut g = 0;
            while g + phases <= self.groups {
                for phase in 0..phases {
                    self.step::<S, R, V>(s, g + phase, &mut acc[phase]);
                }
                g += phases;
            }
            while g < self.groups {
                self.step::<S, R, V>(s, g, &mut acc[0]);
                g += 1;
            }
            let mut sums = acc[0];
            for r in 0..R {
                for v in 0..V {
                    for phase in 1..phases {
                        sums[r][v] = s.iadd(sums[r][v], acc[phase][r][v]);
                    }
                }
            }
            self.finish::<S, R, V>(s, sums);
        }
    }

    #[inline(always)]
    unsafe fn step<S: Simd, const R: usize, const V: usize>(&self, s: S, g: usize, acc: &mut [[S::I; V]; R]) {
        // SAFETY: the caller's.
        unsafe {
            let p = self.w.add(g * V * S::LANES * 4);
            let mut w = [s.isplat(0); V];
            for v in 0..V {
                w[v] = s.iload(p.add(v * S::LANES * 4).cast());
            }
            for r in 0..R {
                let x = self.x.add(r * self.ldx + g * 4).cast::<i32>().read_unaligned();
                for v in 0..V {
                    acc[r][v] = s.dot(acc[r][v], w[v], x);
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn finish<S: Simd, const R: usize, const V: usize>(&self, s: S, mut sums: [[S::I; V]; R]) {
        for r in 0..R {
            // SAFETY: the caller's. Columns from `columns` on are not written.
            unsafe {
                for v in 0..V {
                    let partial = self.partial.wrapping_add((r * V + v) * S::LANES);
                    if !self.first {
                        sums[r][v] = s.iadd(sums[r][v], s.iload(partial));
                    }
                    if !self.last {
                        s.istore(partial, sums[r][v]);
                        continue;
                    }
                    let acc = s.to_float(s.isub(sums[r][v], s.isplat(*self.surplus.add(r))));
                    let c = v * S::LANES;
                    let y = s.mul(s.mul(acc, s.splat(*self.xs.add(r))), s.load(self.ws.add(c)));
                    let y = s.add(y, s.load(self.bias.add(c)));
                    let out = self.out.add(r * self.ldo + c);
                    if v + 1 < V || self.columns == V * S::LANES {
                        s.store(out, y);
                    } else {
                        s.store_part(out, self.columns - c, y);
                    }
                }
            }
        }
    }
}
