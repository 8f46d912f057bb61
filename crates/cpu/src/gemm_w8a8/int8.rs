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
        let arranged = arrange(s, &b, groups);
        let (x, ldx) = if S::GROUP == S::DEPTH { (b.x, b.ldx) } else { (arranged.as_ptr(), groups * S::GROUP) };
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
                            x: x.add(rows.start * ldx + g.start * S::GROUP),
                            ldx,
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

/// The activations in the order that the family reads; nothing if that is how they come.
#[inline(always)]
fn arrange<S: Simd>(s: S, b: &Block<'_>, groups: usize) -> Vec<u8> {
    let (rows, row) = (b.xs.len(), groups * S::GROUP);
    let mut to: Vec<u8> = Vec::new();
    if S::GROUP != S::DEPTH {
        to.reserve_exact(rows * row);
        // SAFETY: every row has `groups` groups, and there is room for them, which they fill.
        unsafe {
            (0..rows).for_each(|r| s.arrange(b.x.add(r * b.ldx), groups, to.as_mut_ptr().add(r * row)));
            to.set_len(rows * row);
        }
    }
    to
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
    /// Groups as the family reads them.
    x: *const u8,
    /// From row to row of `x`, in bytes.
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
    fn ask<S: Simd, const NEAR: bool>(&self, s: S, g: usize, bytes: usize) {
        let w = self.w.wrapping_add(g * self.stride);
        if NEAR {
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
        // SAFETY: the caller's.
        unsafe {
            // A loop for each: a branch in it takes three percent.
            let sums = if self.ahead.near { self.sum::<S, R, V, true>(s) } else { self.sum::<S, R, V, false>(s) };
            self.finish::<S, R, V>(s, sums);
        }
    }
}

impl Sums {
    #[inline(always)]
    unsafe fn sum<S: Simd, const R: usize, const V: usize, const NEAR: bool>(&self, s: S) -> [[S::I; V]; R] {
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
                    self.step::<S, R, V, NEAR>(s, g + phase, x, &mut acc[phase]);
                }
                g += phases;
            }
            while g < self.groups {
                self.step::<S, R, V, NEAR>(s, g, x, &mut acc[0]);
                g += 1;
            }
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
        sums
    }

    #[inline(always)]
    unsafe fn step<S: Simd, const R: usize, const V: usize, const NEAR: bool>(
        &self,
        s: S,
        g: usize,
        x: [*const u8; R],
        acc: &mut [[S::I; V]; R],
    ) {
        // SAFETY: the caller's.
        unsafe {
            let bytes = V * S::LANES * S::DEPTH;
            self.ahead.ask::<S, NEAR>(s, g, bytes);
            let mut codes = x;
            for r in 0..R {
                codes[r] = x[r].add(g * S::GROUP);
            }
            s.multiply(self.w.add(g * bytes), codes, acc);
        }
    }

    /// Most tiles are whole and are summed in one go: their sums stay in registers. The others' take the way through memory.
    #[inline(always)]
    unsafe fn finish<S: Simd, const R: usize, const V: usize>(&self, s: S, sums: [[S::I; V]; R]) {
        let t = &self.target;
        // SAFETY: the caller's; no family has more than sixteen lanes.
        unsafe {
            if !(t.first && t.last && t.is_whole::<S, R, V>()) {
                let mut memory = [[[0i32; 16]; V]; R];
                for r in 0..R {
                    for v in 0..V {
                        s.istore(memory[r][v].as_mut_ptr(), sums[r][v]);
                    }
                }
                return s.call(Part { of: *self, sums: memory });
            }
            let (mut ws, mut bias) = ([s.splat(0.0); V], [s.splat(0.0); V]);
            for v in 0..V {
                (ws[v], bias[v]) = (s.load(t.ws.add(v * S::LANES)), s.load(t.bias.add(v * S::LANES)));
            }
            for r in 0..R {
                let (surplus, xs) = (s.isplat(*self.surplus.add(r)), s.splat(*t.xs.add(r)));
                for v in 0..V {
                    let acc = s.to_float(s.isub(sums[r][v], surplus));
                    let y = s.add(s.mul(s.mul(acc, xs), ws[v]), bias[v]);
                    s.store(t.out.add(r * t.ldo + v * S::LANES), y);
                }
            }
        }
    }
}

/// A tile of which not all is in use, or which is not summed in one go, or has zero points.
struct Part<const R: usize, const V: usize> {
    of: Sums,
    sums: [[[i32; 16]; V]; R],
}

impl<const R: usize, const V: usize> Op for Part<R, V> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let Part { of, sums } = self;
        let target = of.target;
        for (r, sums) in sums[..target.rows].iter().enumerate() {
            // SAFETY: the tile's maker answers for the pointers; `partial` is used only if it was allocated.
            unsafe {
                for (v, sums) in sums.iter().enumerate() {
                    let (mut acc, partial) = (s.iload(sums.as_ptr()), of.partial.wrapping_add((r * V + v) * S::LANES));
                    if !target.first {
                        acc = s.iadd(acc, s.iload(partial));
                    }
                    if target.last {
                        let acc = s.isub(acc, s.isplat(*of.surplus.add(r)));
                        let acc = target.shift(s, r, v * S::LANES, acc);
                        target.put(s, r, v * S::LANES, s.to_float(acc));
                    } else {
                        s.istore(partial, acc);
                    }
                }
            }
        }
    }
}
