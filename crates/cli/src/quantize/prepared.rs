//! A model, a recipe and calibration sequences, opened: what every run over the blocks starts from.
use super::stored;
use super::strength::{algorithm, idle_mappings, strength};
use super::{finite, samples};
use crate::machine::{Machine, bar};
use crate::source::Model;
use anyhow::{Result, bail};
use planish_checkpoint::scheme::Scheme;
use planish_checkpoint::writer::CheckpointWriter;
use planish_devices::{Work, with_device};
use planish_model::Role;
use planish_quant::calibrate::probe::{LayerShare, sensitivity};
use planish_quant::calibrate::run::{Job, Outcome, Progress, Tell, measure, quantize};
use planish_quant::calibrate::save::Layout;
use planish_quant::recipe::{Recipe, q8};
use planish_quant::samples::Samples;
use planish_tensor::{Backend, DType, Q8};

/// See the module.
pub struct Prepared {
    /// The original.
    pub model: Model,
    /// What is done with it.
    pub recipe: Recipe,
    /// Calibration sequences.
    pub samples: Samples,
    /// Tokens that no statistic sees.
    pub held_back: Vec<u32>,
    /// Mappings of the recipe that name nothing of the model.
    pub idle_mappings: Vec<String>,
    threads: usize,
    float_dtype: DType,
}

/// What is run over the blocks.
enum Over<'a> {
    Writing(&'a mut CheckpointWriter),
    Measuring,
    /// On so many tokens.
    Probing(usize),
}

enum Found {
    Outcome(Outcome),
    Shares(Vec<LayerShare>),
}

struct Run<'a, 'b> {
    job: &'a Job<'b>,
    over: Over<'a>,
    progress: Tell<'a, Progress>,
}

impl Work for Run<'_, '_> {
    type Output = planish_quant::Result<Found>;
    fn run<B: Backend>(self, backend: B) -> Self::Output {
        let found = match self.over {
            Over::Writing(writer) => quantize(&backend, self.job, writer, self.progress).map(Found::Outcome),
            Over::Measuring => measure(&backend, self.job, self.progress).map(Found::Outcome),
            Over::Probing(_) => sensitivity(&backend, self.job, self.progress).map(Found::Shares),
        };
        found.map_err(planish_quant::Error::with_what_helps)
    }
}

impl Prepared {
    /// Decides and opens everything; at most `tokens` of the calibration are held back.
    pub fn open(machine: &Machine, model: &str, recipe: Recipe, tokens: usize) -> Result<Prepared> {
        machine.go_on()?;
        let model = Model::open(model, machine.talks)?;
        if model.scheme.is_some() {
            bail!("{}: expected a float model, found one that is quantized already", model.path.display());
        }
        stored::check(&model.plan, &recipe)?;
        let idle_mappings = idle_mappings(&model.plan, &recipe)?;
        let (samples, held_back) = samples::load(&model, &recipe, tokens, !machine.talks)?;
        let float_dtype = model.tensors.tensor(model.plan.arch.names.embed)?.dtype();
        let threads = machine.threads();
        Ok(Prepared { model, recipe, samples, held_back, idle_mappings, threads, float_dtype })
    }

    /// The 8-bit type of a linear; `None` for what stays in float.
    pub fn kind(&self, layer: usize, role: Role) -> Option<Q8> {
        let scheme = self.recipe.scheme_of(&self.model.plan.linear_name(layer, role));
        scheme.filter(|_| !role.steers()).map(|scheme| q8(scheme.weights.dtype))
    }

    /// The 8-bit type of the output projection.
    pub fn head(&self) -> Option<Q8> {
        let scheme = self.recipe.scheme_of_head(self.model.plan.arch.names.head);
        scheme.map(|scheme| q8(scheme.weights.dtype))
    }

    /// The scheme as saved, and the names of what stays in float.
    pub fn scheme(&self) -> Result<Scheme> {
        stored::scheme(&self.model.plan, &self.recipe)
    }

    /// Bytes of a float weight as it is written.
    pub fn float_bytes(&self) -> usize {
        self.float_dtype.size()
    }

    /// Quantizes into `writer`.
    pub fn write(&self, machine: &Machine, writer: &mut CheckpointWriter) -> Result<Outcome> {
        match self.run(machine, Over::Writing(writer), "quantizing")? {
            Found::Outcome(outcome) => Ok(outcome),
            Found::Shares(_) => bail!("a quantizing run measured shares"),
        }
    }

    /// Quantizes, keeps nothing, and measures the result.
    pub fn measure(&self, machine: &Machine) -> Result<Outcome> {
        match self.run(machine, Over::Measuring, "measuring")? {
            Found::Outcome(outcome) => Ok(outcome),
            Found::Shares(_) => bail!("a measuring run measured shares"),
        }
    }

    /// What each layer does alone, measured on at most `tokens` of what is held back.
    pub fn shares(&self, machine: &Machine, tokens: usize) -> Result<Vec<LayerShare>> {
        match self.run(machine, Over::Probing(tokens), "probing")? {
            Found::Shares(shares) => Ok(shares),
            Found::Outcome(_) => bail!("a probing run quantized"),
        }
    }

    fn run(&self, machine: &Machine, over: Over<'_>, what: &str) -> Result<Found> {
        let model = &self.model;
        let strength = |layer, input| strength(model, &self.recipe, layer, input);
        let kind = |layer, role| self.kind(layer, role);
        let scheme = self.scheme()?;
        let scale_name = scheme.scale_name();
        let stored = model.plan.stored_by(scheme);
        let tokens = match over {
            Over::Probing(tokens) => tokens.min(self.held_back.len()),
            Over::Writing(_) | Over::Measuring => self.held_back.len(),
        };
        let job = Job {
            plan: &model.plan,
            stored: &stored,
            source: model.tensors.as_ref(),
            samples: &self.samples.ids,
            held_back: &self.held_back[..tokens],
            kind: &kind,
            head: self.head(),
            strength: &strength,
            algorithm: algorithm(&self.recipe, self.threads),
            threads: self.threads,
            layout: Layout { scale_name, scale_dtype: DType::F32, float_dtype: self.float_dtype },
            keys: None,
        };
        let shown = bar(machine.talks, model.plan.layers as u64, what);
        let mut progress = |p: Progress| {
            shown.set_position((p.layer as f64 + p.part) as u64);
            machine.go_on()
        };
        let run = Run { job: &job, over, progress: &mut progress };
        let found = with_device(&machine.device, machine.opening(), run)?.map_err(|e| finite::explain(model, e))?;
        shown.finish_and_clear();
        if let Found::Outcome(outcome) = &found {
            finite::check(model, outcome.quantized.mean)?;
        }
        Ok(found)
    }
}
