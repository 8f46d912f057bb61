//! The 8-bit product: packed weights, and how the work is divided. See `planish_tensor::q8` and `grid` for what it computes.
//! The result never depends on the division: every output is summed by one thread, over ascending input channels.
use crate::buffer::Aligned;
use crate::isa::Isa;
use crate::simd::{Op, Simd, dispatch};
use crate::threads::Threads;
use planish_tensor::{Grid, Q8};
use std::borrow::Cow;
use std::ops::Range;

#[cfg(target_arch = "x86_64")]
mod amx;
mod float8;
mod gated;
mod grouped;
mod int8;
mod pack;
mod tile;

pub use gated::gemm_gated_quantize;
pub use grouped::{GroupedQ8, gemm_grouped};

/// Quantized activations `[t, k]`.
#[derive(Clone, Copy)]
pub struct Q8Slice<'a> {
    /// `[t, k]` codes; INT8 codes are signed numbers as bytes.
    pub codes: &'a [u8],
    /// `[t]` scales.
    pub xs: &'a [f32],
}

/// An 8-bit weight `[n, k]` in the order in which the kernels of one instruction set read it, one byte a weight.
///
/// Panels of `width` output channels follow each other, then panels of one vector. Inside a panel INT8 codes are
/// ordered `[k/depth][column][depth]` (4 deep, a 32-bit lane is one column), and FP8 codes `[k][column]`.
pub struct PackedQ8 {
    n: usize,
    k: usize,
    kind: Q8,
    grid: Grid,
    isa: Isa,
    layout: Layout,
    codes: Aligned,
    /// Channel scales, and zeros up to whole vectors.
    ws: Vec<f32>,
    /// Sums of the channels' INT8 codes, and zeros up to whole vectors; empty where inputs have no zero points.
    sums: Vec<i32>,
    /// Biases (zero if there are none), and zeros up to whole vectors.
    bias: Vec<f32>,
}

/// Sizes of a packed weight.
#[derive(Clone, Copy)]
struct Layout {
    /// Columns of a vector.
    lanes: usize,
    /// Columns of a wide panel.
    width: usize,
    /// Input channels with padding.
    kp: usize,
    /// Neighbouring input channels of a column of INT8 codes.
    depth: usize,
    /// INT8 codes are stored plus 128.
    unsigned: bool,
    /// Bytes that so many INT8 activations take in the kernels' order.
    group: usize,
}

struct LayoutOf {
    kind: Q8,
    k: usize,
    isa: Isa,
}
impl Op for LayoutOf {
    type Out = Layout;
    #[inline(always)]
    fn run<S: Simd>(self, _: S) -> Layout {
        let depth = S::DEPTH;
        let kp = if self.kind == Q8::Int8 { self.k.next_multiple_of(padding(self.isa, depth)) } else { self.k };
        let (lanes, width) = (S::LANES, S::LANES * S::VECTORS);
        Layout { lanes, width, kp, depth, unsigned: S::UNSIGNED_WEIGHTS, group: S::GROUP }
    }
}

impl PackedQ8 {
    /// Packs weights with equal `k`, concatenated over `n`; each part is its codes `[n_i, k]` and scales `[n_i]`.
    /// `bias` has the sum of all `n_i`. Panics if lengths disagree.
    pub fn pack(
        kind: Q8,
        k: usize,
        parts: &[(&[u8], &[f32])],
        bias: Option<Vec<f32>>,
        isa: Isa,
        threads: &Threads,
    ) -> PackedQ8 {
        pack::pack(kind, k, parts, bias, isa, threads)
    }

    /// The same weight for inputs on another grid; `parts` are the codes it was packed from. Panics if inputs of the
    /// grid have more than one scale.
    pub fn on(mut self, grid: Grid, parts: &[(&[u8], &[f32])]) -> PackedQ8 {
        assert_eq!(grid.groups(self.k), 1, "one scale for each token");
        self.grid = grid;
        if grid.zero() != Some(0) {
            let rows = parts.iter().flat_map(|(codes, _)| codes.chunks_exact(self.k.max(1)));
            self.sums = rows.map(|row| row.iter().map(|&code| code as i8 as i32).sum()).collect();
            self.sums.resize(self.ws.len(), 0);
        }
        self
    }

    /// How the input becomes codes.
    pub fn grid(&self) -> Grid {
        self.grid
    }

    /// Output channels.
    pub fn n(&self) -> usize {
        self.n
    }

    /// Input channels.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The 8-bit type.
    pub fn kind(&self) -> Q8 {
        self.kind
    }

    /// Bytes that one pass reads.
    pub fn bytes(&self) -> usize {
        self.codes.bytes().len() + 4 * (self.ws.len() + self.bias.len())
    }

    /// Bytes of a token's codes as the kernels read them.
    fn row_bytes(&self) -> usize {
        self.layout.kp
    }

    fn panels(&self) -> usize {
        self.n / self.layout.width + (self.n % self.layout.width).div_ceil(self.layout.lanes)
    }

    fn panel(&self, i: usize) -> Panel {
        let Layout { lanes, width, .. } = self.layout;
        let wide = self.n / width;
        let (first, width) = if i < wide { (i * width, width) } else { (wide * width + (i - wide) * lanes, lanes) };
        Panel { first, width, columns: width.min(self.n - first) }
    }
}

/// A group of output channels.
struct Panel {
    /// First column.
    first: usize,
    /// Columns stored.
    width: usize,
    /// Columns in use.
    columns: usize,
}

/// Most rows that one task takes through its panels.
const BLOCK_ROWS: usize = 256;
/// Bytes of activations that a task takes through its panels: they stay in the second-level cache.
const BLOCK_BYTES: usize = 1 << 19;
/// With so many rows for each thread, a thread has rows of its own, which it also has in operations on rows: what one
/// of them writes is then near for the next.
const KEPT_ROWS: usize = 48;
/// A call with fewer multiplications than this is not worth waking a thread for.
const INLINE_WORK: usize = 150_000;

/// `out[t, n] = (x · wᵀ * xs[t]) * ws[n] + bias[n]`. Panics if lengths disagree.
pub fn gemm_w8a8(threads: &Threads, x: Q8Slice<'_>, w: &PackedQ8, out: &mut [f32]) {
    gemm_w8a8_all(threads, &mut [Product { x, zeros: None, w, out }]);
}

/// As [`gemm_w8a8`] of INT8 codes that are `zeros[t]` above their values; `w` was packed for such a grid.
pub fn gemm_shifted(threads: &Threads, x: Q8Slice<'_>, zeros: &[i32], w: &PackedQ8, out: &mut [f32]) {
    gemm_w8a8_all(threads, &mut [Product { x, zeros: Some(zeros), w, out }]);
}

/// A product, of several that run side by side.
pub struct Product<'a> {
    /// `[t, k]`.
    pub x: Q8Slice<'a>,
    /// `[t]` zero points, as [`gemm_shifted`] has them.
    pub zeros: Option<&'a [i32]>,
    /// `[n, k]`.
    pub w: &'a PackedQ8,
    /// `[t, n]`.
    pub out: &'a mut [f32],
}

/// As [`gemm_w8a8`] or [`gemm_shifted`], of each of the products: threads share out the tasks of all of them.
pub fn gemm_w8a8_all(threads: &Threads, products: &mut [Product<'_>]) {
    let (mut calls, mut tasks) = (Vec::with_capacity(products.len()), 0);
    for Product { x, zeros, w, out } in products {
        let t = x.xs.len();
        assert_eq!(x.codes.len(), t * w.k, "codes of {t} tokens of width {}", w.k);
        assert_eq!(out.len(), t * w.n, "output of {t} tokens and {} channels", w.n);
        if let Some(zeros) = zeros {
            assert_eq!((zeros.len(), w.sums.len()), (t, w.ws.len()), "zero points of {t} tokens, and sums for them");
        }
        if out.is_empty() {
            continue;
        }
        let padded = w.kind == Q8::Int8 && w.layout.kp != w.k;
        let codes = if padded { pad_rows(x.codes, w.k, w.layout.kp).into() } else { Cow::Borrowed(x.codes) };
        let (ldx, plan) = (codes.len() / t, Plan::new(t, w, w.k, threads.count()));
        let first = tasks;
        tasks += plan.tasks();
        calls.push(Call { first, plan, w, codes, ldx, xs: x.xs, zeros: *zeros, out: Output(out.as_mut_ptr()) });
    }
    threads.run(tasks, |task| {
        let call = &calls[calls.partition_point(|call| call.first <= task) - 1];
        multiply(call.block(task - call.first));
    });
}

/// A product as tasks.
struct Call<'a> {
    /// The first of its tasks.
    first: usize,
    plan: Plan,
    w: &'a PackedQ8,
    /// Rows `ldx` bytes apart.
    codes: Cow<'a, [u8]>,
    ldx: usize,
    xs: &'a [f32],
    zeros: Option<&'a [i32]>,
    out: Output,
}

impl Call<'_> {
    fn block(&self, task: usize) -> Block<'_> {
        let (rows, panels) = self.plan.task(task);
        Block {
            w: self.w,
            // SAFETY: the row exists; see the length checks of `gemm_w8a8_all`.
            x: unsafe { self.codes.as_ptr().add(rows.start * self.ldx) },
            ldx: self.ldx,
            xs: &self.xs[rows.clone()],
            zeros: self.zeros.map(|zeros| &zeros[rows.clone()]),
            panels,
            // SAFETY: as above. Tasks write disjoint parts.
            out: unsafe { self.out.at(rows.start * self.w.n) },
            ldo: self.w.n,
        }
    }
}

fn multiply(block: Block<'_>) {
    match block.w.kind {
        #[cfg(target_arch = "x86_64")]
        Q8::Int8 if amx::takes(&block) => dispatch(block.w.isa, amx::Product(block)),
        Q8::Int8 => dispatch(block.w.isa, int8::Product(block)),
        Q8::E4M3 => dispatch(block.w.isa, float8::Product::<true>(block)),
        Q8::E5M2 => dispatch(block.w.isa, float8::Product::<false>(block)),
    }
}

/// One task: some rows times some panels.
struct Block<'a> {
    w: &'a PackedQ8,
    /// First row of codes, and bytes from row to row.
    x: *const u8,
    ldx: usize,
    xs: &'a [f32],
    zeros: Option<&'a [i32]>,
    panels: Range<usize>,
    /// Column 0 of the first row of the output (of which only the panels' columns need be there), and numbers from row
    /// to row.
    out: *mut f32,
    ldo: usize,
}

/// The output, shared by tasks that write disjoint parts of it.
struct Output(*mut f32);
// SAFETY: see the type.
unsafe impl Sync for Output {}
impl Output {
    /// # Safety
    /// `offset` must lie inside.
    unsafe fn at(&self, offset: usize) -> *mut f32 {
        // SAFETY: the caller's.
        unsafe { self.0.add(offset) }
    }
}

/// A grid of row blocks by groups of panels.
struct Plan {
    t: usize,
    row_blocks: usize,
    panels: usize,
    groups: usize,
}

impl Plan {
    /// For products of `k` input channels in all, of which a task takes those of `w` at a time.
    fn new(t: usize, w: &PackedQ8, k: usize, threads: usize) -> Plan {
        let row_bytes = if w.kind == Q8::Int8 {
            w.layout.kp / w.layout.depth * w.layout.group
        } else {
            w.layout.kp * size_of::<f32>()
        };
        let max_rows = (block_bytes(w) / row_bytes.max(1)).clamp(BLOCK_ROWS / 4, BLOCK_ROWS);
        let (mut row_blocks, panels) = (t.div_ceil(max_rows), w.panels());
        if t >= KEPT_ROWS * threads {
            row_blocks = row_blocks.next_multiple_of(threads);
        }
        let work = t * w.n * k;
        // Eight tasks a thread even out what a busy machine takes away, as long as they are not tiny.
        let tasks = if threads == 1 { 1 } else { (work / INLINE_WORK).clamp(1, 8 * threads) };
        let most = tasks.div_ceil(row_blocks).min(panels);
        // Groups of equal size, if that takes no less than half as many.
        let groups = (most.div_ceil(2)..=most).rev().find(|g| panels.is_multiple_of(*g)).unwrap_or(most);
        Plan { t, row_blocks, panels, groups }
    }

    fn tasks(&self) -> usize {
        self.row_blocks * self.groups
    }

    fn task(&self, task: usize) -> (Range<usize>, Range<usize>) {
        let (block, group) = (task / self.groups, task % self.groups);
        (part(self.t, self.row_blocks, block), part(self.panels, self.groups, group))
    }
}

/// Part `i` of `0..len` cut into `parts` of almost equal length.
fn part(len: usize, parts: usize, i: usize) -> Range<usize> {
    len * i / parts..len * (i + 1) / parts
}

/// Of how many input channels a family's INT8 kernels want a multiple, if they lie `depth` together.
fn padding(isa: Isa, depth: usize) -> usize {
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Amx {
        return amx::STEP;
    }
    let _ = isa;
    depth
}

/// Bytes of activations that a task takes through its panels.
fn block_bytes(w: &PackedQ8) -> usize {
    #[cfg(target_arch = "x86_64")]
    if w.isa == Isa::Amx && w.kind == Q8::Int8 {
        return amx::BLOCK_BYTES;
    }
    let _ = w;
    BLOCK_BYTES
}

fn pad_rows(codes: &[u8], k: usize, kp: usize) -> Vec<u8> {
    let mut padded = vec![0; codes.len() / k.max(1) * kp];
    for (to, from) in padded.chunks_exact_mut(kp.max(1)).zip(codes.chunks_exact(k.max(1))) {
        to[..k].copy_from_slice(from);
    }
    padded
}

#[cfg(test)]
mod tests;
