//! The split of a product into tiles, and over the threads.
// Only some families have bf16 dot products.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
#[cfg(target_arch = "x86_64")]
use super::tile::Dots;
use super::tile::{Full, Pairs, Product, Tile, multiply};
use super::{INLINE, PANEL, PackedFloat};
use crate::isa::Isa;
use crate::threads::Threads;
#[cfg(target_arch = "aarch64")]
use crate::vector::Neon;
#[cfg(target_arch = "x86_64")]
use crate::vector::{Avx2, Avx512};
use crate::vector::{DotVector, Shared, Vector, Work};
use half::bf16;
use planish_tensor::{DType, FloatMath};
use std::marker::PhantomData;
use std::ops::Range;

/// Steps between which sums may rest in memory, so that a panel's part stays in the near caches.
const STEPS_BLOCK: usize = 384;
/// Steps between asking for a panel's words and using them.
const AHEAD: usize = 12;
/// Rows of x that are run against one panel before the next, at most.
const ROWS_BLOCK: usize = 128;
/// Fewer rows than these are no task for the sake of a thread.
const FEWEST_ROWS: usize = 8;
/// Panels of a run: fewer are not worth a task while there are others, more take too long.
const FEWEST_PANELS: usize = 4;
const MOST_PANELS: usize = 64;
/// Rows of x rounded by one task.
const ROUND_ROWS: usize = 16;

/// Multiplies, if the weight's family has vectors. The shapes are the caller's to check.
pub(super) fn run(threads: &Threads, x: &[f32], w: &PackedFloat, math: FloatMath, out: &mut [f32]) -> bool {
    let t = x.len() / w.k;
    let out = Shared(out.as_mut_ptr());
    let pairs = w.dtype == DType::BF16;
    let _ = math; // asked for only where a family has bf16 dot products
    let job = |x: *const f32| Job { x, x_row: w.k, t, out, w };
    // SAFETY: the packed weight's family runs here (packing has checked it), and x, w and out
    // have the sizes asserted above.
    unsafe {
        match w.isa {
            #[cfg(target_arch = "x86_64")]
            isa if pairs && math == FloatMath::Bf16 && isa.has_fast_bf16_dots() => {
                let rounded = round_pairs::<Avx512>(threads, x, w.k);
                let job = Job { x: rounded.as_ptr(), x_row: w.k.div_ceil(2), t, out, w };
                split::<Dots<Avx512>>(threads, &job, 1, false);
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx if pairs => {
                split::<Pairs<Avx512>>(threads, &job(x.as_ptr()), 2, w.k % 2 == 1);
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx => split::<Full<Avx512>>(threads, &job(x.as_ptr()), 1, false),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni if pairs => {
                split::<Pairs<Avx2>>(threads, &job(x.as_ptr()), 2, w.k % 2 == 1);
            }
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 | Isa::AvxVnni => split::<Full<Avx2>>(threads, &job(x.as_ptr()), 1, false),
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonI8mm if pairs => {
                split::<Pairs<Neon>>(threads, &job(x.as_ptr()), 2, w.k % 2 == 1);
            }
            #[cfg(target_arch = "aarch64")]
            Isa::Neon | Isa::NeonI8mm => split::<Full<Neon>>(threads, &job(x.as_ptr()), 1, false),
            _ => return false,
        }
    }
    true
}

/// A product with its operands as addresses. `x_row` is in elements of `X`.
struct Job<'a, X> {
    x: *const X,
    x_row: usize,
    t: usize,
    out: Shared<f32>,
    w: &'a PackedFloat,
}

// SAFETY: x is only read, and tasks write disjoint parts of `out`.
unsafe impl<X> Sync for Job<'_, X> {}

/// Splits the work over the threads: blocks of rows by runs of panels.
///
/// # Safety
/// The machine has the product's instructions; the job's addresses cover its shape.
unsafe fn split<P: Product>(threads: &Threads, job: &Job<'_, P::X>, x_step: usize, odd: bool) {
    let w = job.w;
    let small = job.t * w.n * w.k < INLINE;
    let plan = Plan::new(job.t, w.n.div_ceil(PANEL), if small { 1 } else { threads.count() });
    let task = |i: usize| {
        let (rows, panels) = plan.task(i);
        // SAFETY: the caller's contract; tasks cover disjoint blocks of the result.
        unsafe { block::<P>(job, rows, panels, x_step, odd) }
    };
    if small { (0..plan.tasks()).for_each(task) } else { threads.run(plan.tasks(), task) }
}

/// Blocks of rows by runs of panels.
pub(super) struct Plan {
    t: usize,
    row_blocks: usize,
    panels: usize,
    /// Panels of a run.
    run: usize,
}

impl Plan {
    /// For `t` rows; one thread needs no more blocks than the caches do.
    pub(super) fn new(t: usize, panels: usize, threads: usize) -> Plan {
        let row_blocks = t.div_ceil(ROWS_BLOCK);
        if threads == 1 {
            return Plan { t, row_blocks, panels, run: panels.clamp(1, MOST_PANELS) };
        }
        // Some more tasks than threads, so that a thread that lost its core does not hold up the others.
        let run = (panels * row_blocks / (4 * threads)).clamp(FEWEST_PANELS, MOST_PANELS);
        // Narrow weights, as a router's, make few runs: then threads share out the rows.
        let wanted = threads.min(t / FEWEST_ROWS).div_ceil(panels.div_ceil(run).max(1));
        Plan { t, row_blocks: row_blocks.max(wanted), panels, run }
    }

    fn runs(&self) -> usize {
        self.panels.div_ceil(self.run)
    }

    pub(super) fn tasks(&self) -> usize {
        self.row_blocks * self.runs()
    }

    /// Rows and panels of a task. Blocks of rows are of almost equal length.
    pub(super) fn task(&self, i: usize) -> (Range<usize>, Range<usize>) {
        let (block, first) = (i / self.runs(), i % self.runs() * self.run);
        let row = |block: usize| self.t * block / self.row_blocks;
        (row(block)..row(block + 1), first..(first + self.run).min(self.panels))
    }
}

/// Multiplies a block of rows with a run of panels.
///
/// # Safety
/// As for `split`.
unsafe fn block<P: Product>(job: &Job<'_, P::X>, rows: Range<usize>, panels: Range<usize>, x_step: usize, odd: bool) {
    let strip = 3 * P::V::LANES;
    let (w, steps) = (job.w, job.w.steps());
    let end = (panels.end * PANEL).min(w.n);
    let mut column = panels.start * PANEL;
    while column < end {
        // With one or two rows, several strips at once keep enough sums in flight.
        let whole = (end - column) / strip;
        let strips = match rows.len() {
            1 if whole >= 4 => 4,
            1 | 2 if whole >= 2 => 2,
            _ => 1,
        };
        let address = |c: usize| {
            // SAFETY: column `c` is inside the packed weight.
            unsafe { w.words().add(c / PANEL * PANEL * steps + c % PANEL) }
        };
        let columns = (end - column).min(strips * strip);
        let place = Place {
            w: std::array::from_fn(|s| if s < strips { address(column + s * strip) } else { std::ptr::null() }),
            column,
            columns,
            strips,
        };
        // SAFETY: the caller keeps the contract.
        unsafe { strip_rows::<P>(job, rows.clone(), &place, x_step, odd) };
        column += columns;
    }
}

/// Neighbouring strips of columns inside the packed weight.
struct Place {
    w: [*const u32; 4],
    column: usize,
    columns: usize,
    strips: usize,
}

/// Multiplies a block of rows with neighbouring strips, some steps at a time.
///
/// # Safety
/// As for `split`.
unsafe fn strip_rows<P: Product>(job: &Job<'_, P::X>, rows: Range<usize>, place: &Place, x_step: usize, odd: bool) {
    let w = job.w;
    // An odd channel is half a step of its own at the end.
    let steps = w.steps() - usize::from(odd);
    let blocks = if rows.len() <= P::ROWS { 1 } else { steps.div_ceil(STEPS_BLOCK).max(1) };
    let block = steps.div_ceil(blocks);
    for first in (0..steps.max(1)).step_by(block.max(1)) {
        let count = (steps - first).min(block);
        let last = first + count == steps;
        let mut row = rows.start;
        while row < rows.end {
            // Tiles of about equal height.
            let left = rows.end - row;
            let m = left.div_ceil(left.div_ceil(P::ROWS));
            let tile = Tile {
                x: job.x.wrapping_add(row * job.x_row + first * x_step),
                x_row: job.x_row,
                x_step,
                w: place.w.map(|w| w.wrapping_add(first * PANEL)),
                w_step: PANEL,
                ahead: AHEAD * PANEL,
                steps: count,
                odd: odd && last,
                out: job.out.at(row * w.n + place.column),
                out_row: w.n,
                columns: place.columns,
                resume: first > 0,
                bias: w.bias.as_ref().filter(|_| last).map_or(std::ptr::null(), |b| b[place.column..].as_ptr()),
            };
            // SAFETY: rows, columns and steps lie inside the operands, which the caller vouches for.
            unsafe { multiply::<P>(&tile, m, place.strips) };
            row += m;
        }
    }
}

/// Rows of x rounded to bf16, in pairs of channels (an odd last one with 0).
///
/// # Safety
/// The machine has the family's instructions.
unsafe fn round_pairs<V: DotVector>(threads: &Threads, x: &[f32], k: usize) -> Vec<u32> {
    let (rows, pairs) = (x.len() / k, k.div_ceil(2));
    let mut out = vec![0u32; rows * pairs];
    let to = Shared(out.as_mut_ptr());
    let round = |i: usize| {
        let block = i * ROUND_ROWS * k..((i + 1) * ROUND_ROWS * k).min(x.len());
        for (r, row) in x[block].chunks_exact(k).enumerate() {
            // SAFETY: each task has its own rows of `out`; the caller vouches for the family.
            unsafe { V::enter_dot(Round::<V> { row, to: to.at((i * ROUND_ROWS + r) * pairs), family: PhantomData }) };
        }
    };
    let blocks = rows.div_ceil(ROUND_ROWS);
    if x.len() < INLINE {
        (0..blocks).for_each(round)
    } else {
        threads.run(blocks, round)
    }
    out
}

/// One row to round, and where its pairs go.
struct Round<'a, V> {
    row: &'a [f32],
    to: *mut u32,
    family: PhantomData<V>,
}

impl<V: DotVector> Work for Round<'_, V> {
    #[inline(always)]
    unsafe fn run(self) {
        let whole = self.row.len() / (2 * V::LANES) * V::LANES;
        for i in (0..whole).step_by(V::LANES) {
            // SAFETY: pairs i..i + LANES lie inside the row, and `to` has as many words.
            unsafe { V::round_pairs(self.row.as_ptr().add(2 * i)).store(self.to.add(i).cast()) };
        }
        for (i, c) in self.row[2 * whole..].chunks(2).enumerate() {
            let high = c.get(1).map_or(0, |&h| bf16::from_f32(h).to_bits());
            // SAFETY: as above.
            unsafe { *self.to.add(whole + i) = bf16::from_f32(c[0]).to_bits() as u32 | (high as u32) << 16 };
        }
    }
}
