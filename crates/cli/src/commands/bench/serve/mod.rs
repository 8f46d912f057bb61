//! `planish bench serve`: a load over HTTP against any OpenAI-compatible server, with the measures of vLLM's serving
//! benchmark under its names and ours.
mod arrivals;
mod figures;
mod load;
mod request;

use super::lengths::Span;
use super::{MOST, Random, within};
use crate::Global;
use crate::commands::client::connection::Connection;
use crate::commands::client::{ServerFlags, first_model};
use crate::commands::{bar, print, print_json};
use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use figures::Goal;
use load::Job;
use planish::notice::say;
use request::{Outcome, Target};
use std::path::PathBuf;
use std::time::Duration;

/// Fewest requests a second, and most seconds for an answer: what clocks can be asked for.
const LEAST_RATE: f64 = 1e-6;
const LONGEST_TIMEOUT: f64 = 86_400.0;

/// Flags of the command.
#[derive(Args)]
pub struct Flags {
    #[command(flatten)]
    server: ServerFlags,
    /// What is asked: completions, of token ids or text, or chat/completions
    #[arg(long, default_value = "completions", value_enum)]
    endpoint: Endpoint,
    /// Tokens of a prompt: a number, or a range such as 64..1024
    #[arg(long, default_value = "1000", value_name = "LEN", visible_alias = "random-input-len")]
    input_len: Span,
    /// Tokens of an answer: a number, or a range (default: 1000; of a dataset, as long as the answer there)
    #[arg(long, value_name = "LEN", visible_alias = "random-output-len")]
    output_len: Option<Span>,
    /// Requests
    #[arg(long, default_value_t = 512)]
    num_prompts: usize,
    /// Conversations (ShareGPT's JSON), or lines of prompt and output, in place of random tokens
    #[arg(long, value_name = "FILE", visible_alias = "dataset-path", conflicts_with_all = ["lengths", "input_len"])]
    dataset: Option<PathBuf>,
    /// Lengths in pairs: 128:32,512:64, or a file with one pair in each line
    #[arg(long, value_name = "PAIRS|FILE", conflicts_with_all = ["input_len", "output_len"])]
    lengths: Option<String>,
    /// Model whose tokenizer counts the dataset's tokens (default: the server's /tokenize)
    #[arg(long, value_name = "MODEL")]
    tokenizer: Option<String>,
    /// Random token ids are below this
    #[arg(long, default_value_t = 10_000, value_name = "IDS")]
    vocab: usize,
    /// Requests that arrive in a second, at random times (a Poisson process); inf sends all at the start
    #[arg(long, default_value_t = f64::INFINITY)]
    request_rate: f64,
    /// Most requests in flight at once; without a rate, the next is sent when one ends
    #[arg(long, visible_alias = "max-concurrency")]
    concurrency: Option<usize>,
    /// A request is good if all of these hold, in ms, such as ttft:500 or tpot:50 or e2el:5000 (repeatable)
    #[arg(long, value_name = "MEASURE:MS")]
    goodput: Vec<Goal>,
    /// Do not send ignore_eos, which some servers refuse: answers may be shorter then
    #[arg(long)]
    no_ignore_eos: bool,
    /// Temperature of the sampling
    #[arg(long, default_value_t = 0.0)]
    temperature: f64,
    /// Requests before, which are not measured
    #[arg(long, default_value_t = 1)]
    warmup: usize,
    /// Seed of the tokens, the lengths, the order and the times
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Seconds without anything from the server before a request has failed
    #[arg(long, default_value_t = 600.0)]
    timeout: f64,
}

/// Values of `--endpoint`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Endpoint {
    /// `/v1/completions`.
    Completions,
    /// `/v1/chat/completions`.
    Chat,
}

/// Runs the command.
pub fn run(global: &Global, flags: &Flags) -> Result<()> {
    flags.check()?;
    let mut connection = flags.server.connect(Duration::from_secs_f64(flags.timeout))?;
    connection.talks = global.talks();
    let model = match &flags.server.model {
        Some(model) => model.clone(),
        None => first_model(&connection)?,
    };
    let mut random = Random(flags.seed);
    let jobs = flags.jobs(&connection, &model, &mut random)?;
    let ignore_eos = !flags.no_ignore_eos;
    let target = Target { connection, model, endpoint: flags.endpoint, ignore_eos, temperature: flags.temperature };
    for job in jobs.iter().cycle().take(flags.warmup) {
        if let Some(error) = target.ask(job).error {
            return Err(error.context("the first request, which warms up"));
        }
    }
    let times = arrivals::times(jobs.len(), flags.request_rate, &mut random);
    let shown = bar(global.talks(), jobs.len() as u64, "requests");
    let run = arrivals::run(&target, &jobs, &times, flags.concurrency, &|| shown.inc(1));
    shown.finish_and_clear();
    if let Some(Outcome { error: Some(error), .. }) = run.outcomes.iter().find(|outcome| outcome.error.is_some()) {
        let failed = run.outcomes.iter().filter(|outcome| outcome.error.is_some()).count();
        let message = format!("{failed} of {} requests failed, the first: {error:#}", jobs.len());
        match failed == jobs.len() {
            true => bail!(message),
            false => say(format_args!("note: {message}")),
        }
    }
    let document = figures::document(&run, flags, &target);
    match global.json {
        true => print_json(&document),
        false => print(&figures::table(&document)),
    }
}

impl Flags {
    fn check(&self) -> Result<()> {
        within(&[
            ("num-prompts", self.num_prompts, 1, MOST),
            ("concurrency", self.concurrency.unwrap_or(1), 1, MOST),
            ("vocab", self.vocab, 1, usize::MAX),
        ])?;
        if self.request_rate.is_nan() || self.request_rate < LEAST_RATE {
            bail!("--request-rate: expected a number from {LEAST_RATE} up, or inf, found {}", self.request_rate);
        }
        if !(self.timeout > 0.0 && self.timeout <= LONGEST_TIMEOUT) {
            bail!("--timeout: expected seconds above 0, at most {LONGEST_TIMEOUT}, found {}", self.timeout);
        }
        if !(0.0..=100.0).contains(&self.temperature) {
            bail!("--temperature: expected a number from 0 up, found {}", self.temperature);
        }
        Ok(())
    }

    fn jobs(&self, connection: &Connection, model: &str, random: &mut Random) -> Result<Vec<Job>> {
        if let Some(path) = &self.dataset {
            let mut counter = load::Counter::new(self.tokenizer.as_deref(), connection, model)?;
            return load::conversations(path, self.num_prompts, self.output_len, &mut counter, random);
        }
        let lengths =
            load::lengths(self.lengths.as_deref(), self.input_len, self.output_len, self.num_prompts, random)?;
        Ok(load::random(&lengths, self.endpoint == Endpoint::Chat, self.vocab, random))
    }
}
