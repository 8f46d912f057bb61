//! The driver: block by block, calibrate → smooth → quantize → check → save → advance.
use super::check::{self, Divergence};
use super::fold::{FloatBlock, Smoothing, smoothed_inputs, smoothed_readers};
use super::hidden::Lane;
use super::lines;
use super::observe::{Recording, Statistics};
use super::phases::Phases;
use super::sampled::{Eyes, Sampled};
use super::save::{self, Layout};
use super::solve::{Algorithm, Correlation, Solved, solve_input};
use super::stored::{conform, needs_maxima};
use super::streams::Streams;
use super::strength::{Searching, Strength, choose};
use crate::error::Result;
use crate::report::{ExpertTokens, LayerReport};
use crate::smooth::divide_gram;
use planish_checkpoint::source::TensorSource;
use planish_checkpoint::writer::CheckpointWriter;
use planish_model::block::Block;
use planish_model::decoder::release_block;
use planish_model::weights::HostBlock;
use planish_model::{Ends, Input, Plan, Role};
use planish_tensor::{Backend, DType, FloatMath, HostTensor, Q8};

/// Decided settings of one run.
pub struct Job<'a> {
    /// Sizes of the model.
    pub plan: &'a Plan,
    /// The same as it is saved: with its scheme, if that is another than the usual one.
    pub stored: &'a Plan,
    /// Its tensors.
    pub source: &'a dyn TensorSource,
    /// Calibration sequences of token ids.
    pub samples: &'a [Vec<u32>],
    /// One more sequence, for the self-checks.
    pub held_back: &'a [u32],
    /// 8-bit type.
    pub kind: Q8,
    /// How strongly a layer's input is smoothed; `None` leaves it alone.
    pub strength: &'a dyn Fn(usize, Input) -> Option<Strength>,
    /// How weights become codes.
    pub algorithm: Algorithm,
    /// Threads of the search of strengths; the result is the same for every number.
    pub threads: usize,
    /// Whether a linear is quantized. Routers and gates of shared experts never are.
    pub quantized: &'a dyn Fn(usize, Role) -> bool,
    /// How tensors are named and typed.
    pub layout: Layout,
    /// Type of the calibration's keys and values, F32 or BF16; `None` for what the device attends to fastest.
    pub keys: Option<DType>,
}

impl Job<'_> {
    /// Whether anything is smoothed.
    fn smooths(&self) -> bool {
        let any =
            |layer| smoothed_inputs(self.plan, layer).iter().any(|(input, _)| (self.strength)(layer, *input).is_some());
        (0..self.plan.layers).any(any)
    }
}

/// What came of it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Each block.
    pub layers: Vec<LayerReport>,
    /// KL(original || smoothed float model); `None` when nothing was smoothed.
    pub smoothing: Option<Divergence>,
    /// KL(original || quantized model).
    pub quantized: Divergence,
    /// Seconds by phase.
    pub phases: Phases,
}

/// How far a run is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Block in work, from 0.
    pub layer: usize,
    /// Blocks in all.
    pub layers: usize,
    /// Share of the block's calibration that is done.
    pub part: f64,
}

/// A run between two blocks.
pub(super) struct Run<'a, 'j, B: Backend> {
    pub lane: Lane<'a, B>,
    pub job: &'a Job<'j>,
    pub streams: Streams<B>,
    pub layers: Vec<LayerReport>,
    pub phases: Phases,
}

/// Quantizes every block, keeps nothing of it, and measures the result.
pub fn measure<B: Backend>(backend: &B, job: &Job<'_>, progress: &mut dyn FnMut(Progress)) -> Result<Outcome> {
    backend.runs(job.kind)?;
    let (mut run, layers) = (Run::fresh(backend, job)?, job.plan.layers);
    for layer in 0..layers {
        let host = HostBlock::read(job.plan, job.source, layer)?;
        run.block(layer, host, &mut |part| progress(Progress { layer, layers, part }))?;
        release_block(job.plan, job.source, layer);
    }
    run.check()
}

/// Quantizes every block into `writer`, continuing where an earlier run stopped, and checks the result.
pub fn quantize<B: Backend>(
    backend: &B,
    job: &Job<'_>,
    writer: &mut CheckpointWriter,
    progress: &mut dyn FnMut(Progress),
) -> Result<Outcome> {
    backend.runs(job.kind)?;
    let mut run = Run::begin(backend, job, writer)?;
    match run.lane.solver {
        None => lines::one_by_one(&mut run, writer, progress)?,
        Some(_) => lines::side_by_side(&mut run, writer, progress)?,
    }
    run.end(writer)
}

impl<'a, 'j, B: Backend> Run<'a, 'j, B> {
    fn begin(backend: &'a B, job: &'a Job<'j>, writer: &CheckpointWriter) -> Result<Run<'a, 'j, B>> {
        let Some(mut state) = writer.state()? else { return Run::fresh(backend, job) };
        let (mut lane, ends, mut phases) = Run::<B>::open(backend, job)?;
        let mut layers = Vec::new();
        let streams = Streams::restore(&mut lane, &ends, job, &mut state, &mut layers, &writer.finished()?)?;
        phases.end(backend, "begin")?;
        Ok(Run { lane, job, streams, layers, phases })
    }

    fn fresh(backend: &'a B, job: &'a Job<'j>) -> Result<Run<'a, 'j, B>> {
        let (mut lane, ends, mut phases) = Run::<B>::open(backend, job)?;
        let streams = Streams::begin(&mut lane, &ends, job)?;
        phases.end(backend, "begin")?;
        Ok(Run { lane, job, streams, layers: Vec::new(), phases })
    }

    fn open(backend: &'a B, job: &'a Job<'j>) -> Result<(Lane<'a, B>, Ends<B>, Phases)> {
        let phases = Phases::default();
        let solver = backend.solver().filter(|_| job.algorithm.solvable());
        let lengths: Vec<usize> = job.samples.iter().map(Vec::len).collect();
        let lane = Lane::new(backend, solver, job.stored, &lengths, job.held_back.len(), check::ROWS, job.keys)?;
        // The output projection is needed again only at the end; it is the largest weight of small models.
        Ok((lane, Ends::load(backend, job.plan, job.source, false)?, phases))
    }

    fn end(self, writer: &mut CheckpointWriter) -> Result<Outcome> {
        let (backend, job) = (self.lane.backend, self.job);
        let mut outcome = self.check()?;
        save::write_ends(writer, job.plan, job.source)?;
        outcome.phases.end(backend, "write the rest")?;
        Ok(outcome)
    }

    fn check(mut self) -> Result<Outcome> {
        let (job, lane) = (self.job, &mut self.lane);
        drop(std::mem::take(&mut self.streams.calibration.chunks));
        let ends = Ends::load(lane.backend, job.plan, job.source, false)?;
        let (original, h) = (&self.streams.original, job.plan.hidden);
        let smoothing = match job.smooths() {
            true => Some(check::divergence(lane, &ends, original, &self.streams.smoothed, h)?),
            false => None,
        };
        if let Some(d) = &smoothing {
            check::same_function(d)?;
        }
        let quantized = check::divergence(lane, &ends, original, &self.streams.quantized, h)?;
        self.phases.end(lane.backend, "compare")?;
        Ok(Outcome { layers: self.layers, smoothing, quantized, phases: self.phases })
    }

    /// Everything that is done to block `layer`; its tensors as they are stored.
    pub(super) fn block(
        &mut self,
        layer: usize,
        host: HostBlock,
        progress: &mut dyn FnMut(f64),
    ) -> Result<Vec<(String, HostTensor)>> {
        let (lane, job, streams, phases) = (&mut self.lane, self.job, &mut self.streams, &mut self.phases);
        let (plan, backend, solver) = (job.plan, lane.backend, lane.solver);
        let original = Block::load(backend, plan, layer, &host)?;
        phases.end(backend, "load")?;
        let (mut statistics, sampled, experts) = calibrate(lane, job, layer, &original, streams, progress)?;
        phases.end(backend, "observe")?;
        lane.advance(&original, FloatMath::F32, &mut streams.original)?;
        drop(original);

        let mut float = FloatBlock::new(backend, solver, &host)?;
        drop(host);
        phases.end(backend, "widen")?;
        let smoothed = smooth(backend, job, layer, &mut float, statistics.as_ref(), sampled.as_ref())?;
        drop(sampled);
        phases.end(backend, "smooth")?;
        let recording = check_smoothing(lane, job, layer, &float, streams)?;
        phases.end(backend, "check")?;

        let mut solved = solve(lane, job, layer, &float, statistics.as_mut(), &smoothed)?;
        conform(backend, job.stored, layer, &float, statistics.as_ref(), &smoothed, &mut solved)?;
        drop(statistics);
        phases.end(backend, "solve")?;
        let errors = check::output_errors(backend, plan, &float, &solved, &recording.inputs)?;
        phases.end(backend, "check")?;
        let tensors = save::block_tensors(job.stored, layer, &float, &solved, job.layout)?;

        // Where a resumed run makes the states again, they must come from what is saved.
        let saved = match solver {
            Some(_) => HostBlock::read(job.stored, &save::Tensors(&tensors), layer)?,
            None => with_codes(plan, layer, &float, &solved)?,
        };
        drop(float);
        let block = Block::load(backend, plan, layer, &saved)?;
        drop(saved);
        phases.end(backend, "load")?;
        lane.advance(&block, FloatMath::F32, &mut streams.quantized)?;
        phases.end(backend, "check")?;
        if layer + 1 < plan.layers {
            lane.advance_all(&block, FloatMath::Bf16, &mut streams.calibration)?;
        }
        phases.end(backend, "advance")?;
        progress(1.0);
        self.layers.push(report(plan, layer, experts, smoothed, solved, errors, streams));
        Ok(tensors)
    }
}

fn report<B: Backend>(
    plan: &Plan,
    layer: usize,
    experts: ExpertTokens,
    smoothed: Vec<Smoothing>,
    solved: Vec<Solved>,
    errors: Vec<Option<f64>>,
    streams: &Streams<B>,
) -> LayerReport {
    let mut report = LayerReport {
        name: plan.block_prefix(layer).trim_end_matches('.').into(),
        smoothing: smoothed.into_iter().map(|s| s.report).collect(),
        linears: solved.into_iter().map(|s| s.report).collect(),
        experts,
        state_error: Some(check::relative_error(&streams.original.values, &streams.quantized.values)),
    };
    for (linear, error) in report.linears.iter_mut().zip(errors) {
        linear.output_error = error;
    }
    report
}

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
    progress: &mut dyn FnMut(f64),
) -> Result<Calibrated<B>> {
    let grams = job.algorithm.needs_grams();
    if !grams && !job.smooths() && !needs_maxima(job.stored) {
        return Ok((None, None, ExpertTokens::default()));
    }
    let mut statistics = Statistics::new(lane.backend, job.plan, layer, FloatMath::Bf16, grams)?;
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
        progress(0.7 * done as f64 / total as f64);
    })?;
    let tokens = statistics.expert_tokens();
    let few: Vec<u16> = tokens.iter().filter(|(_, tokens)| *tokens < FEW_TOKENS).map(|(e, _)| *e).collect();
    if !few.is_empty() {
        statistics.widen(lane.backend, few.clone())?;
        lane.observe_all(block, FloatMath::Bf16, &streams.calibration, &mut statistics, &mut |_| {})?;
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
        let readers: Vec<Role> = readers.filter(|&r| !r.steers() && (job.quantized)(layer, r)).collect();
        if readers.is_empty() && strength == Strength::Search {
            continue; // nothing is rounded, so there is nothing to search
        }
        let absmax = statistics.absmax(backend, input)?;
        let searching = Searching {
            kind: job.kind,
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

/// Runs the smoothed float block on the held-back sequence: it must do what the original does.
fn check_smoothing<B: Backend>(
    lane: &mut Lane<'_, B>,
    job: &Job<'_>,
    layer: usize,
    float: &FloatBlock<'_, B>,
    streams: &mut Streams<B>,
) -> Result<Recording> {
    let block = float.block(lane.backend, job.plan, layer)?;
    let mut recording = Recording::default();
    lane.observe(&block, FloatMath::F32, &streams.smoothed, &mut recording)?;
    lane.advance(&block, FloatMath::F32, &mut streams.smoothed)?;
    check::same_states(layer, &streams.original, &streams.smoothed)?;
    Ok(recording)
}

pub(super) fn solve<B: Backend>(
    lane: &Lane<'_, B>,
    job: &Job<'_>,
    layer: usize,
    float: &FloatBlock<'_, B>,
    mut statistics: Option<&mut Statistics<B>>,
    smoothed: &[Smoothing],
) -> Result<Vec<Solved>> {
    let mut solved = Vec::new();
    let quantized = |role: Role| !role.steers() && (job.quantized)(layer, role);
    for input in job.plan.inputs(layer) {
        let s = smoothed.iter().find(|s| s.inputs.contains(&input)).map(|s| &s.s[..]);
        let gram = match &mut statistics {
            Some(statistics) => correlation(lane, statistics, input, s)?,
            None => None,
        };
        solved.extend(solve_input(job.plan, layer, float, input, job.kind, &job.algorithm, gram, &quantized)?);
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

/// The block as it will be saved: codes, and what stays in float.
fn with_codes<B: Backend>(
    plan: &Plan,
    layer: usize,
    float: &FloatBlock<'_, B>,
    solved: &[Solved],
) -> Result<HostBlock> {
    float.with_linears(&plan.roles(layer), |role| match solved.iter().find(|s| s.role == role) {
        Some(s) => Ok(s.part.clone()),
        None => float.part(plan, role),
    })
}
