//! The Cholesky factor that GPTQ walks along, made once for all linears that read the same input.
use super::GptqOptions;
use crate::error::{Error, Result, check_len};
use faer::linalg::cholesky::llt::factor::{cholesky_in_place, cholesky_in_place_scratch};
use faer::{MatMut, Par, Spec};

/// `H = M Mᵀ` with `M` upper triangular, where `H` is the damped Gram matrix in the order of the solve.
///
/// The papers go on to the inverse: their `U` (upper Cholesky factor of `H⁻¹`) is `M⁻¹`. `M` itself serves as well:
/// the error of a row is `||(w - q) M||²`, and its column `c` depends on `w - q` up to `c` alone, so that the best
/// code of column `c` is the one nearest to `w_c + Σ_{j<c} (w - q)_j M_jc / M_cc`. This is the same number that the
/// updates by `U` arrive at, without inverting anything.
pub struct Factor {
    /// Input channels.
    pub(super) k: usize,
    /// Input channel that is solved as the `c`-th, `[k]`.
    pub(super) order: Vec<usize>,
    /// `M_jc / M_cc` at `c * k + j`: ones on the diagonal, zeros where `j > c`. Empty without a factorization.
    pub(super) unit: Vec<f32>,
    /// `M_cc`, `[k]`.
    pub(super) pivots: Vec<f32>,
    /// What was added to the diagonal, in the order of the solve, `[k]`.
    pub(super) added: Vec<f32>,
    /// Diagonal of the Gram matrix as given, in the order of the input channels, `[k]`.
    pub(super) diagonal: Vec<f32>,
    damping_used: Option<f64>,
    dead_columns: Vec<usize>,
}

impl Factor {
    /// Factorizes the Gram matrix `Σ x xᵀ` (times any positive number) of `k` input channels.
    ///
    /// `gram` is `[k, k]`, row-major; only its lower triangle is read. The diagonal is raised by `damping` times its
    /// mean; if that is not positive definite, by ten times as much, up to 1, and then there is no factorization:
    /// [`Factor::damping_used`] is `None` and the solve rounds to nearest. The same holds when no token came by.
    /// Channels with a zero diagonal are dead: any weight does, and they keep the nearest code.
    ///
    /// # Errors
    /// `gram` has not `k * k` elements, its diagonal is negative or not finite, or the damping is not in (0, 1].
    pub fn new(gram: &[f32], k: usize, options: &GptqOptions) -> Result<Factor> {
        check_len("Gram matrix", gram.len(), &[k, k])?;
        let diagonal = Diagonal::new((0..k).map(|j| gram[j * k + j]).collect(), options)?;
        let Diagonal { values, order, dead_columns } = &diagonal;
        let (order, dead_columns, values) = (order.clone(), dead_columns.clone(), values.clone());
        let empty = (vec![], vec![], vec![]);
        let (unit, pivots, added) = empty;
        let mut factor = Factor { k, order, unit, pivots, added, diagonal: values, damping_used: None, dead_columns };
        factor.damping_used = diagonal.raise_until(options.damping, |added| {
            let mut matrix = reversed(gram, k, &factor.order, added);
            let done = cholesky(&mut matrix, k);
            if done {
                (factor.unit, factor.pivots) = upper_unit(matrix, k);
                factor.added = added.to_vec();
            }
            Ok(done)
        })?;
        Ok(factor)
    }

    /// The damping with which the factorization succeeded.
    pub fn damping_used(&self) -> Option<f64> {
        self.damping_used
    }

    /// Input channels that were zero in every token.
    pub fn dead_columns(&self) -> &[usize] {
        &self.dead_columns
    }
}

/// What a Gram matrix's diagonal decides, wherever the matrix is.
pub(super) struct Diagonal {
    /// As given, in the order of the input channels.
    pub values: Vec<f32>,
    /// Input channel that is solved as the `c`-th.
    pub order: Vec<usize>,
    /// Input channels that were zero in every token.
    pub dead_columns: Vec<usize>,
}

impl Diagonal {
    pub(super) fn new(values: Vec<f32>, options: &GptqOptions) -> Result<Diagonal> {
        if !(options.damping > 0.0 && options.damping <= 1.0) {
            let (expected, found) = ("a number above 0, at most 1".to_string(), options.damping.to_string());
            return Err(Error::Setting { name: "damping".into(), expected, found });
        }
        if let Some(channel) = values.iter().position(|x| !(x.is_finite() && *x >= 0.0)) {
            return Err(Error::Statistic { what: "Gram diagonal", channel, value: values[channel] });
        }
        let mut order: Vec<usize> = (0..values.len()).collect();
        if options.act_order {
            order.sort_by(|&a, &b| values[b].total_cmp(&values[a])); // stable: ties stay in the channels' order
        }
        let dead_columns = (0..values.len()).filter(|&j| values[j] == 0.0).collect();
        Ok(Diagonal { values, order, dead_columns })
    }

    /// Asks for factorizations with growing damping; `attempt` gets what is added to the diagonal, in the order of the
    /// solve. The damping that did it, if one did.
    pub(super) fn raise_until(
        &self,
        mut damping: f64,
        mut attempt: impl FnMut(&[f32]) -> Result<bool>,
    ) -> Result<Option<f64>> {
        let live = self.values.len() - self.dead_columns.len();
        if live == 0 {
            return Ok(None);
        }
        let sum: f64 = self.values.iter().map(|&x| f64::from(x)).sum();
        let mean = (sum / live as f64) as f32;
        loop {
            // A dead channel gets the mean diagonal: it stands alone, so that any positive number does.
            let raise = |j: usize| damping as f32 * mean + if self.values[j] == 0.0 { mean } else { 0.0 };
            let added: Vec<f32> = self.order.iter().map(|&j| raise(j)).collect();
            if attempt(&added)? {
                return Ok(Some(damping));
            }
            if damping >= 1.0 {
                return Ok(None);
            }
            damping = (damping * 10.0).min(1.0);
        }
    }
}

/// Lower triangle (column-major) of the damped matrix with both axes in the reversed order of the solve.
fn reversed(gram: &[f32], k: usize, order: &[usize], added: &[f32]) -> Vec<f32> {
    let mut out = vec![0.0; k * k];
    for column in 0..k {
        let b = order[k - 1 - column];
        let target = &mut out[column * k..][..k];
        for row in column..k {
            let a = order[k - 1 - row];
            target[row] = gram[a.max(b) * k + a.min(b)];
        }
        target[column] += added[k - 1 - column];
    }
    out
}

/// Cholesky factorization of the lower triangle in place; false where the matrix is not positive definite.
fn cholesky(matrix: &mut [f32], k: usize) -> bool {
    let mut memory = faer::dyn_stack::MemBuffer::new(cholesky_in_place_scratch::<f32>(k, Par::Seq, Spec::default()));
    let stack = faer::dyn_stack::MemStack::new(&mut memory);
    let view = MatMut::from_column_major_slice_mut(matrix, k, k);
    let done = cholesky_in_place(view, Default::default(), Par::Seq, stack, Spec::default());
    done.is_ok() && (0..k).all(|j| matrix[j * k + j].is_normal() && matrix[j * k..][..k].iter().all(|x| x.is_finite()))
}

/// Turns the lower factor of the reversed matrix into `M` (reading it backwards reverses both axes), and divides
/// each column by its diagonal, which is returned beside it.
fn upper_unit(mut matrix: Vec<f32>, k: usize) -> (Vec<f32>, Vec<f32>) {
    matrix.reverse();
    let mut pivots = Vec::with_capacity(k);
    for (c, column) in matrix.chunks_exact_mut(k).enumerate() {
        let pivot = column[c];
        column[..c].iter_mut().for_each(|x| *x /= pivot);
        column[c] = 1.0;
        column[c + 1..].fill(0.0);
        pivots.push(pivot);
    }
    (matrix, pivots)
}
