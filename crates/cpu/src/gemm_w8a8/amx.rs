//! INT8 on AMX: tiles of up to 16 rows by 16 columns by 64 channels, from the panels that the VNNI kernels read too.
//! A panel's row of four channels by 16 columns, which they load as a vector, is a row of a tile; its weights plus 128
//! are multiplied as unsigned bytes, and the surplus is subtracted at the end. A few rows are left to those kernels.
use super::tile::Target;
use super::{Block, Panel, int8, part};
use crate::buffer::Aligned;
use crate::isa::Isa;
use crate::simd::{Op, Simd};
use std::arch::asm;
use std::ops::Range;

/// Channels that one instruction sums: weights and codes are padded to whole steps.
pub(super) const STEP: usize = 64;
/// From this many rows on, tiles are faster than vectors.
const FEWEST_ROWS: usize = 8;
/// Rows of a tile.
const TILE: usize = 16;
/// Columns of a tile.
const COLUMNS: usize = 16;
/// Steps that two tiles of rows take before the next two read the same weights again.
const CHUNK: usize = 11;
/// Bytes of activations that a task takes through its panels: processors with AMX have 2 MiB of second-level cache, and
/// tiles want more rows for each weight that is read.
pub(super) const BLOCK_BYTES: usize = 5 << 18;
/// How far ahead weights are asked for that are read once.
const NEAR: usize = 6144;

/// Whether these kernels take the block. They must not be called for another.
pub(super) fn takes(b: &Block<'_>) -> bool {
    b.w.isa == Isa::Amx && b.xs.len() >= FEWEST_ROWS && Isa::Amx.runs_here()
}

/// The product of a block that [`takes`] accepts.
pub(super) struct Product<'a>(pub(super) Block<'a>);

impl Op for Product<'_> {
    type Out = ();
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        if S::LANES != COLUMNS {
            // Never called; and no code is made for it.
            return;
        }
        let Product(b) = self;
        let rows = Rows::new(b.xs.len());
        let (steps, width) = (b.w.layout.kp / STEP, b.w.layout.width);
        let surplus = int8::surplus(s, &b);
        let chunks = if rows.tiles <= 2 { 1 } else { steps.div_ceil(CHUNK).max(1) };
        // Sums of the pass before are still being scaled while a pass makes its own.
        let slots = if chunks == 1 { 2 } else { rows.tiles.div_ceil(2) };
        let slot = 2 * TILE * width * 4;
        let mut sums = Aligned::zeroed(slots * slot);
        let (sums, mut turn) = (sums.bytes_mut().as_mut_ptr(), 0);
        let mut rest = Scaling::nothing(&b, &surplus);
        // SAFETY: AMX runs here, as `takes` found.
        let _tiles = unsafe { Tiles::set_up(rows.height) };
        for panel in b.panels.clone() {
            let panel = b.w.panel(panel);
            for chunk in 0..chunks {
                for tile in (0..rows.tiles).step_by(2) {
                    let pass = Pass { steps: part(steps, chunks, chunk), rows: &rows, tile };
                    let sums = sums.wrapping_add(turn % slots * slot);
                    turn += 1;
                    // SAFETY: rows, steps and panel are inside their buffers, which `pack` and `gemm_w8a8` pad to whole
                    // steps; the tiles are set up; the sums to scale are in another slot.
                    unsafe {
                        multiply(s, &b, &panel, &pass, sums, &mut rest);
                        rest.some(s, usize::MAX);
                        if chunk + 1 == chunks {
                            rest.take(&panel, &pass, sums);
                        }
                    }
                }
            }
        }
        // SAFETY: as above.
        unsafe { rest.some(s, usize::MAX) };
    }
}

/// How rows are cut into tiles: all of one height, so that tiles are set up once; the last may overlap the one before,
/// and then computes some rows again.
struct Rows {
    count: usize,
    tiles: usize,
    height: usize,
}

impl Rows {
    fn new(count: usize) -> Rows {
        let tiles = count.div_ceil(TILE);
        Rows { count, tiles, height: count.div_ceil(tiles.max(1)) }
    }

    /// First row of a tile.
    fn first(&self, tile: usize) -> usize {
        (tile * self.height).min(self.count - self.height)
    }
}

/// One or two tiles of rows, and the steps to add.
struct Pass<'a> {
    steps: Range<usize>,
    rows: &'a Rows,
    /// The first tile.
    tile: usize,
}

impl Pass<'_> {
    /// How many tiles of rows.
    fn tiles(&self) -> usize {
        (self.rows.tiles - self.tile).min(2)
    }
}

/// The shape of the tiles, as LDTILECFG reads it.
#[repr(C, align(64))]
struct Shape {
    palette: u8,
    reserved: [u8; 15],
    row_bytes: [u16; 16],
    rows: [u8; 16],
}

/// This thread's tiles: 0 to 5 are sums, 6 is activations, 7 is weights.
struct Tiles(());

impl Tiles {
    /// # Safety
    /// AMX must run here; `rows` is at most [`TILE`].
    unsafe fn set_up(rows: usize) -> Tiles {
        let mut shape = Shape { palette: 1, reserved: [0; 15], row_bytes: [0; 16], rows: [0; 16] };
        shape.row_bytes[..8].fill(STEP as u16);
        shape.rows[..7].fill(rows as u8);
        shape.rows[7] = TILE as u8;
        // SAFETY: the caller's; the shape is one of palette 1. Compiled code uses no tiles.
        unsafe { asm!("ldtilecfg [{}]", in(reg) &shape, options(nostack, readonly, preserves_flags)) };
        Tiles(())
    }
}

impl Drop for Tiles {
    fn drop(&mut self) {
        // SAFETY: AMX runs here, or the value would not exist.
        unsafe { asm!("tilerelease", options(nostack, nomem, preserves_flags)) };
    }
}

/// Tile instructions, their tiles by number. `at` is the address of the first row, `by` the bytes from row to row.
macro_rules! tile {
    (zero $t:literal) => { asm!(concat!("tilezero tmm", $t), options(nostack, nomem, preserves_flags)) };
    (load $t:literal, $at:expr, $by:expr) => {
        asm!(concat!("tileloadd tmm", $t, ", [{at} + {by}*1]"), at = in(reg) $at, by = in(reg) $by,
            options(nostack, readonly, preserves_flags))
    };
    (store $t:literal, $at:expr, $by:expr) => {
        asm!(concat!("tilestored [{at} + {by}*1], tmm", $t), at = in(reg) $at, by = in(reg) $by,
            options(nostack, preserves_flags))
    };
    // Signed activations times unsigned weights.
    (dot $t:literal) => { asm!(concat!("tdpbsud tmm", $t, ", tmm6, tmm7"), options(nostack, nomem, preserves_flags)) };
}

/// Adds a pass's steps for one panel to `sums`, `[2][TILE][panel.width]` numbers (of which the tiles' rows are used).
/// Meanwhile scales what is left of the pass before.
///
/// # Safety
/// The tiles are set up for the pass's rows; its rows and steps and the panel lie inside the block; so does the rest.
#[inline(always)]
unsafe fn multiply<S: Simd>(
    s: S,
    b: &Block<'_>,
    panel: &Panel,
    pass: &Pass<'_>,
    sums: *mut u8,
    rest: &mut Scaling<'_>,
) {
    // SAFETY: the caller's.
    unsafe {
        let k = pass.steps.start * STEP;
        let row = |tile: usize| b.x.add(pass.rows.first(tile) * b.ldx + k);
        let job = Job {
            x: [row(pass.tile), row(pass.tile + pass.tiles() - 1)],
            ldx: b.ldx,
            w: b.w.codes.bytes().as_ptr().add(panel.first * b.w.layout.kp + k * panel.width),
            ldw: panel.width * 4,
            steps: pass.steps.len(),
            first: pass.steps.start == 0,
            sums,
        };
        let ahead = Ahead::new(&job, pass);
        match (pass.tiles(), panel.width / COLUMNS) {
            (1, 3) => job.one_by_three(s, ahead, rest),
            (2, 3) => job.two_by_three(s, ahead, rest),
            (1, 1) => job.one_by_one(s, ahead, rest),
            (2, 1) => job.two_by_one(s, ahead, rest),
            _ => unreachable!("panels are of three vectors or of one"),
        }
    }
}

/// What the tile kernels read and write.
struct Job {
    /// First rows of the tiles, at the first step.
    x: [*const u8; 2],
    /// Bytes from row to row of codes.
    ldx: usize,
    /// Weights of the first step.
    w: *const u8,
    /// Bytes from one group of four channels to the next.
    ldw: usize,
    steps: usize,
    /// Sums start from zero, else from what `sums` holds.
    first: bool,
    sums: *mut u8,
}

/// Weights to ask for: a little further in the same stream if they are read once, else the tiles' share of what follows.
#[derive(Clone, Copy)]
struct Ahead {
    w: *const u8,
    /// Lines of each step.
    lines: usize,
    near: bool,
}

impl Ahead {
    #[inline(always)]
    fn new(job: &Job, pass: &Pass<'_>) -> Ahead {
        let (lines, passes) = (job.ldw * TILE / 64, pass.rows.tiles.div_ceil(2));
        if passes == 1 {
            return Ahead { w: job.w.wrapping_add(NEAR), lines, near: true };
        }
        let share = lines.div_ceil(passes);
        let w = job.w.wrapping_add((job.steps * lines + pass.tile / 2 * share * job.steps) * 64);
        Ahead { w, lines: share, near: false }
    }

    #[inline(always)]
    fn ask<S: Simd>(&self, s: S, step: usize) {
        let w = self.w.wrapping_add(step * self.lines * 64);
        for line in 0..self.lines {
            let w = w.wrapping_add(line * 64);
            if self.near { s.prefetch(w) } else { s.prefetch2(w) }
        }
    }
}

/// One kernel: which sums it keeps (tile, tile of rows, tile of columns), and a step's loads and products in order.
macro_rules! kernel {
    ($name:ident, $columns:literal: $($t:literal $r:literal $c:literal),*; |$x:ident, $w:ident| $($op:ident $i:literal),*) => {
        #[inline(always)]
        unsafe fn $name<S: Simd>(&self, s: S, ahead: Ahead, rest: &mut Scaling<'_>) {
            let by = self.ldw;
            let sums = |r: usize, c: usize| self.sums.wrapping_add((r * TILE * $columns + c) * COLUMNS * 4);
            // SAFETY: the caller's.
            unsafe {
                $( if self.first { tile!(zero $t) } else { tile!(load $t, sums($r, $c), by) } )*
                let share = (2 * TILE).div_ceil(self.steps.max(1));
                for step in 0..self.steps {
                    ahead.ask(s, step);
                    rest.some(s, share);
                    let $x = |r: usize| self.x[r].add(step * STEP);
                    let $w = |c: usize| self.w.add(step * TILE * by + c * COLUMNS * 4);
                    $( kernel!(@ $op $i, $x, $w, self.ldx, by); )*
                }
                $( tile!(store $t, sums($r, $c), by); )*
            }
        }
    };
    (@ x $i:literal, $x:ident, $w:ident, $ldx:expr, $ldw:expr) => { tile!(load 6, $x($i), $ldx) };
    (@ w $i:literal, $x:ident, $w:ident, $ldx:expr, $ldw:expr) => { tile!(load 7, $w($i), $ldw) };
    (@ dot $i:literal, $x:ident, $w:ident, $ldx:expr, $ldw:expr) => { tile!(dot $i) };
}

/// The kernels.
///
/// # Safety
/// For each: the tiles are set up, and the job's addresses cover its tiles of rows, columns and steps.
impl Job {
    kernel!(two_by_three, 3: 0 0 0, 1 0 1, 2 0 2, 3 1 0, 4 1 1, 5 1 2; |x, w|
        x 0, w 0, dot 0, w 1, dot 1, w 2, dot 2, x 1, dot 5, w 1, dot 4, w 0, dot 3);
    kernel!(one_by_three, 3: 0 0 0, 1 0 1, 2 0 2; |x, w| x 0, w 0, dot 0, w 1, dot 1, w 2, dot 2);
    kernel!(two_by_one, 1: 0 0 0, 1 1 0; |x, w| w 0, x 0, dot 0, x 1, dot 1);
    kernel!(one_by_one, 1: 0 0 0; |x, w| x 0, w 0, dot 0);
}

/// Complete sums on their way to the outputs: some rows at each step of the next pass, whose tile instructions leave
/// the vector units idle.
struct Scaling<'a> {
    b: &'a Block<'a>,
    /// What is to be subtracted, by row.
    surplus: &'a [i32],
    sums: *const u8,
    panel: Panel,
    /// First row of each tile.
    first: [usize; 2],
    height: usize,
    /// Tile and row that come next, and tiles in all.
    next: (usize, usize),
    tiles: usize,
}

impl<'a> Scaling<'a> {
    fn nothing(b: &'a Block<'a>, surplus: &'a [i32]) -> Self {
        let panel = Panel { first: 0, width: 0, columns: 0 };
        Scaling { b, surplus, sums: std::ptr::null(), panel, first: [0; 2], height: 0, next: (0, 0), tiles: 0 }
    }

    /// Takes on the sums of a pass.
    fn take(&mut self, panel: &Panel, pass: &Pass<'_>, sums: *const u8) {
        self.panel = Panel { ..*panel };
        self.first = [pass.rows.first(pass.tile), pass.rows.first(pass.tile + pass.tiles() - 1)];
        (self.sums, self.height, self.next, self.tiles) = (sums, pass.rows.height, (0, 0), pass.tiles());
    }

    /// Scales up to `count` rows.
    ///
    /// # Safety
    /// What was taken lies inside the block, and its sums are complete.
    #[inline(always)]
    unsafe fn some<S: Simd>(&mut self, s: S, count: usize) {
        for _ in 0..count {
            let (tile, r) = self.next;
            if tile == self.tiles {
                return;
            }
            let row = self.first[tile] + r;
            // SAFETY: the caller's.
            unsafe {
                let surplus = s.isplat(*self.surplus.get_unchecked(row));
                let target = Target::new(self.b, row..row + 1, &self.panel);
                let sums = self.sums.add((tile * TILE + r) * self.panel.width * 4);
                for c in (0..self.panel.width).step_by(COLUMNS) {
                    let sum = s.iload(sums.add(c * 4).cast());
                    target.put(s, 0, c, s.to_float(s.isub(sum, surplus)));
                }
            }
            self.next = if r + 1 == self.height { (tile + 1, 0) } else { (tile, r + 1) };
        }
    }
}
