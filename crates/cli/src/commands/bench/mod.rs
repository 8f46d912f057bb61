//! `planish bench`: how fast a model runs, through the same engine that serves.
mod dataset;
mod drive;
mod kernels;
mod latency;
mod lengths;
mod page;
mod serve;
mod statistics;
mod throughput;

use super::flags::EngineFlags;
use crate::Global;
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use planish::{Model, Pipeline};
use planish_engine::Snapshot;
use planish_tensor::DType;
use serde_json::{Value, json};

/// What to measure.
#[derive(Subcommand)]
pub enum Bench {
    /// Prefill and decode speed of one batch of equal requests
    Latency(latency::Flags),
    /// Tokens per second of many requests at once, and how long each waited
    Throughput(throughput::Flags),
    /// The same over HTTP, against any OpenAI-compatible server, with random arrivals or a number of clients
    Serve(serve::Flags),
    /// The operations of one block, each alone: time, rate, error, and what it replaces
    Kernels(kernels::Flags),
}

/// Runs the command.
pub fn run(global: &Global, bench: &Bench) -> Result<()> {
    match bench {
        Bench::Latency(flags) => latency::run(global, flags),
        Bench::Throughput(flags) => throughput::run(global, flags),
        Bench::Serve(flags) => serve::run(global, flags),
        Bench::Kernels(flags) => kernels::run(global, flags),
    }
}

/// What is measured.
#[derive(Args)]
pub struct Target {
    /// Directory, .gguf file or hub id; with --dummy-weights a config.json, or its directory
    model: String,
    /// Random weights in memory in place of the model's files, of which only config.json is read
    #[arg(long)]
    dummy_weights: bool,
    /// What the dummy weights of the linears are: int8, fp8, or none for bf16
    #[arg(long, default_value = "int8", value_parser = ["int8", "fp8", "none"], requires = "dummy_weights")]
    quant_dtype: String,
    #[command(flatten)]
    engine: EngineFlags,
}

impl Target {
    /// The model, or its dummy.
    fn model(&self, talks: bool) -> Result<Model> {
        if !self.dummy_weights {
            return Model::open(&self.model, talks);
        }
        let quant = match self.quant_dtype.as_str() {
            "int8" => Some(DType::I8),
            "fp8" => Some(DType::F8E4M3),
            _ => None,
        };
        Model::dummy(&self.model, quant)
    }

    /// The model loaded for sequences up to `longest`, and for this purpose unless told otherwise.
    fn load(&self, global: &Global, model: &Model, longest: usize, purpose: Purpose) -> Result<Pipeline> {
        let batch = if let Purpose::Together(sequences) = purpose { Some(sequences) } else { None };
        let mut options = self.engine.options(global);
        options.engine.offline = purpose == Purpose::Offline;
        options.engine.max_model_len = Some(self.engine.max_model_len.unwrap_or(longest));
        options.engine.max_batch = self.engine.max_batch.or(batch);
        super::open(global, model, &options)
    }

    /// What was measured, for the report.
    fn describe(&self, pipeline: &Pipeline) -> Value {
        let info = pipeline.handle().info();
        json!({
            "model": self.model,
            "dummy_weights": self.dummy_weights,
            "device": info.device,
            "weight_bytes_per_step": info.step_bytes,
            "kv_pages": info.config.pages,
            "page_size": info.config.page_size,
            "kv_dtype": info.config.kv_dtype.to_string(),
            "max_batch": info.config.max_batch,
            "step_tokens": info.config.step_tokens,
        })
    }
}

/// What an engine is loaded for.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Purpose {
    /// This many sequences, one beside the other.
    Together(usize),
    /// Requests that are all sent at the start.
    Offline,
    /// Requests that come as others end.
    Online,
}

/// Most requests, rounds or sequences of a run: more is a slip of the keyboard.
const MOST: usize = 1 << 24;
/// Most sequences that an engine runs at once.
const MOST_AT_ONCE: usize = 1 << 16;

/// Refuses numbers outside their range: name of the flag, what was found, the least and the most.
fn within(flags: &[(&str, usize, usize, usize)]) -> Result<()> {
    match flags.iter().find(|(_, found, least, most)| !(least..=most).contains(&found)) {
        Some((name, found, least, most)) => bail!("--{name}: expected {least} to {most}, found {found}"),
        None => Ok(()),
    }
}

/// What the engine counted between two moments.
fn counted(before: &Snapshot, after: &Snapshot) -> Value {
    let (forward, other) = (after.forward_seconds - before.forward_seconds, after.other_seconds - before.other_seconds);
    json!({
        "preemptions": after.preemptions - before.preemptions,
        "prefix_hit_tokens": after.prefix_hits - before.prefix_hits,
        "drafts_proposed": after.drafts_proposed - before.drafts_proposed,
        "drafts_accepted": after.drafts_accepted - before.drafts_accepted,
        "steps": after.steps - before.steps,
        // Of the time in steps, the part that the model's forward pass took.
        "forward_share": forward / (forward + other),
    })
}

/// Adds the fields of one object to another.
fn extend(document: &mut Value, more: Value) {
    if let (Some(fields), Value::Object(more)) = (document.as_object_mut(), more) {
        fields.extend(more);
    }
}

/// A sequence of numbers that looks random and is the same in every run (SplitMix64).
pub struct Random(pub u64);

impl Random {
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One below `n`, which is at least 1.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// Another order, every one as likely (Fisher-Yates).
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for i in (1..items.len()).rev() {
            items.swap(i, self.below(i + 1));
        }
    }

    /// Token ids below `vocab`.
    pub fn ids(&mut self, count: usize, vocab: usize) -> Vec<u32> {
        (0..count).map(|_| self.below(vocab) as u32).collect()
    }
}
