//! What a scheme asks beyond a scale for each output channel and for each token: static scales of inputs, and weights
//! whose scales are shared by blocks.
use super::fold::{FloatBlock, Smoothing};
use super::observe::Statistics;
use super::solve::Solved;
use crate::blocks::{quantize_blocks, relative_error};
use crate::error::{Error, Result};
use planish_checkpoint::scheme::{ActQuant, ActUnit, WeightStrategy};
use planish_model::{Input, Plan};
use planish_tensor::{Backend, Grid, HostTensor, Q8};

/// Whether a plan's scheme has inputs with static scales.
pub fn needs_maxima(plan: &Plan) -> bool {
    let fixed = |scheme: &planish_checkpoint::scheme::Scheme| {
        scheme.groups().any(|group| matches!(group.scheme.activations, ActQuant::Static { .. }))
    };
    plan.scheme.as_deref().is_some_and(fixed)
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
    for s in solved {
        let name = plan.linear_name(layer, s.role);
        let Some(linear) = scheme.for_linear(&name) else { continue };
        let (kind, (n, k)) = (Q8::from_dtype(s.part.weight.dtype()).expect("solved"), plan.linear_size(s.role));
        let refused = |what: &str| Err(Error::State(format!("{name}: {what}")));
        s.part.grid = match linear.activations {
            ActQuant::Dynamic { unit: ActUnit::Token, symmetric: true } => Grid::Token,
            ActQuant::Dynamic { unit: ActUnit::Group(size), symmetric: true } => Grid::Group(size),
            ActQuant::Static { symmetric: true } => {
                let Some(statistics) = statistics else { return refused("static scales without statistics") };
                let absmax = largest(backend, statistics, s.role.input(), smoothed)?;
                if !absmax.is_finite() {
                    return refused("the calibration's largest input is not finite");
                }
                Grid::Static { scale: kind.weight_scale(absmax), zero: 0 }
            }
            _ => return refused("activations of a kind that is read but not made"),
        };
        let (rows, columns) = match linear.weights.strategy {
            WeightStrategy::Channel => continue,
            WeightStrategy::Tensor => (n.max(1), k.max(1)),
            WeightStrategy::Block { rows, columns } => (rows, columns),
            WeightStrategy::Group(_) => return refused("weights in groups, which are read but not made"),
        };
        let w = float.weights.values(s.role)?;
        let (codes, scales) = quantize_blocks(kind, &w, n, k, rows, columns)?;
        s.report.weight_error = Some(relative_error(kind, &w, &codes, &scales, k, columns));
        s.part.weight = HostTensor::from_bytes(kind.dtype(), vec![n, k], codes)?;
        s.part.scales = Some(scales);
    }
    Ok(())
}

/// Largest magnitude of an input as it is after smoothing.
fn largest<B: Backend>(backend: &B, statistics: &Statistics<B>, input: Input, smoothed: &[Smoothing]) -> Result<f32> {
    let absmax = statistics.absmax(backend, input)?;
    let s = smoothed.iter().find(|s| s.inputs.contains(&input)).map(|s| &s.s[..]);
    let divided = absmax.iter().enumerate().map(|(j, m)| s.map_or(*m, |s| m / s[j]));
    Ok(divided.fold(0.0, |largest, m| if m.is_nan() { m } else { f32::max(largest, m) }))
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
