//! The solve for a few rows of a weight, with the rows side by side so that every inner loop is one over rows.
use super::{Factor, GptqOptions};
use crate::grid;
use faer::linalg::matmul::matmul;
use faer::{Accum, MatMut, MatRef, Par};
use planish_tensor::Q8;

/// Columns that are solved one by one before the matrix product takes over; changes speed, not the mathematics.
const PANEL: usize = 32;

/// Losses of the rows of a chunk: proxy losses `(w - q) G (w - q)ᵀ` with the Gram matrix as given.
pub(super) struct ChunkLoss {
    pub gptq: f64,
    pub rtn: f64,
    pub rtn_rows: usize,
}

/// Rows `[rows, k]` of one linear, and where their codes and scales go.
pub(super) struct Chunk<'a> {
    pub kind: Q8,
    pub w: &'a [f32],
    /// Scales of the rows: round-to-nearest's on entry.
    pub scales: &'a mut [f32],
    pub codes: &'a mut [u8],
}

/// Solves one chunk.
pub(super) fn solve(factor: &Factor, chunk: Chunk<'_>, options: &GptqOptions) -> ChunkLoss {
    let (k, rows) = (factor.k, chunk.scales.len());
    let w = transposed(chunk.w, rows, factor);
    let nearest_scales = chunk.scales.to_vec();
    if options.search_scales {
        search_scales(factor, &chunk, chunk.w).into_iter().zip(&mut *chunk.scales).for_each(|(s, out)| *out = s);
    }
    let mut codes = vec![0u8; rows * k];
    let mut errors = w.clone();
    walk(factor, chunk.kind, rows, chunk.scales, &mut errors, &mut codes);
    if options.refit_scales {
        refit_scales(factor, chunk.kind, &w, &codes, chunk.scales);
        set_errors(chunk.kind, &w, &codes, chunk.scales, &mut errors);
    }
    let gptq = losses(factor, rows, &errors);
    let mut nearest = vec![0u8; rows * k];
    round(chunk.kind, &w, &nearest_scales, &mut nearest, &mut errors);
    let rtn = losses(factor, rows, &errors);
    let mut loss = ChunkLoss { gptq: 0.0, rtn: 0.0, rtn_rows: 0 };
    let mut better = vec![true; rows];
    for row in 0..rows {
        // A loss that is not a number is never kept.
        better[row] = gptq[row] <= rtn[row] || (!options.keep_better_rows && gptq[row].is_finite());
        if !better[row] {
            loss.rtn_rows += 1;
            chunk.scales[row] = nearest_scales[row];
        }
        loss.gptq += if better[row] { gptq[row] } else { rtn[row] };
        loss.rtn += rtn[row];
    }
    for (c, &column) in factor.order.iter().enumerate() {
        for row in 0..rows {
            let source = if better[row] { &codes } else { &nearest };
            chunk.codes[row * k + column] = source[c * rows + row];
        }
    }
    loss
}

/// Walks over the columns in the order of the solve. `errors` holds `w` on entry and `w - q` on return, `[k][rows]`.
fn walk(factor: &Factor, kind: Q8, rows: usize, scales: &[f32], errors: &mut [f32], codes: &mut [u8]) {
    let k = factor.k;
    let mut targets = vec![0.0f32; PANEL * rows];
    let mut units = vec![0.0f32; rows];
    for start in (0..k).step_by(PANEL) {
        let width = PANEL.min(k - start);
        let (done, rest) = errors.split_at_mut(start * rows);
        let panel = &mut rest[..width * rows];
        let targets = &mut targets[..width * rows];
        product(done, &factor.unit, k, start, rows, targets);
        let unit = &factor.unit;
        let codes = &mut codes[start * rows..][..width * rows];
        let units = &mut units;
        grid::vectorised(
            #[inline(always)]
            || {
                targets.iter_mut().zip(&*panel).for_each(|(t, w)| *t += w);
                for i in 0..width {
                    let (now, later) = targets.split_at_mut((i + 1) * rows);
                    grid::encode_into(kind, &now[i * rows..], scales, &mut codes[i * rows..][..rows], units);
                    let error = &mut panel[i * rows..][..rows];
                    error.iter_mut().zip(&*units).zip(scales).for_each(|((e, u), s)| *e -= u * s);
                    for (after, target) in later.chunks_exact_mut(rows).enumerate() {
                        let factor = unit[(start + i + 1 + after) * k + start + i];
                        target.iter_mut().zip(&*error).for_each(|(t, e)| *t += e * factor);
                    }
                }
            },
        );
    }
}

/// `out[c][rows] = Σ_{j < inner} values[j][rows] unit_jc` for the columns from `start`; `inner = values / rows`.
fn product(values: &[f32], unit: &[f32], k: usize, start: usize, rows: usize, out: &mut [f32]) {
    let (inner, width) = (values.len() / rows, out.len() / rows);
    if inner == 0 {
        out.fill(0.0);
        return;
    }
    let columns = &unit[start * k..][..(width - 1) * k + inner];
    let columns = MatRef::from_column_major_slice_with_stride(columns, inner, width, k);
    let values = MatRef::from_column_major_slice(values, rows, inner);
    let out = MatMut::from_column_major_slice_mut(out, rows, width);
    matmul(out, Accum::Replace, values, columns, 1.0, Par::Seq);
}

/// `v G vᵀ` of every row `v` (`[k][rows]`): `||v M||²` without what was added to the diagonal.
fn losses(factor: &Factor, rows: usize, values: &[f32]) -> Vec<f64> {
    inner_products(factor, rows, values, values)
}

/// `a G bᵀ` of every pair of rows.
fn inner_products(factor: &Factor, rows: usize, a: &[f32], b: &[f32]) -> Vec<f64> {
    let k = factor.k;
    let mut sums = vec![0.0f64; rows];
    let (mut pa, mut pb) = (vec![0.0f32; PANEL * rows], vec![0.0f32; PANEL * rows]);
    let same = std::ptr::eq(a, b);
    for start in (0..k).step_by(PANEL) {
        let width = PANEL.min(k - start);
        let end = start + width;
        product(&a[..end * rows], &factor.unit, k, start, rows, &mut pa[..width * rows]);
        if !same {
            product(&b[..end * rows], &factor.unit, k, start, rows, &mut pb[..width * rows]);
        }
        let (pa, pb) = (&pa, if same { &pa } else { &pb });
        let sums = &mut sums;
        grid::vectorised(
            #[inline(always)]
            || {
                for i in 0..width {
                    let pivot = f64::from(factor.pivots[start + i]).powi(2);
                    let added = f64::from(factor.added[start + i]);
                    let (va, vb) = (&a[(start + i) * rows..][..rows], &b[(start + i) * rows..][..rows]);
                    let projected = pa[i * rows..][..rows].iter().zip(&pb[i * rows..][..rows]);
                    for ((sum, (x, y)), (p, q)) in sums.iter_mut().zip(projected).zip(va.iter().zip(vb)) {
                        *sum += pivot * (f64::from(*x) * f64::from(*y)) - added * (f64::from(*p) * f64::from(*q));
                    }
                }
            },
        );
    }
    sums
}

/// Plain rounding of `w` `[k][rows]` to codes, and its errors.
fn round(kind: Q8, w: &[f32], scales: &[f32], codes: &mut [u8], errors: &mut [f32]) {
    let rows = scales.len();
    let mut units = vec![0.0f32; rows];
    grid::vectorised(
        #[inline(always)]
        || {
            for ((w, c), e) in w.chunks_exact(rows).zip(codes.chunks_exact_mut(rows)).zip(errors.chunks_exact_mut(rows))
            {
                grid::encode_into(kind, w, scales, c, &mut units);
                for (((e, w), u), s) in e.iter_mut().zip(w).zip(&units).zip(scales) {
                    *e = w - u * s;
                }
            }
        },
    );
}

/// `errors = w - codes * scales`, all `[k][rows]`.
fn set_errors(kind: Q8, w: &[f32], codes: &[u8], scales: &[f32], errors: &mut [f32]) {
    let units = decoded(kind, codes);
    for (i, (e, w)) in errors.iter_mut().zip(w).enumerate() {
        *e = w - units[i] * scales[i % scales.len()];
    }
}

fn decoded(kind: Q8, codes: &[u8]) -> Vec<f32> {
    let table: Vec<f32> = (0..=255).map(|c| kind.decode(c)).collect();
    codes.iter().map(|&c| table[c as usize]).collect()
}

/// With the codes fixed, the scale that minimises `(w - s q) G (w - s q)ᵀ` is `w G qᵀ / q G qᵀ`.
/// Kept only where it is a positive number (and so never makes the loss larger).
fn refit_scales(factor: &Factor, kind: Q8, w: &[f32], codes: &[u8], scales: &mut [f32]) {
    let rows = scales.len();
    let units = decoded(kind, codes);
    let across = inner_products(factor, rows, w, &units);
    let own = losses(factor, rows, &units);
    for ((scale, across), own) in scales.iter_mut().zip(across).zip(own) {
        let fitted = (across / own) as f32;
        if own > 0.0 && fitted.is_normal() && fitted > 0.0 {
            *scale = fitted;
        }
    }
}

/// Per row the scale, from 80 % to 100 % of that of the absolute maximum, with the least `Σ_j G_jj (w_j - q_j)²`.
fn search_scales(factor: &Factor, chunk: &Chunk<'_>, w: &[f32]) -> Vec<f32> {
    let k = factor.k;
    let (mut codes, mut units) = (vec![0u8; k], vec![0.0f32; k]);
    let mut best_of = |row: &[f32], full: f32| {
        let mut best = (f64::INFINITY, full);
        for step in 0..=10 {
            let scale = full * (1.0 - 0.02 * step as f32);
            grid::vectorised(
                #[inline(always)]
                || grid::encode_row_into(chunk.kind, row, scale, &mut codes, &mut units),
            );
            let mut loss = 0.0f64;
            for ((w, u), h) in row.iter().zip(&units).zip(&factor.diagonal) {
                loss += f64::from(*h) * f64::from(w - u * scale).powi(2);
            }
            if loss < best.0 {
                best = (loss, scale);
            }
        }
        best.1
    };
    w.chunks_exact(k).zip(&*chunk.scales).map(|(row, &scale)| best_of(row, scale)).collect()
}

/// Rows `[rows, k]` as `[k][rows]`, the columns in the order of the solve.
fn transposed(w: &[f32], rows: usize, factor: &Factor) -> Vec<f32> {
    let mut out = vec![0.0; w.len()];
    for (c, column) in factor.order.iter().enumerate() {
        for row in 0..rows {
            out[c * rows + row] = w[row * factor.k + column];
        }
    }
    out
}
