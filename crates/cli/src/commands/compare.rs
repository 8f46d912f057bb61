//! `planish compare`: is the quantized model still the same?
use super::flags::EngineFlags;
use super::tasks::{self, Kept, TaskFlags};
use super::{bar, check_device, check_place, print, print_json};
use crate::Global;
use anyhow::{Context, Result, anyhow};
use clap::Args;
use planish::pipeline::KV_DTYPES;
use planish::quantize::report_beside;
use planish::{Generation, Model, Pipeline, PipelineOptions};
use planish_eval::compare::{self, Comparison, Sample};
use planish_eval::html::Page;
use planish_eval::tasks::{paired, recovery, select};
use planish_text::Message;
use std::path::{Path, PathBuf};

/// What is compared on unless `--data` says otherwise.
const BUILT_IN: &str = include_str!("../../assets/compare.txt");
/// Prompts that both models answer, side by side.
const PROMPTS: [&str; 2] = ["Explain in one sentence why the sky is blue.", "What is 12 times 7?"];

/// Flags of the command.
#[derive(Args)]
pub struct Flags {
    /// The original: directory, .gguf file or hub id
    original: String,
    /// The quantized one
    quantized: String,
    /// Device of the original, if not --device's
    #[arg(long, value_name = "DEVICE", value_parser = crate::parse_device)]
    original_device: Option<String>,
    /// Element type of the quantized model's keys and values, as in `generate`
    #[arg(long, default_value = "auto", value_parser = KV_DTYPES.map(|(name, _)| name))]
    kv_dtype: String,
    /// Text file to measure on [default: a sample inside the program]
    #[arg(long)]
    data: Option<PathBuf>,
    /// Windows at most
    #[arg(long, default_value_t = 40)]
    windows: usize,
    /// Tokens of a window
    #[arg(long, default_value_t = 2048)]
    window_len: usize,
    /// Write a page with pictures
    #[arg(long)]
    html: Option<PathBuf>,
    /// Leave out the sample answers
    #[arg(long)]
    no_samples: bool,
    /// Tasks and groups to run on both models side by side, separated by commas, as in `eval`
    #[arg(long, value_delimiter = ',', long_help = tasks::help())]
    tasks: Vec<String>,
    #[command(flatten)]
    how: TaskFlags,
}

/// Runs the command.
pub fn run(global: &Global, flags: &Flags) -> Result<()> {
    check_device(&global.device)?;
    check_device(flags.original_device.as_ref().unwrap_or(&global.device))?;
    check_place("--html", flags.html.as_ref())?;
    let chosen = (!flags.tasks.is_empty()).then(|| select::select(&flags.tasks)).transpose()?;
    let text = match &flags.data {
        Some(path) => std::fs::read_to_string(path).with_context(|| format!("--data {}", path.display()))?,
        None => BUILT_IN.to_owned(),
    };
    let (original, quantized) =
        (Model::open(&flags.original, global.talks())?, Model::open(&flags.quantized, global.talks())?);
    let tokens = original.words()?.tokenizer.encode(&text, planish_text::SpecialText::Recognised)?;
    let windows = planish_eval::compare::windows(&tokens, flags.windows, flags.window_len);
    let windows = windows.map_err(|error| flags.named(error))?;
    let made_for = original.plan.max_positions.min(quantized.plan.max_positions);
    let (of_original, options) = options(global, flags, &windows, made_for);
    let (first, second) = (Pipeline::open(&original, &of_original)?, Pipeline::open(&quantized, &options)?);
    let shown = bar(global.talks(), windows.iter().map(|w| w.len() as u64).sum(), "comparing");
    let mut progress = |done: usize, _| shown.set_position(done as u64);
    let mut result = compare::run(first.handle(), second.handle(), &windows, &mut progress)?;
    shown.finish_and_clear();
    (result.original.bytes, result.quantized.bytes) = (original.bytes, quantized.bytes);
    if result.note.is_none() {
        result.note = planish_eval::compare::shortage(&windows, flags.windows, flags.window_len);
    }
    if let Some(chosen) = &chosen {
        let run = |pipeline, name| tasks::run(global, &flags.how, chosen, pipeline, name, Kept::default());
        let (of_original, of_quantized) = (run(&first, &flags.original)?, run(&second, &flags.quantized)?);
        result.tasks = paired::compare(&of_original, &of_quantized)?;
        result.accuracy_recovery = recovery::recovery(&of_original, &result.tasks);
    }
    if !flags.no_samples {
        result.samples = samples(&first, &second)?;
    }
    show(global, flags, &result)
}

impl Flags {
    /// An error of the windows, by the flag that it comes from.
    fn named(&self, error: planish_eval::Error) -> anyhow::Error {
        match (&error, &self.data) {
            (planish_eval::Error::ShortText { .. }, Some(path)) => anyhow!("--data {}: {error}", path.display()),
            (planish_eval::Error::TooSmall { field, expected, found }, _) => {
                anyhow!("--{}: expected at least {expected}, found {found}", field.replace('_', "-"))
            }
            _ => error.into(),
        }
    }
}

/// How both models run.
fn options(global: &Global, flags: &Flags, windows: &[&[u32]], made_for: usize) -> (PipelineOptions, PipelineOptions) {
    // The sample answers need some room too, but no more than the models have.
    let longest = windows.iter().map(|w| w.len()).max().unwrap_or(0).max(made_for.min(512));
    // Tasks have texts of their own lengths, and run many at once.
    let sizes = if flags.tasks.is_empty() { (Some(longest), Some(2)) } else { (None, None) };
    let engine = EngineFlags { max_model_len: sizes.0, max_batch: sizes.1, ..EngineFlags::default() };
    let of_original = engine.options(global);
    let options = EngineFlags { kv_dtype: flags.kv_dtype.clone(), ..engine }.options(global);
    let device = flags.original_device.clone().unwrap_or_else(|| global.device.clone());
    (PipelineOptions { device: Some(device), ..of_original }, options)
}

/// The page, if one is asked for, and what is printed.
fn show(global: &Global, flags: &Flags, result: &Comparison) -> Result<()> {
    if let Some(path) = &flags.html {
        let report = report_beside(Path::new(&flags.quantized));
        let page = Page { original: &flags.original, quantized: &flags.quantized, report: report.as_ref() };
        std::fs::write(path, page.render(result)).with_context(|| format!("--html {}", path.display()))?;
    }
    match global.json {
        true => print_json(&serde_json::to_value(result)?),
        false => print(&result.to_text()),
    }
}

fn samples(original: &Pipeline, quantized: &Pipeline) -> Result<Vec<Sample>> {
    let generation = Generation { max_new_tokens: 48, ..Generation::default() };
    let answer = |pipeline: &Pipeline, prompt: &str| -> Result<String> {
        let chat = pipeline.encode_chat(&[Message { role: "user".into(), content: prompt.into() }]);
        let ids = chat.or_else(|_| pipeline.encode(prompt))?;
        let answers = pipeline.generate(vec![ids], &generation)?;
        Ok(answers.into_iter().map(|a| a.text).collect())
    };
    let sample = |prompt: &&str| {
        Ok(Sample {
            prompt: prompt.to_string(),
            original: answer(original, prompt)?,
            quantized: answer(quantized, prompt)?,
        })
    };
    PROMPTS.iter().map(sample).collect()
}
