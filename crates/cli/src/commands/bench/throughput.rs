//! `planish bench throughput`: many requests at once, as a server has them, and how long each waited.
use super::drive::{Run, drive, job};
use super::lengths::{self, Span};
use super::{MOST, Purpose, Random, Target, counted, dataset, extend, page, within};
use crate::Global;
use crate::commands::{bar, check_place, print, print_json};
use anyhow::{Context, Result, bail};
use clap::Args;
use planish::Model;
use planish_engine::Request;
use serde_json::{Value, json};
use std::path::PathBuf;

/// Flags of the command.
#[derive(Args)]
pub struct Flags {
    #[command(flatten)]
    target: Target,
    /// Tokens of a prompt: a number, or a range such as 64..1024
    #[arg(long, default_value = "1000", value_name = "LEN")]
    input_len: Span,
    /// Tokens of an answer: a number, or a range such as 64..1024
    #[arg(long, default_value = "1000", value_name = "LEN")]
    output_len: Span,
    /// Requests
    #[arg(long, default_value_t = 512)]
    num_prompts: usize,
    /// Conversations (ShareGPT's JSON, or lines of prompt and output) in place of random tokens
    #[arg(long, value_name = "FILE", conflicts_with_all = ["lengths", "input_len", "output_len"])]
    dataset: Option<PathBuf>,
    /// Lengths in pairs: 128:32,512:64, or a file with one pair in each line
    #[arg(long, value_name = "PAIRS|FILE", conflicts_with_all = ["input_len", "output_len"])]
    lengths: Option<String>,
    /// Requests in flight at once; the next is sent when one ends (default: all are sent at the start)
    #[arg(long)]
    concurrency: Option<usize>,
    /// Requests before, which are not measured
    #[arg(long, default_value_t = 1)]
    warmup: usize,
    /// Seed of the tokens, the lengths and the order
    #[arg(long, default_value_t = 42)]
    seed: u64,
    /// Write a page with pictures
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
}

/// Runs the command.
pub fn run(global: &Global, flags: &Flags) -> Result<()> {
    let concurrency = flags.concurrency.unwrap_or(1);
    within(&[
        ("num-prompts", flags.num_prompts, 1, MOST),
        ("concurrency", concurrency, 1, MOST),
        ("warmup", flags.warmup, 0, MOST),
    ])?;
    check_place("--html", flags.html.as_ref())?;
    let model = flags.target.model(global.talks())?;
    let mut random = Random(flags.seed);
    let jobs = flags.jobs(&model, &mut random)?;
    let longest = jobs.iter().map(|j| j.prompt.len() + j.max_new_tokens).max().unwrap_or(0);
    let purpose = if flags.concurrency.is_some() { Purpose::Online } else { Purpose::Offline };
    let pipeline = flags.target.load(global, &model, longest, purpose)?;
    let limit = pipeline.handle().info().config.max_model_len;
    if longest > limit {
        bail!("--max-model-len: expected at least {longest}, the longest prompt with its answer; found {limit}");
    }
    let together = flags.concurrency.unwrap_or(jobs.len());
    let vocab = pipeline.handle().info().plan.vocab;
    let warm = |_| job(random.ids(jobs[0].prompt.len(), vocab), jobs[0].max_new_tokens.min(8));
    let warm: Vec<Request> = (0..flags.warmup).map(warm).collect();
    drive(pipeline.handle(), &warm, flags.warmup, |_| {})?;
    let shown = bar(global.talks(), jobs.len() as u64, "requests");
    let before = pipeline.handle().metrics();
    let run = drive(pipeline.handle(), &jobs, together, |over| shown.set_position(over as u64))?;
    shown.finish_and_clear();
    let mut document = measured(&run);
    document["concurrency"] = together.into();
    document["seed"] = flags.seed.into();
    extend(&mut document, counted(&before, &pipeline.handle().metrics()));
    extend(&mut document, flags.target.describe(&pipeline));
    if let Some(path) = &flags.html {
        std::fs::write(path, page::render(&run, &document)).with_context(|| format!("--html {}", path.display()))?;
    }
    match global.json {
        true => print_json(&document),
        false => print(&table(&document)),
    }
}

impl Flags {
    /// The load: from conversations, or random tokens of the wanted lengths.
    fn jobs(&self, model: &Model, random: &mut Random) -> Result<Vec<Request>> {
        if let Some(path) = &self.dataset {
            let exchanges = dataset::read(path)?;
            let longest = self.target.engine.max_model_len.unwrap_or(model.plan.max_positions);
            let tokenizer = &model.words().context("--dataset")?.tokenizer;
            return dataset::jobs(exchanges, tokenizer, self.num_prompts, longest, random);
        }
        let lengths = match &self.lengths {
            Some(given) => lengths::repeat(&lengths::pairs(given)?, self.num_prompts, random),
            None => {
                let draw = |_| (self.input_len.draw(random), self.output_len.draw(random));
                (0..self.num_prompts).map(draw).collect()
            }
        };
        Ok(lengths.into_iter().map(|(input, output)| job(random.ids(input, model.plan.vocab), output)).collect())
    }
}

/// The figures of a run.
fn measured(run: &Run) -> Value {
    let seconds = run.seconds();
    let (made, read) = (run.generated(), run.prompts());
    json!({
        "output_tokens_per_s": made as f64 / seconds,
        "total_tokens_per_s": (made + read) as f64 / seconds,
        "requests_per_s": run.requests.len() as f64 / seconds,
        "seconds": seconds,
        "num_prompts": run.requests.len(),
        "prompt_tokens": read,
        "completion_tokens": made,
        "ttft_ms": run.of(|r| Some(r.first())).json(),
        "tpot_ms": run.of(|r| r.each()).json(),
        "itl_ms": run.requests.iter().flat_map(|r| r.gaps()).collect::<super::statistics::Distribution>().json(),
        "e2e_ms": run.of(|r| Some(r.whole())).json(),
    })
}

fn table(d: &Value) -> String {
    let number = |v: &Value| v.as_f64().unwrap_or(0.0);
    let mut text = format!(
        "{}\n{} requests, {} tokens in, {} out, {:.1} s\noutput    {:>10.1} tokens/s\ntotal     {:>10.1} tokens/s\n\
         requests  {:>10.3} /s\n{:<10}{:>10}{:>10}{:>10}{:>10}\n",
        d["device"].as_str().unwrap_or_default(),
        d["num_prompts"],
        d["prompt_tokens"],
        d["completion_tokens"],
        number(&d["seconds"]),
        number(&d["output_tokens_per_s"]),
        number(&d["total_tokens_per_s"]),
        number(&d["requests_per_s"]),
        "ms",
        "mean",
        "p50",
        "p90",
        "p99",
    );
    for (name, key) in [("TTFT", "ttft_ms"), ("TPOT", "tpot_ms"), ("ITL", "itl_ms"), ("whole", "e2e_ms")] {
        let [mean, p50, p90, p99] = ["mean", "p50", "p90", "p99"].map(|p| number(&d[key][p]));
        text += &format!("{name:<10}{mean:>10.2}{p50:>10.2}{p90:>10.2}{p99:>10.2}\n");
    }
    let share = number(&d["forward_share"]) * 100.0;
    text + &format!(
        "{share:.1} % of the steps' time in the model; {} preemptions, {} prompt tokens from the prefix cache\n",
        d["preemptions"], d["prefix_hit_tokens"]
    )
}
