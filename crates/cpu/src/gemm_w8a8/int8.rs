//! INT8: exact int32 sums in register tiles of rows by columns, scaled as they leave the registers.
//!
//! Instructions that multiply unsigned by signed bytes take the weights plus 128; the surplus, 128 times the sum of a
//! token's codes, is subtracted at the end. Sums may wrap on the way: modulo 2^32 nothing is lost.
use super::tile::{self, Kernel, Target};
use super::{BLOCK_ROWS, Block, part};
use crate::simd::{Op, Simd};

/// Input channels that a tile sums before the next tile reads the same weights again.
const CHUNK: usize = 2048;

pub(super) struct Product<'a>(pub(super) Block<'a>);

impl Op for Product<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Product(b) = self;
        let (rows, groups) = (b.xs.len(), b.w.layout.kp / S::DEPTH);
        let surplus = surplus(s, &b);
        let codes = b.w.codes.bytes().as_ptr();
        let tiles = rows.div_ceil(S::ROWS);
        // One tile never comes back to the same weights.
        let chunks = if tiles == 1 { 1 } else { groups.div_ceil(CHUNK / S::DEPTH).max(1) };
        let mut partial = if chunks > 1 { vec![0i32; rows * b.w.layout.width] } else { Vec::new() };
        for panel in b.panels.clone() {
            let panel = b.w.panel(panel);
            for chunk in 0..chunks {
                let g = part(groups, chunks, chunk);
                for tile in 0..tiles {
                    let rows = part(rows, tiles, tile);
                    // SAFETY: rows, panel and groups are inside their buffers, whose sizes `pack` and `gemm_w8a8` set.
                    unsafe {
                        let w = codes.add((panel.first * groups + g.start * panel.width) * S::DEPTH);
                        let target = Target::new(&b, rows.clone(), &panel);
                        let sums = Sums {
                            x: b.x.add(rows.start * b.ldx + g.start * S::DEPTH),
                            ldx: b.ldx,
                            groups: g.len(),
                            w,
                            partial: partial.as_mut_ptr().wrapping_add(rows.start * b.w.layout.width),
                            surplus: surplus.as_ptr().add(rows.start),
                            ahead: Ahead::new(w, g.len(), panel.width * S::DEPTH, tiles, tile),
                            target: Target { first: chunk == 0, last: chunk + 1 == chunks, ..target },
                        };
                        tile::run(s, sums, rows.len(), panel.width);
                    }
                }
            }
        }
    }
}

/// What has to be subtracted from each token's sums.
#[inline(always)]
pub(super) fn surplus<S: Simd>(s: S, b: &Block<'_>) -> [i32; BLOCK_ROWS] {
    let mut surplus = [0; BLOCK_ROWS];
    if S::UNSIGNED_WEIGHTS {
        for (r, sum) in surplus[..b.xs.len()].iter_mut().enumerate() {
            // SAFETY: every row has `ldx` codes.
            *sum = unsafe { s.sum_bytes(b.x.add(r * b.ldx), b.ldx) }.wrapping_mul(128);
        }
    }
    surplus
}

#[derive(Clone, Copy)]
struct Sums {
    x: *const u8,
    /// From row to row of `x`.
    ldx: usize,
    /// Of `S::DEPTH` input channels.
    groups: usize,
    w: *const u8,
    /// `[rows][vectors][lanes]` sums of the groups before.
    partial: *mut i32,
    /// What is to be subtracted, by row.
    surplus: *const i32,
    ahead: Ahead,
    target: Target,
}

/// Weights to ask for while others are multiplied: hardware alone does not keep up with panels.
#[derive(Clone, Copy)]
struct Ahead {
    w: *const u8,
    /// By how many bytes that moves on with each group.
    stride: usize,
    /// A little further in the same stream, else the tile's share of the panel after this one.
    near: bool,
}

impl Ahead {
    /// For tile `tile` of `tiles`, which all read `groups` groups of `bytes` at `w`.
    #[inline(always)]
    fn new(w: *const u8, groups: usize, bytes: usize, tiles: usize, tile: usize) -> Ahead {
        const NEAR: usize = 8192;
        if tiles == 1 {
            return Ahead { w: w.wrapping_add(NEAR), stride: bytes, near: true };
        }
        let share = part(groups * bytes, tiles, tile);
        Ahead { w: w.wrapping_add(groups * bytes + share.start), stride: bytes / tiles, near: false }
    }

    /// Asks for what belongs to group `g` of `bytes`.
    #[inline(always)]
    fn ask<S: Simd>(&self, s: S, g: usize, bytes: usize) {
        let w = self.w.wrapping_add(g * self.stride);
        if self.near {
            for line in 0..bytes.div_ceil(64) {
                s.prefetch(w.wrapping_add(line * 64));
            }
        } else {
            // With two tiles or more, a share is at most a line and a half.
            s.prefetch2(w);
            s.prefetch2(w.wrapping_add(64));
        }
    }
}

impl Kernel for Sums {
    #[inline(always)]
    unsafe fn run<S: Simd, const R: usize, const V: usize>(self, s: S) {
        // Few rows: several sums for one output, or each addition would wait for the one before.
        let phases = match R {
            1 => 4,
            2 => 2,
            _ => 1,
        };
        let mut acc = [[[s.isplat(0); V]; R]; 4];
        let mut x = [self.x; R];
        for r in 0..R {
            x[r] = self.x.wrapping_add(r.min(self.target.rows - 1) * self.ldx);
        }
        // SAFETY: the caller's.
        unsafe {
            let mut g = 0;
            while g + phases <= self.groups {
                for phase in 0..phases {
                    self.step::<S, R, V>(s, g + phase, x, &mut acc[phase]);
                }
                g += phases;
            }
            while g < self.groups {
                self.step::<S, R, V>(s, g, x, &mut acc[0]);
                g += 1;
            }
            let mut sums = acc[0];
            for phase in 1..phases {
                for r in 0..R {
                    for v in 0..V {
                        sums[r][v] = s.iadd(sums[r][v], acc[phase][r][v]);
                    }
                }
            }
            s.settle(&mut sums);
            self.finish::<S, R, V>(s, sums);
        }
    }
}

impl Sums {
    #[inline(always)]
    unsafe fn step<S: Simd, const R: usize, const V: usize>(
        &self,
        s: S,
        g: usize,
        x: [*const u8; R],
        acc: &mut [[S::I; V]; R],
    ) {
        // SAFETY: the caller's.
        unsafe {
            let bytes = V * S::LANES * S::DEPTH;
            self.ahead.ask(s, g, bytes);
            let mut codes = x;
            for r in 0..R {
                codes[r] = x[r].add(g * S::DEPTH);
            }
            s.multiply(self.w.add(g * bytes), codes, acc);
        }
    }

    #[inline(always)]
    unsafe fn finish<S: Simd, const R: usize, const V: usize>(&self, s: S, mut sums: [[S::I; V]; R]) {
        for r in 0..R {
            if r >= self.target.rows {
                break;
            }
            // SAFETY: the caller's; `partial` is used only if it was allocated.
            unsafe {
                for v in 0..V {
                    let partial = self.partial.wrapping_add((r * V + v) * S::LANES);
                    if !self.target.first {
                        sums[r][v] = s.iadd(sums[r][v], s.iload(partial));
                    }
                    if self.target.last {
                        let acc = s.isub(sums[r][v], s.isplat(*self.surplus.add(r)));
                        let acc = self.target.shift(s, r, v * S::LANES, acc);
                        self.target.put(s, r, v * S::LANES, s.to_float(acc));
                    } else {
                        s.istore(partial, sums[r][v]);
                    }
                }
            }
        }
    }
}
