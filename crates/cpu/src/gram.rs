//! Statistics of activations: Gram matrices and column maxima.
//! Rows are summed from 0 in ascending order in stretches of [`STRETCH`]; each stretch is then added to the matrix.
use crate::buffer::Aligned;
use crate::gemm_float::PANEL;
use crate::isa::Isa;
use crate::threads::Threads;
use crate::vector::Shared;
use planish_tensor::backend::FloatMath;
#[cfg(target_arch = "x86_64")]
use {
    crate::gemm_float::tile::{Dots, Full, Product, Tile, multiply},
    crate::vector::{Avx2, Avx512, DotVector, Vector, Work},
    std::marker::PhantomData,
};

/// Rows of x that are summed before the matrix is touched (for the vector families, and the definition).
const STRETCH: usize = 512;

/// `gram[i, j] += Σ_t x[t, i] x[t, j]` for `j <= i`; the upper triangle is left alone. `x` is `[t, k]`, `gram` `[k, k]`.
/// [`FloatMath::Bf16`] rounds x to bf16 where the family has bf16 dot products; all else is computed in f32.
/// The result does not depend on the number of threads.
pub fn accumulate_gram(threads: &Threads, isa: Isa, x: &[f32], k: usize, math: FloatMath, gram: &mut [f32]) {
    let t = x.len().checked_div(k).unwrap_or(0);
    assert_eq!((x.len(), gram.len()), (t * k, k * k), "accumulate_gram: x [t, {k}], gram [{k}, {k}]");
    let gram = Shared(gram.as_mut_ptr());
    #[cfg(target_arch = "x86_64")]
    // SAFETY: families in use run here (`Isa` values come from `Isa::available`); sizes are asserted above.
    unsafe {
        match (isa, math) {
            (Isa::Avx512Bf16, FloatMath::Bf16) => {
                let packed = pack(threads, x, k, 2, |low, high, to| {
                    Avx512::enter_dot(Join::<Avx512> { low, high, to, family: PhantomData });
                });
                return run::<Dots<Avx512>>(threads, &packed, t.div_ceil(2), STRETCH / 2, k, gram);
            }
            (Isa::Avx512 | Isa::Avx512Bf16, _) => {
                let packed = pack(threads, x, k, 1, |row, _, to| to.copy_from_slice(row));
                return run::<Full<Avx512>>(threads, &packed, t, STRETCH, k, gram);
            }
            (Isa::Avx2 | Isa::AvxVnni, _) => {
                let packed = pack(threads, x, k, 1, |row, _, to| to.copy_from_slice(row));
                return run::<Full<Avx2>>(threads, &packed, t, STRETCH, k, gram);
            }
            (Isa::Scalar | Isa::Neon, _) => {}
        }
    }
    let _ = (isa, math);
    threads.run(k, |i| {
        for j in 0..=i {
            for stretch in x.chunks(STRETCH * k) {
                let sum = stretch.chunks_exact(k).fold(0.0f32, |y, row| row[i].mul_add(row[j], y));
                // SAFETY: each task has its own row of the matrix.
                unsafe { *gram.at(i * k + j) += sum };
            }
        }
    });
}

/// `absmax[j] = max(absmax[j], |x[t, j]|)` over the rows of `x` `[t, k]`; NaN where a column has one.
pub fn observe_columns(threads: &Threads, isa: Isa, x: &[f32], k: usize, absmax: &mut [f32]) {
    assert!(k > 0 && x.len().is_multiple_of(k) && absmax.len() == k, "observe_columns: x [t, {k}], absmax [{k}]");
    let to = Shared(absmax.as_mut_ptr());
    let width = 256;
    threads.run(k.div_ceil(width), |i| {
        let columns = i * width..(i * width + width).min(k);
        // SAFETY: each task has its own columns.
        let to = unsafe { std::slice::from_raw_parts_mut(to.at(columns.start), columns.len()) };
        #[cfg(target_arch = "x86_64")]
        if isa >= Isa::Avx2 {
            // SAFETY: families in use run here, and those from AVX2 up have AVX2.
            return x.chunks_exact(k).for_each(|row| unsafe { raise_avx2(to, &row[columns.clone()]) });
        }
        let _ = isa;
        x.chunks_exact(k).for_each(|row| raise(to, &row[columns.clone()]));
    });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn raise_avx2(to: &mut [f32], row: &[f32]) {
    raise(to, row);
}

#[inline(always)]
fn raise(to: &mut [f32], row: &[f32]) {
    for (m, x) in to.iter_mut().zip(row) {
        // Once NaN, a maximum stays so; a NaN is never "not greater".
        let x = x.abs();
        *m = if m.is_nan() || x <= *m { *m } else { x };
    }
}

/// x in panels of [`PANEL`] columns: word `(panel * steps + step) * PANEL + column`. `join` makes a step's words of a
/// panel from those of one row of x, or of `rows` = 2 rows (a second row beyond the end is empty).
#[cfg(target_arch = "x86_64")]
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
#[cfg(target_arch = "x86_64")]
struct Join<'a, V> {
    low: &'a [f32],
    high: &'a [f32],
    to: &'a mut [f32],
    family: PhantomData<V>,
}

#[cfg(target_arch = "x86_64")]
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
#[cfg(target_arch = "x86_64")]
unsafe fn run<P: Product>(
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
/// As for `run`.
#[cfg(target_arch = "x86_64")]
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
#[cfg(target_arch = "x86_64")]
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gemm_float::tests::floats;

    #[test]
    fn lower_triangle_of_the_gram_matrix() {
        let pools = [1, 2, 3].map(Threads::new);
        for (t, k) in [(1, 1), (3, 50), (257, 47), (64, 96), (513, 129), (1100, 33)] {
            let x = floats(t as u64, t * k);
            let rounded: Vec<f32> = x.iter().map(|&v| half::bf16::from_f32(v).to_f32()).collect();
            let before = floats(3, k * k);
            for (isa, math) in Isa::available().into_iter().flat_map(|i| [(i, FloatMath::F32), (i, FloatMath::Bf16)]) {
                let of = if isa == Isa::Avx512Bf16 && math == FloatMath::Bf16 { &rounded } else { &x };
                let results: Vec<Vec<f32>> = pools
                    .iter()
                    .map(|pool| {
                        let mut gram = before.clone();
                        accumulate_gram(pool, isa, &x, k, math, &mut gram);
                        gram
                    })
                    .collect();
                assert!(results.iter().all(|r| *r == results[0]), "threads change the result");
                for (at, (&g, &b)) in results[0].iter().zip(&before).enumerate() {
                    let (i, j) = (at / k, at % k);
                    let terms = of.chunks_exact(k).map(|row| row[i] as f64 * row[j] as f64);
                    let (sum, size) = terms.fold((b as f64, b.abs() as f64), |(s, m), v| (s + v, m + v.abs()));
                    if j > i {
                        assert_eq!(g, b, "the upper triangle is left alone");
                    } else {
                        assert!((g as f64 - sum).abs() <= 4e-6 * size, "{isa:?} {math:?} t={t} k={k} [{i}, {j}]");
                    }
                }
            }
        }
    }

    #[test]
    fn f32_families_agree_to_the_bit() {
        let (t, k, pool) = (700, 61, Threads::new(2));
        let x = floats(1, t * k);
        let gram = |isa| {
            let mut gram = vec![0.0; k * k];
            accumulate_gram(&pool, isa, &x, k, FloatMath::F32, &mut gram);
            gram
        };
        for isa in Isa::available() {
            assert_eq!(gram(isa), gram(Isa::Scalar), "{isa:?}");
        }
    }

    #[test]
    fn column_maxima_keep_nan() {
        let (t, k, pool) = (5, 300, Threads::new(2));
        let mut x = floats(2, t * k);
        (x[k + 7], x[3 * k + 299], x[4 * k]) = (f32::NAN, f32::NEG_INFINITY, -2.0);
        for isa in Isa::available() {
            let mut absmax = vec![0.5; k];
            absmax[1] = f32::NAN;
            observe_columns(&pool, isa, &x, k, &mut absmax);
            assert!(absmax[7].is_nan() && absmax[1].is_nan());
            assert_eq!((absmax[299], absmax[0]), (f32::INFINITY, 2.0));
            for j in (2..299).filter(|&j| j != 7) {
                assert_eq!(absmax[j], (0..t).map(|r| x[r * k + j].abs()).fold(0.5, f32::max));
            }
        }
    }
}
