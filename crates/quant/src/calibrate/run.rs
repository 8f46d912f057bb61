//! The driver: block by block, calibrate → smooth → quantize → check → save → advance.
use super::check::{self, Divergence};
use super::fold::{FloatBlock, Smoothing, smoothed_inputs};
use super::head::{self, Head};
use super::hidden::Lane;
use super::keys;
use super::lines::{self, Next};
use super::observe::Recording;
use super::phases::Phases;
use super::save::{self, Layout};
use super::solve::{Algorithm, Solved};
use super::steps::{calibrate, smooth, solve};
use super::stored::conform;
use super::streams::Streams;
use super::strength::Strength;
use crate::error::Result;
use crate::report::{ExpertTokens, LayerReport};
use planish_checkpoint::source::TensorSource;
use planish_checkpoint::writer::CheckpointWriter;
use planish_model::block::Block;
use planish_model::decoder::release_block;
use planish_model::weights::HostBlock;
use planish_model::{Ends, Input, Plan, Role};
use planish_tensor::{Backend, DType, FloatMath, HostTensor, Q8};

pub use super::states::Placed;
pub use super::steps::FEW_TOKENS;

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
    /// The 8-bit type of each linear; `None` leaves it in float. Routers and gates of shared experts always stay there.
    pub kind: &'a dyn Fn(usize, Role) -> Option<Q8>,
    /// The 8-bit type of the output projection, if it is quantized.
    pub head: Option<Q8>,
    /// How strongly a layer's input is smoothed; `None` leaves it alone.
    pub strength: &'a dyn Fn(usize, Input) -> Option<Strength>,
    /// How weights become codes.
    pub algorithm: Algorithm,
    /// Threads of the search of strengths; the result is the same for every number.
    pub threads: usize,
    /// How tensors are named and typed.
    pub layout: Layout,
    /// Type of the calibration's keys and values, F32 or BF16; `None` for what the device attends to fastest.
    pub keys: Option<DType>,
}

impl Job<'_> {
    /// The 8-bit type of a linear, if it is quantized.
    pub fn kind_of(&self, layer: usize, role: Role) -> Option<Q8> {
        if role.steers() { None } else { (self.kind)(layer, role) }
    }

    /// Fails unless products of every type that is asked for run on a device.
    pub(super) fn runs_on<B: Backend>(&self, backend: &B) -> Result<()> {
        let mut kinds: Vec<Q8> = self.head.into_iter().collect();
        for layer in 0..self.plan.layers {
            kinds.extend(self.plan.roles(layer).into_iter().filter_map(|role| self.kind_of(layer, role)));
        }
        Ok(Q8::ALL.into_iter().filter(|kind| kinds.contains(kind)).try_for_each(|kind| backend.runs(kind))?)
    }

    /// Whether anything is smoothed.
    pub(super) fn smooths(&self) -> bool {
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
    /// Where the calibration states were kept.
    pub states: Placed,
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

/// Who is told how far a run is; an error of theirs, such as [`crate::Error::Interrupted`], ends it.
pub type Tell<'a, T> = &'a mut dyn FnMut(T) -> Result<()>;

/// A run between two blocks.
pub(super) struct Run<'a, 'j, B: Backend> {
    pub lane: Lane<'a, B>,
    pub job: &'a Job<'j>,
    pub streams: Streams<B>,
    pub layers: Vec<LayerReport>,
    pub phases: Phases,
}

/// Quantizes every block, keeps nothing of it, and measures the result.
pub fn measure<B: Backend>(backend: &B, job: &Job<'_>, progress: Tell<'_, Progress>) -> Result<Outcome> {
    job.runs_on(backend)?;
    let (mut run, layers) = (Run::fresh(backend, job)?, job.plan.layers);
    for layer in 0..layers {
        let next = Next::read(backend, job.plan, job.source, layer)?;
        run.phases.end(backend, "load")?;
        run.block(layer, next, &mut |part| progress(Progress { layer, layers, part }))?;
        release_block(job.plan, job.source, layer);
    }
    let head = head::quantized(&mut run.lane, job, &run.streams)?;
    run.check(head)
}

/// Quantizes every block into `writer`, continuing where an earlier run stopped, and checks the result.
pub fn quantize<B: Backend>(
    backend: &B,
    job: &Job<'_>,
    writer: &mut CheckpointWriter,
    progress: Tell<'_, Progress>,
) -> Result<Outcome> {
    job.runs_on(backend)?;
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

    fn end(mut self, writer: &mut CheckpointWriter) -> Result<Outcome> {
        let head = head::quantized(&mut self.lane, self.job, &self.streams)?;
        let (backend, job) = (self.lane.backend, self.job);
        self.phases.end(backend, "solve")?;
        if let Some(head) = &head {
            save::write_new(writer, &head.tensors)?;
        }
        let mut outcome = self.check(head)?;
        save::write_ends(writer, job.plan, job.source)?;
        outcome.phases.end(backend, "write the rest")?;
        Ok(outcome)
    }

    fn check(mut self, head: Option<Head>) -> Result<Outcome> {
        let (job, lane) = (self.job, &mut self.lane);
        let states = self.streams.calibration.placed();
        drop(std::mem::take(&mut self.streams.calibration.chunks));
        let ends = Ends::load(lane.backend, job.plan, job.source, false)?;
        let (original, h) = (&self.streams.original, job.plan.hidden);
        let smoothing = match job.smooths() {
            true => Some(check::divergence(lane, [&ends; 2], original, &self.streams.smoothed, h)?),
            false => None,
        };
        if let Some(d) = &smoothing {
            check::same_function(d)?;
        }
        let other = head.as_ref().map(|head| head.ends(lane.backend, job)).transpose()?;
        let both = [&ends, other.as_ref().unwrap_or(&ends)];
        let quantized = check::divergence(lane, both, original, &self.streams.quantized, h)?;
        self.phases.end(lane.backend, "compare")?;
        self.layers.extend(head.map(|head| head.report));
        Ok(Outcome { layers: self.layers, smoothing, quantized, states, phases: self.phases })
    }

    /// Everything that is done to block `layer`; its tensors as they are stored.
    pub(super) fn block(
        &mut self,
        layer: usize,
        next: Next<B>,
        progress: Tell<'_, f64>,
    ) -> Result<Vec<(String, HostTensor)>> {
        let (lane, job, streams, phases) = (&mut self.lane, self.job, &mut self.streams, &mut self.phases);
        let (plan, backend, solver) = (job.plan, lane.backend, lane.solver);
        let Next { host, original } = next;
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
        let mut tensors = save::block_tensors(job.stored, layer, &float, &solved, job.layout)?;

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
        let wanted = layer + 1 < plan.layers || head::observes(job);
        tensors.extend(keys::advance(lane, job, layer, &block, &mut streams.calibration, wanted)?);
        phases.end(backend, "advance")?;
        progress(1.0)?;
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
