//! Memory of one thread at work, and the layout of a state: what query rows know after some keys.
// Tiles of bf16 pairs use more of it than those of f32.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
use super::arena::{Arena, Lease};
#[cfg(target_arch = "x86_64")]
use super::pairs::Table;
use super::softmax::Row;
use super::tile::MOST_ROWS;
use super::{KEYS, Operands};
use crate::vector::Vector;
use std::ops::Range;

/// Most rows that are taken at once with a row in each lane.
pub(super) const MANY: usize = 48;

/// One thread's memory.
pub(super) struct Scratch<'a> {
    memory: Lease<'a>,
    /// Width of a row of outputs: d padded to whole registers.
    pub width: usize,
    /// d padded to whole registers of bytes: the pitch of rows of pairs.
    pub pitch: usize,
    rows: usize,
    /// Bytes of the block's keys and values, where they are used as they lie.
    pub k_rows: [*const f32; KEYS],
    pub v_rows: [*const f32; KEYS],
    /// What scores are multiplied with as they are computed, besides their keys' scales; and then as exponents.
    pub base: f32,
    pub unit: f32,
    /// Factors on the scores of the block's keys.
    pub factors: [f32; KEYS],
    /// Scales of the block's values, if they are codes.
    pub v_scales: [f32; KEYS],
    /// What INT8 and FP8 codes stand for.
    #[cfg(target_arch = "x86_64")]
    pub tables: &'a [Table; 2],
    /// Keys that each row sees.
    pub visible: Vec<Range<usize>>,
    /// The sequence and key head whose keys this thread will probably read next.
    pub following: Option<(usize, usize)>,
}

impl<'a> Scratch<'a> {
    /// For items of up to `rows` query rows.
    pub fn new<V: Vector>(o: &Operands<'_>, rows: usize, arena: &'a Arena) -> Self {
        let (width, pitch) = (o.shape.d.next_multiple_of(V::LANES), o.shape.d.next_multiple_of(64));
        let state = rows * (width + 2);
        let floats = pitch + 3 * KEYS * pitch + 2 * MOST_ROWS * KEYS + rows * pitch + 2 * state + MANY * KEYS;
        let null = [std::ptr::null(); KEYS];
        let mut scratch = Scratch {
            memory: arena.lease(floats),
            width,
            pitch,
            rows,
            k_rows: null,
            v_rows: null,
            base: o.shape.scale,
            unit: 1.0,
            factors: [o.shape.scale; KEYS],
            v_scales: [1.0; KEYS],
            #[cfg(target_arch = "x86_64")]
            tables: &arena.tables,
            visible: Vec::with_capacity(rows),
            following: None,
        };
        // SAFETY: the first `pitch` floats of the lease.
        unsafe { std::slice::from_raw_parts_mut(scratch.zeros(), pitch) }.fill(0.0);
        scratch
    }

    /// Zeros, `[pitch]`.
    pub fn zeros(&mut self) -> *mut f32 {
        self.memory.at(0)
    }

    /// The block's keys `[d, KEYS]`, or `[pitch / 2, KEYS]` pairs of channels.
    pub fn kt(&mut self) -> *mut f32 {
        self.memory.at(self.pitch)
    }

    /// Widened keys (0) and values (1) of a block, `[KEYS, width]`; or values as `[KEYS / 2, pitch]` pairs of keys.
    pub fn wide(&mut self, which: usize) -> *mut f32 {
        self.memory.at(self.pitch + (1 + which) * KEYS * self.pitch)
    }

    /// Scores of a tile (0), `[MOST_ROWS, KEYS]`, and their weights in pairs (1).
    pub fn scores(&mut self, which: usize) -> *mut f32 {
        self.memory.at(self.pitch + 3 * KEYS * self.pitch + which * MOST_ROWS * KEYS)
    }

    /// The item's queries as pairs, `[rows, pitch / 2]`.
    pub fn queries(&mut self) -> *mut f32 {
        self.memory.at(self.pitch + 3 * KEYS * self.pitch + 2 * MOST_ROWS * KEYS)
    }

    /// The queries of whole sixteens of rows, `[rows / 16, pitch / 2, 16]`.
    pub fn queries_by_lane(&mut self) -> *mut f32 {
        self.queries().wrapping_add(self.rows * self.pitch / 2)
    }

    /// Scores of many rows, `[KEYS, MANY]`, in whose place come their weights in pairs of keys.
    pub fn many(&mut self) -> *mut f32 {
        self.state(2)
    }

    /// State of the segment (0) and of all segments so far (1).
    pub fn state(&mut self, which: usize) -> *mut f32 {
        let before = self.pitch + 3 * KEYS * self.pitch + 2 * MOST_ROWS * KEYS + self.rows * self.pitch;
        self.memory.at(before + which * self.rows * (self.width + 2))
    }
}

/// Row `r` of a state: outputs `[rows, width]`, maxima `[rows]`, sums `[rows]`.
pub(super) fn row(state: *mut f32, rows: usize, width: usize, r: usize) -> Row {
    let m = state.wrapping_add(rows * width + r);
    Row { o: state.wrapping_add(r * width), m, l: m.wrapping_add(rows) }
}

/// A state of no keys.
///
/// # Safety
/// `state` is that many floats.
pub(super) unsafe fn clear(state: *mut f32, rows: usize, width: usize) {
    // SAFETY: the caller's contract; the parts of a state lie one after the other.
    unsafe {
        std::slice::from_raw_parts_mut(state, rows * (width + 2)).fill(0.0);
        std::slice::from_raw_parts_mut(state.add(rows * width), rows).fill(f32::NEG_INFINITY);
    }
}
