//! Memory of one thread at work, and the layout of a state: what query rows know after some keys.
use super::softmax::Row;
use super::tile::MOST_ROWS;
use super::{KEYS, Operands, QUERY_ROWS};
use crate::buffer::Aligned;
use crate::vector::Vector;
use std::ops::Range;

/// One thread's memory.
pub(super) struct Scratch {
    memory: Aligned,
    /// Width of a row of outputs: d padded to whole registers.
    pub width: usize,
    rows: usize,
    pub k_rows: [*const f32; KEYS],
    pub v_rows: [*const f32; KEYS],
    /// Factors on the scores of the block's keys.
    pub factors: [f32; KEYS],
    /// Scales of the block's values, if they are codes.
    pub v_scales: [f32; KEYS],
    /// Keys that each row sees.
    pub visible: Vec<Range<usize>>,
}

impl Scratch {
    pub fn new<V: Vector>(o: &Operands<'_>) -> Self {
        let width = o.shape.d.next_multiple_of(V::LANES);
        let rows = (QUERY_ROWS / o.group()).max(1) * o.group();
        let floats = width + 3 * KEYS * width + MOST_ROWS * KEYS + 2 * rows * (width + 2);
        let null = [std::ptr::null(); KEYS];
        Scratch {
            memory: Aligned::zeroed(floats * 4),
            width,
            rows,
            k_rows: null,
            v_rows: null,
            factors: [0.0; KEYS],
            v_scales: [0.0; KEYS],
            visible: Vec::with_capacity(rows),
        }
    }

    fn at(&mut self, i: usize) -> *mut f32 {
        self.memory.bytes_mut().as_mut_ptr().cast::<f32>().wrapping_add(i)
    }

    /// Zeros, `[width]`.
    pub fn zeros(&mut self) -> *mut f32 {
        self.at(0)
    }

    /// The block's keys `[d, KEYS]`.
    pub fn kt(&mut self) -> *mut f32 {
        self.at(self.width)
    }

    /// Widened keys (0) and values (1) of a block, `[KEYS, width]`.
    pub fn wide(&mut self, which: usize) -> *mut f32 {
        self.at(self.width + (1 + which) * KEYS * self.width)
    }

    /// Scores of a tile, `[MOST_ROWS, KEYS]`.
    pub fn scores(&mut self) -> *mut f32 {
        self.at(self.width + 3 * KEYS * self.width)
    }

    /// State of the segment (0) and of all segments so far (1).
    pub fn state(&mut self, which: usize) -> *mut f32 {
        let size = self.rows * (self.width + 2);
        self.at(self.width + 3 * KEYS * self.width + MOST_ROWS * KEYS + which * size)
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
