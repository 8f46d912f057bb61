//! What is done to one block, step by step: its inputs observed, smoothed, its weights solved.
use super::fold::{FloatBlock, Smoothing, smoothed_inputs, smoothed_readers};
use super::hidden::Lane;
use super::observe::Statistics;
use super::run::{Job, Tell};
use super::sampled::{Eyes, Sampled};
use super::solve::{Correlation, Solved, solve_input};
use super::stored::{needs_maxima, needs_ranges};
use super::streams::Streams;
use super::strength::{Searching, Strength, choose};
use crate::error::Result;
use crate::report::ExpertTokens;
use crate::smooth::divide_gram;
use planish_model::block::Block;
use planish_model::{Input, Role};
use planish_tensor::{Backend, FloatMath, Q8};

/// An expert that was given fewer calibration tokens is calibrated on all of them, as if the router had chosen it
/// always: a few tokens span too little of its input to say which errors cost nothing.
pub const FEW_TOKENS: u64 = 256;

/// What calibration saw of a block.
pub(super) type Calibrated<B> = (Option<Statistics<B>>, Option<Sampled>, ExpertTokens);

/// Statistics of the block's inputs, if smoothing or GPTQ needs any, and rows of them, if strengths are searched.
pub(super) fn calibrate<B: Backend>(
    lane: &mut Lane<'_, B>,
    job: &Job<'_>,
    layer: usize,
    block: &Block<B>,
    streams: &Streams<B>,
    progress: Tell<'_, f64>,
) -> Result<Calibrated<B>> {
    let grams = job.algorithm.needs_grams();
    if !grams && !job.smooths() && !needs_maxima(job.stored) {
        return Ok((None, None, ExpertTokens::default()));
    }
    let ranges = needs_ranges(job.stored);
    let mut statistics = Statistics::new(lane.backend, job.plan, layer, FloatMath::Bf16, grams, ranges)?;
    let total = streams.calibration.tokens();
    let searched = |input| (job.strength)(layer, input) == Some(Strength::Search);
    let lengths = || job.samples.iter().map(Vec::len).collect::<Vec<_>>();
    let mut sampled = smoothed_inputs(job.plan, layer)
        .into_iter()
        .any(|(input, _)| searched(input))
        .then(|| Sampled::new(lane.backend, job.plan, layer, &lengths()));
    let mut eyes = Eyes { statistics: &mut statistics, sampled: sampled.as_mut() };
    let mut done = 0;
    lane.observe_all(block, FloatMath::Bf16, &streams.calibration, &mut eyes, &mut |tokens| {
        done += tokens;
        progress(0.7 * done as f64 / total as f64)
    })?;
    let tokens = statistics.expert_tokens();
    let few: Vec<u16> = tokens.iter().filter(|(_, tokens)| *tokens < FEW_TOKENS).map(|(e, _)| *e).collect();
    if !few.is_empty() {
        statistics.widen(lane.backend, few.clone())?;
        lane.observe_all(block, FloatMath::Bf16, &streams.calibration, &mut statistics, &mut |_| Ok(()))?;
    }
    let tokens = tokens.into_iter().map(|(_, tokens)| tokens).collect();
    Ok((Some(statistics), sampled, ExpertTokens { tokens, on_all_tokens: few }))
}

/// Smooths every input that has a strength.
pub(super) fn smooth<B: Backend>(
    backend: &B,
    job: &Job<'_>,
    layer: usize,
    float: &mut FloatBlock<'_, B>,
    statistics: Option<&Statistics<B>>,
    sampled: Option<&Sampled>,
) -> Result<Vec<Smoothing>> {
    let mut done = Vec::new();
    let Some(statistics) = statistics else { return Ok(done) };
    for (input, absorber) in smoothed_inputs(job.plan, layer) {
        let Some(strength) = (job.strength)(layer, input) else { continue };
        let readers = smoothed_readers(job.plan, layer, input).into_iter();
        let readers: Vec<Role> = readers.filter(|&r| job.kind_of(layer, r).is_some()).collect();
        // Readers of one input may be of two types only in a mixture; its first stands for all then.
        let kind = readers.first().and_then(|&r| job.kind_of(layer, r));
        if kind.is_none() && strength == Strength::Search {
            continue; // nothing is rounded, so there is nothing to search
        }
        let absmax = statistics.absmax(backend, input)?;
        let searching = Searching {
            kind: kind.unwrap_or(Q8::Int8),
            weight_share: job.algorithm.weight_share(),
            threads: job.threads,
            rows: sampled.and_then(|s| s.inputs.get(&input)),
            readers: &readers,
        };
        let chosen = choose(job.plan, layer, float, input, strength, &absmax, &searching)?;
        done.push(float.smooth(job.plan, (input, absorber), &absmax, chosen, job.layout.float_dtype, layer)?);
    }
    Ok(done)
}

/// Quantizes every linear that has an 8-bit type.
pub(super) fn solve<B: Backend>(
    lane: &Lane<'_, B>,
    job: &Job<'_>,
    layer: usize,
    float: &FloatBlock<'_, B>,
    mut statistics: Option<&mut Statistics<B>>,
    smoothed: &[Smoothing],
) -> Result<Vec<Solved>> {
    let mut solved = Vec::new();
    let kind = |role: Role| job.kind_of(layer, role);
    for input in job.plan.inputs(layer) {
        let s = smoothed.iter().find(|s| s.inputs.contains(&input)).map(|s| &s.s[..]);
        let gram = match &mut statistics {
            Some(statistics) => correlation(lane, statistics, input, s)?,
            None => None,
        };
        solved.extend(solve_input(job.plan, layer, float, input, &kind, &job.algorithm, gram)?);
    }
    Ok(solved)
}

/// The Gram matrix of the input as smoothed, where it is to be factorized.
fn correlation<B: Backend>(
    lane: &Lane<'_, B>,
    statistics: &mut Statistics<B>,
    input: Input,
    s: Option<&[f32]>,
) -> Result<Option<Correlation<B>>> {
    let Some(solver) = lane.solver else {
        let mut gram = statistics.gram(lane.backend, input)?;
        if let (Some(gram), Some(s)) = (&mut gram, s) {
            divide_gram(gram, s.len(), s)?;
        }
        return Ok(gram.map(Correlation::Host));
    };
    let mut gram = statistics.take_gram(input);
    if let (Some(gram), Some(s)) = (&mut gram, s) {
        solver.divide_gram(gram, s)?;
    }
    Ok(gram.map(Correlation::Device))
}
