//! GPTQ with the matrices on a device: the decisions are made here, as for the host's [`Factor`](super::Factor) and
//! [`solve`](super::solve); factor and walk are the device's.
use super::factor::Diagonal;
use super::{GptqOptions, GptqResult};
use crate::error::{Error, Result};
use crate::rtn::{self, QuantizedWeight};
use planish_tensor::solver::keeps_gptq;
use planish_tensor::{Backend, GramFactor, Q8, Solver, Tensor};

/// A factor on a device, made once for all linears that read the same input.
pub struct DeviceFactor<B: Backend> {
    factor: Option<GramFactor<B>>,
    damping_used: Option<f64>,
    dead_columns: Vec<usize>,
}

impl<B: Backend> DeviceFactor<B> {
    /// As [`Factor::new`](super::Factor::new).
    ///
    /// # Errors
    /// Those of `Factor::new`, and the device's.
    pub fn new(solver: &dyn Solver<B>, gram: &Tensor<B>, options: &GptqOptions) -> Result<DeviceFactor<B>> {
        let diagonal = Diagonal::new(solver.gram_diagonal(gram)?, options)?;
        let mut factor = None;
        let damping_used = diagonal.raise_until(options.damping, |added| {
            factor = solver.factor_gram(gram, &diagonal.order, added)?;
            Ok(factor.is_some())
        })?;
        Ok(DeviceFactor { factor, damping_used, dead_columns: diagonal.dead_columns })
    }
}

/// As [`solve`](super::solve), of a weight `[n, k]` on the device; without a factor every row is rounded to nearest.
/// `options` must not ask for other scales than those of round-to-nearest. Also `||W - Wq|| / ||W||`.
///
/// # Errors
/// A weight that is NaN or infinite, and the device's.
pub fn solve_on<B: Backend>(
    backend: &B,
    solver: &dyn Solver<B>,
    factor: Option<&DeviceFactor<B>>,
    kind: Q8,
    w: &Tensor<B>,
    options: &GptqOptions,
) -> Result<(GptqResult, f64)> {
    let (n, k) = (w.rows, w.cols);
    let gram = factor.and_then(|f| f.factor.as_ref());
    let solved = solver.solve_rows(kind, w, gram, options.keep_better_rows)?;
    if solved.absmax.iter().any(|x| !x.is_finite()) {
        let mut bytes = vec![0; n * k * w.dtype.size()];
        backend.download(w, &mut bytes)?;
        rtn::row_scales(kind, &planish_tensor::host::decode_f32(w.dtype, &bytes), n, k)?;
        return Err(Error::Device(planish_tensor::Error::Device(
            "a row of finite weights has no finite maximum".into(),
        )));
    }
    let mut codes = vec![0; n * k];
    backend.download(&solved.codes, &mut codes)?;
    let zero_rows = (0..n).filter(|&row| solved.absmax[row] == 0.0).collect();
    let kept = |row: &&planish_tensor::RowNumbers| keeps_gptq(row.gptq, row.nearest, options.keep_better_rows);
    let loss = |row: &planish_tensor::RowNumbers| if kept(&row) { row.gptq } else { row.nearest };
    let (lost, total) = solved.rows.iter().fold((0.0, 0.0), |(lost, total), r| (lost + r.lost, total + r.total));
    let result = GptqResult {
        weight: QuantizedWeight { kind, n, k, codes, scales: solved.scales, zero_rows },
        proxy_loss: gram.map(|_| solved.rows.iter().map(loss).sum()),
        rtn_proxy_loss: gram.map(|_| solved.rows.iter().map(|r| r.nearest).sum()),
        damping_used: factor.and_then(|f| f.damping_used),
        fell_back_to_rtn: gram.is_none(),
        rtn_rows: gram.map_or(0, |_| n - solved.rows.iter().filter(kept).count()),
        dead_columns: factor.map_or_else(Vec::new, |f| f.dead_columns.clone()),
    };
    Ok((result, if total == 0.0 { 0.0 } else { f64::sqrt(lost / total) }))
}
