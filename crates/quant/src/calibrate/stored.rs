//! What a scheme asks beyond a scale for each output channel and for each token: static scales of inputs, and weights
//! whose scales are shared by blocks.
use super::fold::{FloatBlock, Smoothing};
use super::observe::Statistics;
use super::solve::Solved;
use crate::blocks::{quantize_blocks, relative_error};
use crate::error::{Error, Result};
use planish_checkpoint::scheme::{ActQuant, ActUnit, LinearScheme, WeightStrategy};
use planish_model::packing::{join, split};
use planish_model::{Plan, Role};
use planish_tensor::grid::asymmetric_scale;
use planish_tensor::q8::ZERO_ROW_SCALE;
use planish_tensor::{Backend, Grid, HostTensor, LinearPart, Q8};
use std::collections::BTreeMap;

/// Whether a plan's scheme has inputs with static scales.
pub fn needs_maxima(plan: &Plan) -> bool {
    any(plan, |activations| matches!(activations, ActQuant::Static { .. }))
}

/// Whether it has inputs with static zero points.
pub fn needs_ranges(plan: &Plan) -> bool {
    any(plan, |activations| activations == ActQuant::Static { symmetric: false })
}

fn any(plan: &Plan, of: impl Fn(ActQuant) -> bool) -> bool {
    plan.scheme.as_deref().is_some_and(|scheme| scheme.groups().any(|group| of(group.scheme.activations)))
}

/// Brings solved linears of a layer to the scheme of `plan`, which is the model as it is saved.
pub fn conform<B: Backend>(
    backend: &B,
    plan: &Plan,
    layer: usize,
    float: &FloatBlock<'_, B>,
    statistics: Option<&Statistics<B>>,
    smoothed: &[Smoothing],
    solved: &mut [Solved],
) -> Result<()> {
    let Some(scheme) = plan.scheme.as_deref() else { return Ok(()) };
    for module in plan.stored(layer) {
        let Some(linear) = scheme.for_linear(&module.name) else { continue };
        let mut of_module: Vec<&mut Solved> = solved.iter_mut().filter(|s| module.roles.contains(&s.role)).collect();
        let Some(input) = of_module.first().map(|s| s.role.input()) else { continue };
        let reach = || {
            let statistics = statistics.ok_or_else(|| refused(&module.name, "static scales without statistics"))?;
            let s = smoothed.iter().find(|s| s.inputs.contains(&input)).map(|s| &s.s[..]);
            Ok(statistics.reach(backend, input, s)?)
        };
        let numbers = Numbers { name: &module.name, linear, reach: &reach };
        for s in &mut of_module {
            numbers.settle_grid(&mut s.part)?;
        }
        if linear.weights.strategy == WeightStrategy::Channel {
            continue;
        }
        // Blocks are those of the module as it is stored, which may hold several linears.
        let parts = module.roles.iter().map(|&role| Ok((role, float.part(plan, role)?)));
        let parts: BTreeMap<Role, LinearPart> = parts.collect::<Result<_>>()?;
        let mut whole = join(&module, |role| parts[&role].clone())?;
        let (kind, grid) = (numbers.kind(&of_module[0].part)?, of_module[0].part.grid);
        let error = numbers.share_scales(kind, &mut whole)?;
        whole.grid = grid;
        for (role, part) in split(&module, whole)? {
            if let Some(s) = of_module.iter_mut().find(|s| s.role == role) {
                (s.part, s.report.weight_error) = (part, Some(error));
            }
        }
    }
    Ok(())
}

/// What the numbers of one linear are decided from.
pub(super) struct Numbers<'a> {
    /// Its module.
    pub name: &'a str,
    /// Its scheme.
    pub linear: &'a LinearScheme,
    /// Smallest and largest value of its input.
    pub reach: &'a dyn Fn() -> Result<[f32; 2]>,
}

impl Numbers<'_> {
    /// Gives a part with a scale for each row its grid, and a scale for each row and group of that.
    pub fn settle_grid(&self, part: &mut LinearPart) -> Result<()> {
        part.grid = self.grid(self.kind(part)?)?;
        let (groups, scales) = (part.grid.groups(part.weight.shape()[1]), part.scales.take().unwrap_or_default());
        part.scales = Some(scales.into_iter().flat_map(|s| std::iter::repeat_n(s, groups)).collect());
        Ok(())
    }

    /// Rounds a float part to nearest, with the scales that its blocks share; returns `||W - Wq|| / ||W||`.
    pub fn share_scales(&self, kind: Q8, part: &mut LinearPart) -> Result<f64> {
        let &[n, k] = part.weight.shape() else { return Err(refused(self.name, "a weight that is no matrix")) };
        let (rows, columns) = match self.linear.weights.strategy {
            WeightStrategy::Channel => (1, k.max(1)),
            WeightStrategy::Tensor => (n.max(1), k.max(1)),
            WeightStrategy::Block { rows, columns } => (rows, columns),
            WeightStrategy::Group(size) => (1, size),
        };
        let w = part.weight.to_f32();
        let (codes, scales) = quantize_blocks(kind, &w, n, k, rows, columns)?;
        let error = relative_error(kind, &w, &codes, &scales, k, columns);
        part.weight = HostTensor::from_bytes(kind.dtype(), vec![n, k], codes)?;
        part.scales = Some(scales);
        Ok(error)
    }

    /// The type of a part's codes.
    pub fn kind(&self, part: &LinearPart) -> Result<Q8> {
        Q8::from_dtype(part.weight.dtype()).ok_or_else(|| refused(self.name, "codes of no 8-bit type"))
    }

    /// How the input becomes codes.
    fn grid(&self, kind: Q8) -> Result<Grid> {
        let symmetric = match self.linear.activations {
            ActQuant::Dynamic { unit: ActUnit::Token, symmetric: true } => return Ok(Grid::Token),
            ActQuant::Dynamic { unit: ActUnit::Token, symmetric: false } => return Ok(Grid::Asymmetric),
            ActQuant::Dynamic { unit: ActUnit::Group(size), symmetric: true } => return Ok(Grid::Group(size)),
            ActQuant::Static { symmetric } => symmetric,
            _ => return Err(refused(self.name, "activations of a kind that is read but not made")),
        };
        let [min, max] = (self.reach)()?;
        if !(min.is_finite() && max.is_finite()) {
            return Err(refused(self.name, "the calibration's largest input is not finite"));
        }
        if symmetric {
            return Ok(Grid::Static { scale: kind.weight_scale(max.max(-min)), zero: 0 });
        }
        match asymmetric_scale(&[min, max]) {
            (0.0, zero) => Ok(Grid::Static { scale: ZERO_ROW_SCALE, zero }),
            (scale, zero) => Ok(Grid::Static { scale, zero }),
        }
    }
}

fn refused(name: &str, what: &str) -> Error {
    Error::Recipe(format!("{name}: {what}"))
}

/// Scales `[n, groups]` of a linear as the strategy stores them.
pub fn stored_scales(scales: &[f32], strategy: WeightStrategy, n: usize) -> Vec<f32> {
    let groups = scales.len() / n.max(1);
    match strategy {
        WeightStrategy::Channel => scales.iter().step_by(groups.max(1)).copied().collect(),
        WeightStrategy::Tensor => scales[..1].to_vec(),
        WeightStrategy::Group(_) => scales.to_vec(),
        WeightStrategy::Block { rows, .. } => {
            scales.chunks(groups.max(1)).step_by(rows).flat_map(|row| row.to_vec()).collect()
        }
    }
}
