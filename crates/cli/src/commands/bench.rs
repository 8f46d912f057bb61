//! `planish bench latency`: how fast one batch is, through the same engine that serves.
use super::generate::EngineFlags;
use super::{print, print_json};
use crate::Global;
use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use planish::{Model, Pipeline};
use planish_engine::{Event, Request, Stream};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// What to measure.
#[derive(Subcommand)]
pub enum Bench {
    /// Prefill and decode speed of one batch of equal requests
    Latency(Latency),
}

/// Flags of `bench latency`.
#[derive(Args)]
pub struct Latency {
    /// Directory, .gguf file or hub id
    model: String,
    /// Tokens of a prompt
    #[arg(long, default_value_t = 128)]
    input_len: usize,
    /// Tokens of an answer
    #[arg(long, default_value_t = 128)]
    output_len: usize,
    /// Requests at once
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Measured rounds, after one that warms up; the best is reported
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    #[command(flatten)]
    engine: EngineFlags,
}

/// Runs the command.
pub fn run(global: &Global, bench: &Bench) -> Result<()> {
    let Bench::Latency(flags) = bench;
    if flags.input_len == 0 || flags.output_len < 2 || flags.batch == 0 {
        bail!("--input-len, --batch: expected at least 1, and --output-len at least 2");
    }
    let model = Model::open(&flags.model)?;
    let mut options = flags.engine.options(global);
    options.engine.max_model_len =
        Some(flags.engine.max_model_len.unwrap_or(flags.input_len.saturating_add(flags.output_len)));
    options.engine.max_batch = Some(flags.batch);
    let pipeline = Pipeline::open(&model, &options)?;
    let mut rounds = (0..=flags.rounds).map(|_| round(&pipeline, flags)).collect::<Result<Vec<_>>>()?;
    rounds.remove(0);
    let best = |f: fn(&Round) -> Duration| rounds.iter().map(f).min().unwrap_or_default().as_secs_f64();
    let (prefill, decode) = (best(|r| r.prefill), best(|r| r.decode));
    let mut gaps: Vec<f64> = rounds.iter().flat_map(|r| r.gaps.iter().map(|g| g.as_secs_f64() * 1e3)).collect();
    gaps.sort_by(f64::total_cmp);
    let at = |q: f64| gaps.get(((gaps.len().max(1) - 1) as f64 * q) as usize).copied().unwrap_or(0.0);
    let document = json!({
        "prefill_tokens_per_s": (flags.batch * flags.input_len) as f64 / prefill,
        "decode_tokens_per_s": (flags.batch * (flags.output_len - 1)) as f64 / decode,
        "ttft_ms": prefill * 1e3,
        "tpot_ms": {"p50": at(0.5), "p99": at(0.99)},
        "weight_bytes_per_step": pipeline.handle().info().step_bytes,
        "device": pipeline.handle().info().device,
        "input_len": flags.input_len, "output_len": flags.output_len, "batch": flags.batch,
    });
    match global.json {
        true => print_json(&document),
        false => print(&table(&document)),
    }
}

struct Round {
    prefill: Duration,
    decode: Duration,
    gaps: Vec<Duration>,
}

fn round(pipeline: &Pipeline, flags: &Latency) -> Result<Round> {
    let vocab = pipeline.handle().info().plan.vocab as u32;
    let start = Instant::now();
    let streams = (0..flags.batch as u32)
        .map(|i| {
            // Plain arithmetic makes prompts that differ and hold only valid ids.
            let id = |t: usize| ((t as u64 * 7919 + i as u64 * 104_729 + 17) % vocab as u64) as u32;
            let prompt = (0..flags.input_len).map(id).collect();
            pipeline.handle().generate(Request { prompt, max_new_tokens: flags.output_len, ..Request::default() })
        })
        .collect::<planish_engine::Result<Vec<_>>>()?;
    // One reader for each stream: a token's time is when it arrives, not when somebody gets round to it.
    let readers: Vec<_> = streams.into_iter().map(|s| std::thread::spawn(move || arrivals(s))).collect();
    let mut times = Vec::new();
    for reader in readers {
        times.push(reader.join().map_err(|_| anyhow::anyhow!("a reader panicked"))??);
    }
    let first = times.iter().filter_map(|t| t.first()).max().copied().unwrap_or(start);
    let last = times.iter().filter_map(|t| t.last()).max().copied().unwrap_or(start);
    let gaps = times[0].windows(2).map(|w| w[1] - w[0]).collect();
    Ok(Round { prefill: first - start, decode: last - first, gaps })
}

/// When each token of a stream arrived.
fn arrivals(stream: Stream) -> Result<Vec<Instant>> {
    let mut times = Vec::new();
    for event in stream {
        match event {
            Event::Token { .. } => times.push(Instant::now()),
            Event::Prompt(_) | Event::Done { .. } => {}
            Event::Failed(e) => return Err(e.into()),
        }
    }
    Ok(times)
}

fn table(d: &Value) -> String {
    let number = |v: &Value| v.as_f64().unwrap_or(0.0);
    format!(
        "{}\nprefill  {:.0} tokens/s\ndecode   {:.1} tokens/s\nTTFT     {:.1} ms\nTPOT     {:.2} ms (p50), {:.2} ms (p99)\n",
        d["device"].as_str().unwrap_or_default(),
        number(&d["prefill_tokens_per_s"]),
        number(&d["decode_tokens_per_s"]),
        number(&d["ttft_ms"]),
        number(&d["tpot_ms"]["p50"]),
        number(&d["tpot_ms"]["p99"]),
    )
}
