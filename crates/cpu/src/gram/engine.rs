//! Gram matrices by the product's tiles: both operands are panels of x.
// Only some families have bf16 dot products.
#![cfg_attr(not(target_arch = "x86_64"), allow(dead_code))]
use super::STRETCH;
use crate::buffer::Aligned;
use crate::gemm_float::PANEL;
#[cfg(target_arch = "x86_64")]
use crate::gemm_float::tile::Dots;
use crate::gemm_float::tile::{Full, Product, Tile, multiply};
use crate::isa::Isa;
use crate::threads::Threads;
#[cfg(target_arch = "aarch64")]
use crate::vector::Neon;
#[cfg(target_arch = "x86_64")]
use crate::vector::{Avx2, Avx512};
use crate::vector::{DotVector, Shared, Vector, Work};
use planish_tensor::FloatMath;
use std::marker::PhantomData;

/// Adds to the matrix, if the family has vectors. The caller has checked that x is `[t, k]` and `gram` `[k, k]`.
pub(super) fn run(threads: &Threads, isa: Isa, x: &[f32], k: usize, math: FloatMath, gram: Shared<f32>) -> bool {
    let t = x.len().checked_div(k).unwrap_or(0);
    // SAFETY: the caller asserted that the family runs here; the caller asserted the sizes.
    unsafe {
        match (isa, math) {
            #[cfg(target_arch = "x86_64")]
            (_, FloatMath::Bf16) if isa.has_fast_bf16_dots() => {
                let packed = pack(threads, x, k, 2, |low, high, to| {
                    Avx512::enter_dot(Join::<Avx512> { low, high, to, family: PhantomData });
                });
                add::<Dots<Avx512>>(threads, &packed, t.div_ceil(2), STRETCH / 2, k, gram);
            }
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx512 | Isa::Avx512Bf16 | Isa::Amx, _) => {
                let packed = pack(threads, x, k, 1, |row, _, to| to.copy_from_slice(row));
                add::<Full<Avx512>>(threads, &packed, t, STRETCH, k, gram);
            }
            #[cfg(target_arch = "x86_64")]
            (Isa::Avx2 | Isa::AvxVnni, _) => {
                let packed = pack(threads, x, k, 1, |row, _, to| to.copy_from_slice(row));
                add::<Full<Avx2>>(threads, &packed, t, STRETCH, k, gram);
            }
            #[cfg(target_arch = "aarch64")]
            (Isa::Neon | Isa::NeonI8mm, _) => {
                let packed = pack(threads, x, k, 1, |row, _, to| to.copy_from_slice(row));
                add::<Full<Neon>>(threads, &packed, t, STRETCH, k, gram);
            }
            _ => return false,
        }
    }
    true
}

/// x in panels of [`PANEL`] columns: word `(panel * steps + step) * PANEL + column`. `join` makes a step's words of a
/// panel from those of one row of x, or of `rows` = 2 rows (a second row beyond the end is empty).
fn pack(
    threads: &Threads,
    x: &[f32],
    k: usize,
    rows: usize,
    join: impl Fn(&[f32], &[f32], &mut [f32]) + Sync,
) -> Aligned {
    let (panels, steps) = (k.div_ceil(PANEL), (x.len() / k.max(1)).div_ceil(rows));
    let mut packed = Aligned::zeroed(panels * steps * PANEL * 4);
    let to = Shared(packed.bytes_mut().as_mut_ptr().cast::<f32>());
    threads.run(steps.div_ceil(64), |block| {
        for step in block * 64..(block * 64 + 64).min(steps) {
            let (low, rest) = x[step * rows * k..].split_at(k);
            let high = if rows == 2 && rest.len() >= k { &rest[..k] } else { &[] };
            for p in 0..panels {
                let columns = p * PANEL..(p * PANEL + PANEL).min(k);
                // SAFETY: each task has its own steps of every panel.
                let to = unsafe { std::slice::from_raw_parts_mut(to.at((p * steps + step) * PANEL), columns.len()) };
                join(&low[columns.clone()], high.get(columns).unwrap_or(&[]), to);
            }
        }
    });
    packed
}

/// Two rows' columns to round and join in pairs.
struct Join<'a, V> {
    low: &'a [f32],
    high: &'a [f32],
    to: &'a mut [f32],
    family: PhantomData<V>,
}

impl<V: DotVector> Work for Join<'_, V> {
    #[inline(always)]
    unsafe fn run(self) {
        for c in (0..self.low.len()).step_by(V::LANES) {
            let lanes = (self.low.len() - c).min(V::LANES);
            // SAFETY: both rows (or an empty one) and `to` have these lanes.
            unsafe {
                let high =
                    if self.high.is_empty() { V::splat(0.0) } else { V::load_part(self.high[c..].as_ptr(), lanes) };
                let pairs = V::load_part(self.low[c..].as_ptr(), lanes).join_pairs(high);
                pairs.store_part(self.to[c..].as_mut_ptr(), lanes);
            }
        }
    }
}

/// Adds the lower triangle, a pair of panels at a time.
///
/// # Safety
/// The machine has the product's instructions; `packed` holds `steps` steps of k columns, `gram` is `[k, k]`.
unsafe fn add<P: Product>(
    threads: &Threads,
    packed: &Aligned,
    steps: usize,
    stretch: usize,
    k: usize,
    gram: Shared<f32>,
) {
    let panels = k.div_ceil(PANEL);
    let words = Shared(packed.bytes().as_ptr().cast_mut());
    threads.run(panels * (panels + 1) / 2, |i| {
        // Row r of the triangle has r + 1 panels.
        let row = ((8.0 * i as f64 + 1.0).sqrt() as usize - 1) / 2;
        let row = if row * (row + 1) / 2 > i { row - 1 } else { row };
        let column = i - row * (row + 1) / 2;
        let mut sums = Aligned::zeroed(PANEL * PANEL * 4);
        let sums = sums.bytes_mut().as_mut_ptr().cast::<f32>();
        for first in (0..steps).step_by(stretch) {
            let panel = |p: usize| words.at((p * steps + first) * PANEL * 4).cast_const();
            // SAFETY: the caller's contract; pairs of panels have their own part of the matrix.
            unsafe {
                block::<P>(panel(row), panel(column), stretch.min(steps - first), sums);
                add_block(std::slice::from_raw_parts(sums, PANEL * PANEL), row * PANEL, column * PANEL, k, gram);
            }
        }
    });
}

/// `sums[PANEL, PANEL]` = products of the columns of two panels.
///
/// # Safety
/// As for `add`.
unsafe fn block<P: Product>(a: *const u8, b: *const u8, steps: usize, sums: *mut f32) {
    let strip = 3 * P::V::LANES;
    for column in (0..PANEL).step_by(strip) {
        for row in (0..PANEL).step_by(P::ROWS) {
            let w = b.cast::<u32>().wrapping_add(column);
            let tile = Tile {
                x: a.cast::<P::X>().wrapping_add(row),
                x_row: 1,
                x_step: PANEL,
                w: [w; 4],
                w_step: PANEL,
                ahead: 0,
                steps,
                odd: false,
                out: sums.wrapping_add(row * PANEL + column),
                out_row: PANEL,
                columns: strip,
                resume: false,
                bias: std::ptr::null(),
            };
            // SAFETY: the caller keeps the contract; rows and columns lie inside the panels.
            unsafe { multiply::<P>(&tile, P::ROWS, 1) };
        }
    }
}

/// Adds what of a block lies in the matrix and not above the diagonal.
///
/// # Safety
/// `gram` is `[k, k]`, and no other task writes this block.
unsafe fn add_block(sums: &[f32], row: usize, column: usize, k: usize, gram: Shared<f32>) {
    for i in row..(row + PANEL).min(k) {
        let end = (column + PANEL).min(i + 1);
        if end > column {
            // SAFETY: the caller keeps the contract.
            let to = unsafe { std::slice::from_raw_parts_mut(gram.at(i * k + column), end - column) };
            to.iter_mut().zip(&sums[(i - row) * PANEL..]).for_each(|(g, s)| *g += s);
        }
    }
}
