//! INT8 on AMX: tiles of up to 16 rows by 16 columns by 64 channels, from the panels that the VNNI kernels read too.
//! A panel's row of four channels by 16 columns, which they load as a vector, is a row of a tile; its weights plus 128
//! are multiplied as unsigned bytes, and the surplus is subtracted at the end. A few rows are left to those kernels.
//!
//! Neither asking for memory ahead nor cutting the channels into pieces that stay in the first-level cache pays: both
//! were measured, and cost more than they save.
use super::tile::Target;
use super::{Block, Panel, int8};
use crate::buffer::Aligned;
use crate::isa::Isa;
use crate::simd::{Op, Simd};
use std::arch::asm;

/// Channels that one instruction sums: weights and codes are padded to whole steps.
pub(super) const STEP: usize = 64;
/// Bytes of activations that a task takes through its panels: processors with AMX have 2 MiB of second-level cache, and
/// tiles want more rows for each weight that is read.
pub(super) const BLOCK_BYTES: usize = 5 << 18;
/// From this many rows on, tiles are faster than vectors.
const FEWEST_ROWS: usize = 8;
/// Rows of a tile.
const TILE: usize = 16;
/// Columns of a tile.
const COLUMNS: usize = 16;

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
        let surplus = int8::surplus(s, &b);
        let slot = 2 * TILE * b.w.layout.width * 4;
        let mut sums = Aligned::zeroed(2 * slot);
        let sums = sums.bytes_mut().as_mut_ptr();
        // SAFETY: AMX runs here, as `takes` found.
        let _tiles = unsafe { Tiles::set_up(rows.height) };
        let mut before: Option<Pass<'_>> = None;
        for (i, panel) in b.panels.clone().enumerate() {
            for (j, tile) in (0..rows.tiles).step_by(2).enumerate() {
                let turn = i * rows.tiles.div_ceil(2) + j;
                let pass =
                    Pass { rows: &rows, tile, panel: b.w.panel(panel), sums: sums.wrapping_add(turn % 2 * slot) };
                // SAFETY: rows and panel are inside their buffers, which `pack` and `gemm_w8a8` pad to whole steps; the
                // tiles are set up; the sums of the pass before are in the other slot.
                unsafe {
                    pass.multiply(&b);
                    // The vector units work while tiles still are multiplied.
                    before.iter().for_each(|p| p.scale(s, &b, &surplus));
                    pass.store();
                }
                before = Some(pass);
            }
        }
        // SAFETY: as above.
        before.iter().for_each(|p| unsafe { p.scale(s, &b, &surplus) });
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

/// One or two tiles of rows times one panel.
struct Pass<'a> {
    rows: &'a Rows,
    /// The first tile of rows.
    tile: usize,
    panel: Panel,
    /// `[2][TILE][panel.width]` numbers, of which the tiles' rows are used.
    sums: *mut u8,
}

/// Sums all steps: instructions of a step follow the clearing of the sums' tiles. `{x}` and `{y}` are the first rows of
/// the two tiles, `{b}`, `{c}` and `{d}` the panel's tiles of columns, at the step.
macro_rules! steps {
    ($job:expr, $($zero:literal)*; $($line:literal)*) => {{
        let Job { x, ldx, w, ldw, steps } = $job;
        asm!(
            $(concat!("tilezero tmm", $zero),)*
            "test {n}, {n}",
            "jz 3f",
            "2:",
            $($line,)*
            "add {x}, 64",
            "add {y}, 64",
            "add {b}, {by}",
            "add {c}, {by}",
            "add {d}, {by}",
            "dec {n}",
            "jnz 2b",
            "3:",
            x = inout(reg) x[0] => _,
            y = inout(reg) x[1] => _,
            b = inout(reg) w => _,
            c = inout(reg) w.wrapping_add(64) => _,
            d = inout(reg) w.wrapping_add(128) => _,
            n = inout(reg) steps => _,
            by = in(reg) TILE * ldw,
            ldx = in(reg) ldx,
            ldw = in(reg) ldw,
            options(nostack, readonly)
        )
    }};
}

/// What a pass reads.
#[derive(Clone, Copy)]
struct Job {
    /// First rows of the tiles.
    x: [*const u8; 2],
    /// Bytes from row to row of codes.
    ldx: usize,
    w: *const u8,
    /// Bytes from one group of four channels to the next.
    ldw: usize,
    steps: usize,
}

impl Pass<'_> {
    /// How many tiles of rows.
    fn tiles(&self) -> usize {
        (self.rows.tiles - self.tile).min(2)
    }

    /// Sums the products of rows and panel in tiles: 0, 1 and 2 of the first tile of rows, 3, 4 and 5 of the second.
    ///
    /// # Safety
    /// The tiles are set up for the pass's rows; rows and panel lie inside the block.
    unsafe fn multiply(&self, b: &Block<'_>) {
        // SAFETY: the caller's.
        unsafe {
            let row = |tile: usize| b.x.add(self.rows.first(tile) * b.ldx);
            let job = Job {
                x: [row(self.tile), row(self.tile + self.tiles() - 1)],
                ldx: b.ldx,
                w: b.w.codes.bytes().as_ptr().add(self.panel.first * b.w.layout.kp),
                ldw: self.panel.width * 4,
                steps: b.w.layout.kp / STEP,
            };
            match (self.tiles(), self.panel.width / COLUMNS) {
                (1, 1) => steps!(job, 0;
                    "tileloadd tmm6, [{x} + {ldx}]"
                    "tileloadd tmm7, [{b} + {ldw}]" "tdpbsud tmm0, tmm6, tmm7"),
                (1, _) => steps!(job, 0 1 2;
                    "tileloadd tmm6, [{x} + {ldx}]"
                    "tileloadd tmm7, [{b} + {ldw}]" "tdpbsud tmm0, tmm6, tmm7"
                    "tileloadd tmm7, [{c} + {ldw}]" "tdpbsud tmm1, tmm6, tmm7"
                    "tileloadd tmm7, [{d} + {ldw}]" "tdpbsud tmm2, tmm6, tmm7"),
                (_, 1) => steps!(job, 0 3;
                    "tileloadd tmm7, [{b} + {ldw}]"
                    "tileloadd tmm6, [{x} + {ldx}]" "tdpbsud tmm0, tmm6, tmm7"
                    "tileloadd tmm6, [{y} + {ldx}]" "tdpbsud tmm3, tmm6, tmm7"),
                // Eight tiles are one too few to keep all operands: loading two again costs least.
                _ => steps!(job, 0 1 2 3 4 5;
                    "tileloadd tmm6, [{x} + {ldx}]"
                    "tileloadd tmm7, [{b} + {ldw}]" "tdpbsud tmm0, tmm6, tmm7"
                    "tileloadd tmm7, [{c} + {ldw}]" "tdpbsud tmm1, tmm6, tmm7"
                    "tileloadd tmm7, [{d} + {ldw}]" "tdpbsud tmm2, tmm6, tmm7"
                    "tileloadd tmm6, [{y} + {ldx}]" "tdpbsud tmm5, tmm6, tmm7"
                    "tileloadd tmm7, [{c} + {ldw}]" "tdpbsud tmm4, tmm6, tmm7"
                    "tileloadd tmm7, [{b} + {ldw}]" "tdpbsud tmm3, tmm6, tmm7"),
            }
        }
    }

    /// Stores the sums.
    ///
    /// # Safety
    /// `multiply` was called last; `sums` is large enough.
    unsafe fn store(&self) {
        let (width, ldw) = (self.panel.width, self.panel.width * 4);
        macro_rules! store {
            ($tile:literal, $row:literal, $column:literal) => {
                asm!(concat!("tilestored [{at} + {by}], tmm", $tile),
                    at = in(reg) self.sums.wrapping_add(($row * TILE * width + $column * COLUMNS) * 4), by = in(reg) ldw,
                    options(nostack, preserves_flags))
            };
        }
        // SAFETY: the caller's.
        unsafe {
            store!(0, 0, 0);
            if width > COLUMNS {
                store!(1, 0, 1);
                store!(2, 0, 2);
            }
            if self.tiles() == 2 {
                store!(3, 1, 0);
                if width > COLUMNS {
                    store!(4, 1, 1);
                    store!(5, 1, 2);
                }
            }
        }
    }

    /// Scales stored sums into outputs.
    ///
    /// # Safety
    /// The sums were stored; rows and panel lie inside the block.
    #[inline(always)]
    unsafe fn scale<S: Simd>(&self, s: S, b: &Block<'_>, surplus: &[i32]) {
        let height = self.rows.height;
        for tile in 0..self.tiles() {
            let first = self.rows.first(self.tile + tile);
            // SAFETY: the caller's.
            unsafe {
                let target = Target::new(b, first..first + height, &self.panel);
                // Rows outermost: an output's line is complete before the next, which may fall on the same cache set.
                for r in 0..height {
                    let surplus = s.isplat(surplus[first + r]);
                    for c in (0..self.panel.width).step_by(COLUMNS) {
                        let sum = s.iload(self.sums.add(((tile * TILE + r) * self.panel.width + c) * 4).cast());
                        let sum = target.shift(s, r, c, s.isub(sum, surplus));
                        target.put(s, r, c, s.to_float(sum));
                    }
                }
            }
        }
    }
}
