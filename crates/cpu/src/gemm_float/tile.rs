//! The product tile: some rows of x against some columns of a packed panel, the sums held in registers.
//! Every sum runs over the channels in ascending order, whatever the tile's shape, so shapes never change results.
// Only some families have bf16 dot products.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
use crate::vector::{DotVector, Vector, Work};
use std::marker::PhantomData;

/// Registers of a strip.
const N: usize = 3;

/// One tile. Strides are in elements of [`Product::X`] and [`Product::W`].
pub(crate) struct Tile<X> {
    /// First row of x at the first step.
    pub x: *const X,
    /// From one row of x to the next.
    pub x_row: usize,
    /// From one step to the next in x.
    pub x_step: usize,
    /// Panel columns at the first step, for each strip of columns.
    pub w: [*const u32; 4],
    /// From one step to the next in the panel.
    pub w_step: usize,
    /// How far ahead of a step to ask for memory.
    pub ahead: usize,
    /// Whole steps.
    pub steps: usize,
    /// Whether half a step (one channel of a pair) follows.
    pub odd: bool,
    /// First element of the result.
    pub out: *mut f32,
    /// From one row of the result to the next.
    pub out_row: usize,
    /// Columns that exist, over all strips; the panel itself is padded.
    pub columns: usize,
    /// Sums start from what `out` holds instead of 0.
    pub resume: bool,
    /// Added after the sum, by column; may be null.
    pub bias: *const f32,
}

/// How a step multiplies. A panel row is 32-bit words: f32, or pairs of bf16 channels.
pub(crate) trait Product {
    type V: Vector;
    /// What a step of one row of x is read as.
    type X;
    /// Most rows of a tile.
    const ROWS: usize = Self::V::ROWS;

    /// Adds one step of `M` rows times `S` strips of `N` registers.
    ///
    /// # Safety
    /// As for [`Vector`]; `x(r)` and `w(s)` point to whole steps.
    unsafe fn step<const M: usize, const S: usize>(
        acc: &mut [[[Self::V; N]; S]; M],
        x: impl Fn(usize) -> *const Self::X,
        w: impl Fn(usize) -> *const u32,
    );

    /// Adds the first half of a step, for products of pairs.
    ///
    /// # Safety
    /// As for `step`, but of each pair in x only the first is read.
    unsafe fn half_step<const M: usize, const S: usize>(
        _acc: &mut [[[Self::V; N]; S]; M],
        _x: impl Fn(usize) -> *const Self::X,
        _w: impl Fn(usize) -> *const u32,
    ) {
    }

    /// Runs `work` compiled for the instructions that the product needs.
    ///
    /// # Safety
    /// As for [`Vector::enter`].
    #[inline(always)]
    unsafe fn enter<W: Work>(work: W) {
        // SAFETY: the caller keeps the contract.
        unsafe { Self::V::enter(work) }
    }
}

/// f32 weights: a step is one channel.
pub(crate) struct Full<V>(PhantomData<V>);
/// bf16 weights widened to f32: a step is two channels, one after the other.
pub(crate) struct Pairs<V>(PhantomData<V>);
/// bf16 weights and activations: a step is one dot product of two channels.
pub(crate) struct Dots<V>(PhantomData<V>);

/// The registers of a step, by strip.
#[inline(always)]
unsafe fn gather<V: Vector, const S: usize>(read: impl Fn(usize, usize) -> V) -> [[V; N]; S] {
    // SAFETY: the caller keeps the contract of `Vector`.
    let mut b = [[unsafe { V::splat(0.0) }; N]; S];
    for s in 0..S {
        for v in 0..N {
            b[s][v] = read(s, v * V::LANES);
        }
    }
    b
}

#[inline(always)]
unsafe fn fma_row<V: Vector, const S: usize>(acc: &mut [[V; N]; S], x: f32, w: &[[V; N]; S]) {
    for s in 0..S {
        for v in 0..N {
            // SAFETY: the caller keeps the contract of `Vector`.
            unsafe { acc[s][v] = V::splat(x).fma(w[s][v], acc[s][v]) };
        }
    }
}

impl<V: Vector> Product for Full<V> {
    type V = V;
    type X = f32;

    #[inline(always)]
    unsafe fn step<const M: usize, const S: usize>(
        acc: &mut [[[V; N]; S]; M],
        x: impl Fn(usize) -> *const f32,
        w: impl Fn(usize) -> *const u32,
    ) {
        // SAFETY: the caller keeps the contract.
        unsafe {
            let b: [[V; N]; S] = gather(|s, c| V::load(w(s).cast::<f32>().add(c)));
            for r in 0..M {
                fma_row(&mut acc[r], *x(r), &b);
            }
        }
    }
}

impl<V: Vector> Product for Pairs<V> {
    type V = V;
    type X = f32;
    // A step is two channels long: taller tiles are not unrolled by the compiler, and their sums live in memory.
    const ROWS: usize = if V::ROWS > 4 { 4 } else { 2 };

    #[inline(always)]
    unsafe fn step<const M: usize, const S: usize>(
        acc: &mut [[[V; N]; S]; M],
        x: impl Fn(usize) -> *const f32,
        w: impl Fn(usize) -> *const u32,
    ) {
        // SAFETY: the caller keeps the contract.
        unsafe {
            let low: [[V; N]; S] = gather(|s, c| V::load_pairs(w(s).add(c)).0);
            let high: [[V; N]; S] = gather(|s, c| V::load_pairs(w(s).add(c)).1);
            for r in 0..M {
                fma_row(&mut acc[r], *x(r), &low);
                fma_row(&mut acc[r], *x(r).add(1), &high);
            }
        }
    }

    #[inline(always)]
    unsafe fn half_step<const M: usize, const S: usize>(
        acc: &mut [[[V; N]; S]; M],
        x: impl Fn(usize) -> *const f32,
        w: impl Fn(usize) -> *const u32,
    ) {
        // SAFETY: the caller keeps the contract.
        unsafe {
            let low: [[V; N]; S] = gather(|s, c| V::load_pairs(w(s).add(c)).0);
            for r in 0..M {
                fma_row(&mut acc[r], *x(r), &low);
            }
        }
    }
}

impl<V: DotVector> Product for Dots<V> {
    type V = V;
    type X = u32;

    #[inline(always)]
    unsafe fn step<const M: usize, const S: usize>(
        acc: &mut [[[V; N]; S]; M],
        x: impl Fn(usize) -> *const u32,
        w: impl Fn(usize) -> *const u32,
    ) {
        // SAFETY: the caller keeps the contract.
        unsafe {
            let b: [[V; N]; S] = gather(|s, c| V::load(w(s).cast::<f32>().add(c)));
            for r in 0..M {
                let pair = *x(r);
                for s in 0..S {
                    for v in 0..N {
                        acc[r][s][v] = acc[r][s][v].dot_pairs(pair, b[s][v]);
                    }
                }
            }
        }
    }

    #[inline(always)]
    unsafe fn enter<W: Work>(work: W) {
        // SAFETY: the caller keeps the contract.
        unsafe { V::enter_dot(work) }
    }
}

struct Run<'a, P: Product, const M: usize, const S: usize>(&'a Tile<P::X>);

impl<P: Product, const M: usize, const S: usize> Work for Run<'_, P, M, S> {
    #[inline(always)]
    unsafe fn run(self) {
        let t = self.0;
        // SAFETY: the caller of `multiply` made a tile whose pointers cover its rows, strips and steps.
        unsafe {
            let lanes = |s: usize, v: usize| t.columns.saturating_sub((s * N + v) * P::V::LANES).min(P::V::LANES);
            let at = |r: usize, s: usize, v: usize| t.out.wrapping_add(r * t.out_row + (s * N + v) * P::V::LANES);
            let mut acc = [[[P::V::splat(0.0); N]; S]; M];
            if t.resume {
                for (r, s, v) in places::<M, S>() {
                    acc[r][s][v] = P::V::load_part(at(r, s, v), lanes(s, v));
                }
            }
            let mut rows = [t.x; M];
            for r in 0..M {
                rows[r] = t.x.add(r * t.x_row);
            }
            let (mut x, mut w) = (0, 0);
            for _ in 0..t.steps {
                for s in 0..S {
                    for line in (0..N * P::V::LANES).step_by(16) {
                        P::V::prefetch(t.w[s].wrapping_add(w + t.ahead + line));
                    }
                }
                P::step(&mut acc, |r| rows[r].add(x), |s| t.w[s].add(w));
                x += t.x_step;
                w += t.w_step;
            }
            if t.odd {
                P::half_step(&mut acc, |r| rows[r].add(x), |s| t.w[s].add(w));
            }
            for (r, s, v) in places::<M, S>() {
                let mut sum = acc[r][s][v];
                if !t.bias.is_null() {
                    let column = (s * N + v) * P::V::LANES;
                    sum = sum.add(P::V::load_part(t.bias.wrapping_add(column), lanes(s, v)));
                }
                sum.store_part(at(r, s, v), lanes(s, v));
            }
        }
    }
}

#[inline(always)]
fn places<const M: usize, const S: usize>() -> impl Iterator<Item = (usize, usize, usize)> {
    (0..M * S * N).map(|i| (i / (S * N), i / N % S, i % N))
}

/// Computes a tile of `rows` rows and `strips` strips.
/// Strips need few rows: at most `P::ROWS` rows by one strip, two by two, or one by four.
///
/// # Safety
/// The machine has the product's instructions, and the tile's pointers cover rows, strips and steps.
#[inline(always)]
pub(crate) unsafe fn multiply<P: Product>(tile: &Tile<P::X>, rows: usize, strips: usize) {
    // SAFETY: the caller keeps the contract.
    unsafe {
        match (rows, strips) {
            (1, 4) => P::enter(Run::<P, 1, 4>(tile)),
            (1, 2) => P::enter(Run::<P, 1, 2>(tile)),
            (2, 2) => P::enter(Run::<P, 2, 2>(tile)),
            (1, _) => P::enter(Run::<P, 1, 1>(tile)),
            (2, _) => P::enter(Run::<P, 2, 1>(tile)),
            (3, _) => P::enter(Run::<P, 3, 1>(tile)),
            (4, _) => P::enter(Run::<P, 4, 1>(tile)),
            _ if const { P::ROWS < 6 } => unreachable!("tiles have at most P::ROWS rows"),
            (5, _) => P::enter(Run::<P, 5, 1>(tile)),
            _ => P::enter(Run::<P, 6, 1>(tile)),
        }
    }
}
