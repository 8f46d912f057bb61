//! How strongly an input is smoothed: with a given strength, or with the factors that the search finds.
use super::fold::{Chosen, FloatBlock, factor_of, tie};
use super::sampled::Rows;
use crate::error::Result;
use crate::report::SearchReport;
use crate::search::{Found, Group, search};
use crate::smooth::smoothing_factors;
use planish_model::{Input, Plan, Role};
use planish_tensor::{Backend, Q8};

/// Rows of one weight that the search looks at, at most: they stand for all.
const WEIGHT_ROWS: usize = 512;

/// The strength of one input.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Strength {
    /// This one.
    Alpha(f64),
    /// To be found.
    Search,
}

/// What the search is told beside the block.
pub struct Searching<'a> {
    /// 8-bit type.
    pub kind: Q8,
    /// See [`Group::weight_share`].
    pub weight_share: f64,
    /// See [`Group::threads`].
    pub threads: usize,
    /// Rows of the input.
    pub rows: Option<&'a Rows>,
    /// The readers that are quantized; the others make no error.
    pub readers: &'a [Role],
}

/// The factors of one input; `absmax[k]` are its channels' largest magnitudes.
pub fn choose<B: Backend>(
    plan: &Plan,
    layer: usize,
    block: &FloatBlock<'_, B>,
    input: Input,
    strength: Strength,
    absmax: &[f32],
    searching: &Searching<'_>,
) -> Result<Chosen> {
    let (absmax, columns) = (tie(plan, input, absmax)?, block.column_maxima(plan, layer, input)?);
    if let Strength::Alpha(alpha) = strength {
        return Ok(Chosen { alpha: Some(alpha), factors: smoothing_factors(&absmax, &columns, alpha)?, search: None });
    }
    let rows = |&role: &Role| block.weights.sample(role, plan.linear_size(role), WEIGHT_ROWS);
    let found = search(&Group {
        kind: searching.kind,
        k: plan.input_width(input),
        x: searching.rows.map_or(&[], |r| &r.search),
        check: searching.rows.map_or(&[], |r| &r.check),
        weights: &searching.readers.iter().map(rows).collect::<Result<Vec<_>>>()?,
        act_absmax: &absmax,
        weight_absmax: &columns,
        factor_of: &factor_of(plan, input),
        weight_share: searching.weight_share,
        threads: searching.threads,
    })?;
    let Found { factors, alpha, tried, unsmoothed, error, refined } = found;
    Ok(Chosen { alpha, factors, search: Some(SearchReport { unsmoothed, error, refined, tried }) })
}
