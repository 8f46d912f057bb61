//! Statistics of activations: Gram matrices and column maxima.
//! Rows are summed from 0 in ascending order in stretches of [`STRETCH`]; each stretch is then added to the matrix.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
mod engine;

use crate::isa::Isa;
use crate::threads::Threads;
use crate::vector::Shared;
use planish_tensor::FloatMath;

/// Rows of x that are summed before the matrix is touched (for the vector families, and the definition).
const STRETCH: usize = 512;

/// `gram[i, j] += Σ_t x[t, i] x[t, j]` for `j <= i`; the upper triangle is left alone. `x` is `[t, k]`, `gram` `[k, k]`.
/// [`FloatMath::Bf16`] rounds x to bf16 where the family has bf16 dot products; all else is computed in f32.
/// The result does not depend on the number of threads.
pub fn accumulate_gram(threads: &Threads, isa: Isa, x: &[f32], k: usize, math: FloatMath, gram: &mut [f32]) {
    let t = x.len().checked_div(k).unwrap_or(0);
    assert_eq!((x.len(), gram.len()), (t * k, k * k), "accumulate_gram: x [t, {k}], gram [{k}, {k}]");
    assert!(isa.runs_here(), "this machine has no {}", isa.name());
    let gram = Shared(gram.as_mut_ptr());
    #[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
    if engine::run(threads, isa, x, k, math, gram) {
        return;
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
    assert!(isa.runs_here(), "this machine has no {}", isa.name());
    let to = Shared(absmax.as_mut_ptr());
    let width = 256;
    threads.run(k.div_ceil(width), |i| {
        let columns = i * width..(i * width + width).min(k);
        // SAFETY: each task has its own columns.
        let to = unsafe { std::slice::from_raw_parts_mut(to.at(columns.start), columns.len()) };
        #[cfg(target_arch = "x86_64")]
        if isa >= Isa::Avx2 {
            // SAFETY: the family runs here, as asserted, and those from AVX2 up have AVX2.
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
                let of = if isa.has_fast_bf16_dots() && math == FloatMath::Bf16 { &rounded } else { &x };
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
