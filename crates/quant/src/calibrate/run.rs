//! The driver: block by block, calibrate → smooth → quantize → check → save → advance.
use super::check::{self, Divergence};
use super::fold::{FloatBlock, Smoothing};
use super::hidden::{Hidden, Lane};
use super::observe::{Recording, Statistics};
use super::save::{self, Layout};
use super::solve::{Algorithm, Solved, solve_input, to_part};
use crate::error::Result;
use crate::report::LayerReport;
use crate::smooth::divide_gram;
use planish_checkpoint::source::TensorSource;
use planish_checkpoint::writer::CheckpointWriter;
use planish_model::block::Block;
use planish_model::decoder::release_block;
use planish_model::weights::HostBlock;
use planish_model::{Ends, Input, Plan, Role};
use planish_tensor::{Backend, FloatMath, Q8};
use std::io::{Read, Write};

/// Decided settings of one run.
pub struct Job<'a> {
    /// Sizes of the model.
    pub plan: &'a Plan,
    /// Its tensors.
    pub source: &'a dyn TensorSource,
    /// Calibration sequences of token ids.
    pub samples: &'a [Vec<u32>],
    /// One more sequence, for the self-checks.
    pub held_back: &'a [u32],
    /// 8-bit type.
    pub kind: Q8,
    /// Smoothing strength of a layer's input; `None` leaves it alone.
    pub alpha: &'a dyn Fn(usize, Input) -> Option<f64>,
    /// How weights become codes.
    pub algorithm: Algorithm,
    /// Whether a linear is quantized.
    pub quantized: &'a dyn Fn(usize, Role) -> bool,
    /// How tensors are named and typed.
    pub layout: Layout,
}

impl Job<'_> {
    /// Whether anything is smoothed.
    fn smooths(&self) -> bool {
        (0..self.plan.layers).any(|layer| Input::ALL.iter().any(|&input| (self.alpha)(layer, input).is_some()))
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

/// The four streams of hidden states that walk through the blocks side by side.
struct Streams {
    /// Calibration states, made by quantized blocks.
    calibration: Hidden,
    /// The held-back sequence through original, smoothed and quantized blocks.
    original: Hidden,
    smoothed: Hidden,
    quantized: Hidden,
}

/// Quantizes every block into `writer`, continuing where an earlier run stopped, and checks the result.
pub fn quantize<B: Backend>(
    backend: &B,
    job: &Job<'_>,
    writer: &mut CheckpointWriter,
    progress: &mut dyn FnMut(Progress),
) -> Result<Outcome> {
    let plan = job.plan;
    backend.runs(job.kind)?;
    let longest = job.samples.iter().map(Vec::len).chain([job.held_back.len()]).max().unwrap_or(1);
    let mut lane = Lane::new(backend, plan, longest, check::ROWS)?;
    let ends = Ends::load(backend, plan, job.source, false)?;
    let mut layers = Vec::new();
    let mut streams = match writer.state()? {
        Some(mut state) => restore(&mut state, job, &mut layers)?,
        None => Streams::begin(&mut lane, &ends, job)?,
    };
    // The output projection is needed again only at the end; it is the largest weight of small models.
    drop(ends);
    for layer in writer.completed_blocks()..plan.layers {
        let mut part = |part| progress(Progress { layer, layers: plan.layers, part });
        layers.push(one_block(&mut lane, job, layer, &mut streams, writer, &mut part)?);
        writer.save_state(layer, |w| store(w, &streams, &layers))?;
        writer.finish_block(layer)?;
        release_block(plan, job.source, layer);
    }
    drop(std::mem::take(&mut streams.calibration.values));
    let ends = Ends::load(backend, plan, job.source, false)?;
    let smoothing = match job.smooths() {
        true => Some(check::divergence(&mut lane, &ends, &streams.original, &streams.smoothed, plan.hidden)?),
        false => None,
    };
    if let Some(d) = &smoothing {
        check::same_function(d)?;
    }
    let quantized = check::divergence(&mut lane, &ends, &streams.original, &streams.quantized, plan.hidden)?;
    save::write_ends(writer, plan, job.source)?;
    Ok(Outcome { layers, smoothing, quantized })
}

fn one_block<B: Backend>(
    lane: &mut Lane<'_, B>,
    job: &Job<'_>,
    layer: usize,
    streams: &mut Streams,
    writer: &mut CheckpointWriter,
    progress: &mut dyn FnMut(f64),
) -> Result<LayerReport> {
    let (plan, backend) = (job.plan, lane.backend);
    let host = HostBlock::read(plan, job.source, layer)?;
    let original = Block::load(backend, plan, layer, &host)?;
    let statistics = calibrate(lane, job, &original, &streams.calibration, progress)?;
    lane.advance(&original, FloatMath::F32, &mut streams.original)?;
    drop(original);

    let mut float = FloatBlock::new(&host);
    drop(host);
    let smoothed = smooth(backend, job, layer, &mut float, statistics.as_ref())?;
    let float_host = float.to_host(plan)?;
    let recording = check_smoothing(lane, job, layer, &float_host, streams)?;

    let solved = solve(backend, job, layer, &float, statistics.as_ref(), &smoothed)?;
    drop(statistics);
    let errors = check::output_errors(backend, plan, &float_host, &solved, &recording.inputs)?;
    save::write_block(writer, plan, layer, &float, &solved, job.layout)?;

    let block = Block::load(backend, plan, layer, &with_codes(float_host, &solved)?)?;
    lane.advance(&block, FloatMath::F32, &mut streams.quantized)?;
    if layer + 1 < plan.layers {
        lane.advance(&block, FloatMath::Bf16, &mut streams.calibration)?;
    }
    progress(1.0);
    let mut report = LayerReport {
        name: plan.block_prefix(layer).trim_end_matches('.').into(),
        smoothing: smoothed.into_iter().map(|s| s.report).collect(),
        linears: solved.into_iter().map(|s| s.report).collect(),
        state_error: Some(check::relative_error(&streams.original.values, &streams.quantized.values)),
    };
    for (linear, error) in report.linears.iter_mut().zip(errors) {
        linear.output_error = Some(error);
    }
    Ok(report)
}

/// Statistics of the block's inputs, if smoothing or GPTQ needs any.
fn calibrate<B: Backend>(
    lane: &mut Lane<'_, B>,
    job: &Job<'_>,
    block: &Block<B>,
    hidden: &Hidden,
    progress: &mut dyn FnMut(f64),
) -> Result<Option<Statistics<B>>> {
    let grams = matches!(job.algorithm, Algorithm::Gptq(_));
    if !grams && !job.smooths() {
        return Ok(None);
    }
    let mut statistics = Statistics::new(lane.backend, job.plan, FloatMath::Bf16, grams)?;
    let (mut done, total) = (0, hidden.lengths.iter().sum::<usize>() as f64);
    lane.observe(block, FloatMath::Bf16, hidden, &mut statistics, &mut |tokens| {
        done += tokens;
        progress(0.7 * done as f64 / total);
    })?;
    Ok(Some(statistics))
}

/// Smooths every input that has a strength.
fn smooth<B: Backend>(
    backend: &B,
    job: &Job<'_>,
    layer: usize,
    float: &mut FloatBlock,
    statistics: Option<&Statistics<B>>,
) -> Result<Vec<Smoothing>> {
    let mut done = Vec::new();
    let Some(statistics) = statistics else { return Ok(done) };
    for input in Input::ALL {
        if let Some(alpha) = (job.alpha)(layer, input) {
            let absmax = statistics.absmax(backend, input)?;
            done.push(float.smooth(job.plan, input, &absmax, alpha, job.layout.float_dtype, layer)?);
        }
    }
    Ok(done)
}

/// Runs the smoothed float block on the held-back sequence: it must do what the original does.
fn check_smoothing<B: Backend>(
    lane: &mut Lane<'_, B>,
    job: &Job<'_>,
    layer: usize,
    float: &HostBlock,
    streams: &mut Streams,
) -> Result<Recording> {
    let block = Block::load(lane.backend, job.plan, layer, float)?;
    let mut recording = Recording::default();
    lane.observe(&block, FloatMath::F32, &streams.smoothed, &mut recording, &mut |_| {})?;
    lane.advance(&block, FloatMath::F32, &mut streams.smoothed)?;
    check::same_states(layer, &streams.original, &streams.smoothed)?;
    Ok(recording)
}

fn solve<B: Backend>(
    backend: &B,
    job: &Job<'_>,
    layer: usize,
    float: &FloatBlock,
    statistics: Option<&Statistics<B>>,
    smoothed: &[Smoothing],
) -> Result<Vec<Solved>> {
    let mut solved = Vec::new();
    let quantized = |role| (job.quantized)(layer, role);
    for input in Input::ALL {
        let mut gram = match statistics {
            Some(s) => s.gram(backend, input)?,
            None => None,
        };
        if let (Some(gram), Some(s)) = (&mut gram, smoothed.iter().find(|s| s.input == input)) {
            divide_gram(gram, s.s.len(), &s.s)?;
        }
        let gram = gram.as_deref();
        solved.extend(solve_input(job.plan, layer, float, input, job.kind, &job.algorithm, gram, &quantized)?);
    }
    Ok(solved)
}

fn with_codes(mut host: HostBlock, solved: &[Solved]) -> Result<HostBlock> {
    for s in solved {
        let bias = host.linear(s.role).bias.clone();
        *host.linear_mut(s.role) = to_part(&s.weight, bias)?;
    }
    Ok(host)
}

impl Streams {
    fn begin<B: Backend>(lane: &mut Lane<'_, B>, ends: &Ends<B>, job: &Job<'_>) -> Result<Streams> {
        let held_back = [job.held_back.to_vec()];
        Ok(Streams {
            calibration: lane.embed(ends, job.samples)?,
            original: lane.embed(ends, &held_back)?,
            smoothed: lane.embed(ends, &held_back)?,
            quantized: lane.embed(ends, &held_back)?,
        })
    }

    fn all(&self) -> [&Hidden; 4] {
        [&self.calibration, &self.original, &self.smoothed, &self.quantized]
    }
}

/// State after a block: the outcomes so far as JSON, behind their length, then the four streams as f32.
fn store(w: &mut dyn Write, streams: &Streams, layers: &[LayerReport]) -> std::io::Result<()> {
    let json = serde_json::to_vec(layers)?;
    w.write_all(&(json.len() as u64).to_le_bytes())?;
    w.write_all(&json)?;
    for hidden in streams.all() {
        for chunk in hidden.values.chunks(1 << 16) {
            let bytes: Vec<u8> = chunk.iter().flat_map(|v| v.to_le_bytes()).collect();
            w.write_all(&bytes)?;
        }
    }
    Ok(())
}

fn restore(state: &mut dyn Read, job: &Job<'_>, layers: &mut Vec<LayerReport>) -> Result<Streams> {
    let broken = |e: std::io::Error| crate::Error::State(e.to_string());
    let mut length = [0; 8];
    state.read_exact(&mut length).map_err(broken)?;
    let mut json = Vec::new();
    state.take(u64::from_le_bytes(length)).read_to_end(&mut json).map_err(broken)?;
    *layers = serde_json::from_slice(&json).map_err(|e| crate::Error::State(e.to_string()))?;
    let h = job.plan.hidden;
    let mut stream = |lengths: Vec<usize>| {
        let mut bytes = vec![0; lengths.iter().sum::<usize>() * h * 4];
        state.read_exact(&mut bytes).map_err(broken)?;
        let values = planish_tensor::host::decode_f32(planish_tensor::DType::F32, &bytes);
        Ok::<_, crate::Error>(Hidden { lengths, values })
    };
    let held_back = || vec![job.held_back.len()];
    let streams = Streams {
        calibration: stream(job.samples.iter().map(Vec::len).collect())?,
        original: stream(held_back())?,
        smoothed: stream(held_back())?,
        quantized: stream(held_back())?,
    };
    // Reading to the end checks the digest.
    std::io::copy(state, &mut std::io::sink()).map_err(broken)?;
    Ok(streams)
}
