//! The output projection in 8 bits: solved at the end, as the linears of blocks are, on what the last norm gives.
use super::check::{self, ROWS};
use super::hidden::Lane;
use super::observe::Seen;
use super::run::Job;
use super::save::{self, Over, Tensors};
use super::solve::solve_alone;
use super::stored::Numbers;
use super::streams::Streams;
use crate::error::{Error, Result};
use crate::report::{LayerReport, LinearReport};
use planish_checkpoint::scheme::{ActQuant, LinearScheme, WeightStrategy};
use planish_model::Ends;
use planish_tensor::{Backend, FloatMath, HostTensor, LinearPart, Q8};

/// The projection, quantized.
pub struct Head {
    /// As it is stored.
    pub tensors: Vec<(String, HostTensor)>,
    /// Its entry in the report.
    pub report: LayerReport,
}

impl Head {
    /// The model's ends with it.
    pub fn ends<B: Backend>(&self, backend: &B, job: &Job<'_>) -> Result<Ends<B>> {
        Ok(Ends::load(backend, job.stored, &Over(job.source, Tensors(&self.tensors)), false)?)
    }
}

/// Whether the calibration states behind the last block are wanted.
pub fn observes(job: &Job<'_>) -> bool {
    let fixed = scheme(job).is_some_and(|linear| matches!(linear.activations, ActQuant::Static { .. }));
    job.head.is_some() && (job.algorithm.needs_grams() || fixed)
}

fn scheme<'a>(job: &Job<'a>) -> Option<&'a LinearScheme> {
    job.stored.scheme.as_deref()?.for_linear(job.plan.arch.names.head)
}

/// Quantizes the projection if it has an 8-bit type; the states are those behind the last block.
pub fn quantized<B: Backend>(lane: &mut Lane<'_, B>, job: &Job<'_>, streams: &Streams<B>) -> Result<Option<Head>> {
    let Some(kind) = job.head else { return Ok(None) };
    let (plan, name) = (job.plan, job.plan.arch.names.head);
    let seen = observes(job).then(|| observe(lane, job, streams)).transpose()?;
    let stored =
        if job.source.contains(&plan.head_tensor()) { plan.head_tensor() } else { plan.arch.names.embed.into() };
    let weight = job.source.tensor(&stored)?;
    let (mut part, mut report) = solve(lane, job, kind, seen.as_ref(), &weight.to_f32())
        .map_err(|e| Error::Tensor { tensor: stored, source: Box::new(e) })?;
    let ends = Ends::load(lane.backend, plan, job.source, false)?;
    let states = &streams.original.values;
    lane.normalize(&ends, &states[..states.len().min(ROWS * plan.hidden)])?;
    let float = lane.backend.load_linear(&[LinearPart::float(weight, None)])?;
    let tensors = save::codes(job.stored, name, &part, job.layout)?;
    part.grid = plan.head_grid(part.grid);
    report.output_error = Some(check::output_error(lane.backend, &lane.ws.normed, float, &part)?);
    let report = LayerReport { name: name.into(), linears: vec![report], ..LayerReport::default() };
    Ok(Some(Head { tensors, report }))
}

/// Statistics of what it reads.
fn observe<B: Backend>(lane: &mut Lane<'_, B>, job: &Job<'_>, streams: &Streams<B>) -> Result<Seen<B>> {
    let ends = Ends::load(lane.backend, job.plan, job.source, false)?;
    let ranges = scheme(job).is_some_and(|linear| linear.activations == ActQuant::Static { symmetric: false });
    let mut seen = Seen::new(lane.backend, job.plan.hidden, job.algorithm.needs_grams(), ranges)?;
    lane.observe_end(&ends, &streams.calibration, &mut |backend, x| Ok(seen.observe(backend, FloatMath::Bf16, x)?))?;
    Ok(seen)
}

fn solve<B: Backend>(
    lane: &Lane<'_, B>,
    job: &Job<'_>,
    kind: Q8,
    seen: Option<&Seen<B>>,
    w: &[f32],
) -> Result<(LinearPart, LinearReport)> {
    let (plan, name) = (job.plan, job.plan.arch.names.head);
    let gram = seen.map(|seen| seen.gram(lane.backend)).transpose()?.flatten();
    let (mut part, mut report) =
        solve_alone(kind, w, (plan.vocab, plan.hidden), &job.algorithm, gram.as_deref(), name)?;
    if let Some(linear) = scheme(job) {
        let reach = || match seen {
            // The norm that was seen makes logits of the scale that the family wants; files hold what it is without that.
            Some(seen) => Ok(seen.reach(lane.backend, None)?.map(|x| x / plan.logit_scale)),
            None => Err(Error::Recipe(format!("{name}: static scales without statistics"))),
        };
        let numbers = Numbers { name, linear, reach: &reach };
        numbers.settle_grid(&mut part)?;
        if linear.weights.strategy != WeightStrategy::Channel {
            part.weight = HostTensor::from_f32(vec![plan.vocab, plan.hidden], w)?;
            report.weight_error = Some(numbers.share_scales(kind, &mut part)?);
        }
    }
    Ok((part, report))
}
