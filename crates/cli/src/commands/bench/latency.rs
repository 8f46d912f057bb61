//! `planish bench latency`: how fast one batch of equal requests is.
use super::drive::{Run, drive, job};
use super::statistics::Distribution;
use super::{MOST, MOST_AT_ONCE, Purpose, Random, Target, counted, extend, lengths, within};
use crate::Global;
use crate::commands::structure::schema;
use crate::commands::{bar, print, print_json};
use anyhow::Result;
use clap::Args;
use planish::{Generation, Pipeline};
use planish_engine::GrammarSpec;
use serde_json::{Value, json};
use std::time::Instant;

/// Flags of the command.
#[derive(Args)]
pub struct Flags {
    #[command(flatten)]
    target: Target,
    /// Tokens of a prompt
    #[arg(long, default_value_t = 128)]
    input_len: usize,
    /// Tokens of an answer
    #[arg(long, default_value_t = 128)]
    output_len: usize,
    /// Requests at once
    #[arg(long, default_value_t = 1)]
    batch: usize,
    /// Measured rounds
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Rounds before, which are not measured
    #[arg(long, default_value_t = 1)]
    warmup: usize,
    /// Also time a second prompt that shares this many first tokens with the one before it
    #[arg(long, value_name = "TOKENS")]
    shared_prefix: Option<usize>,
    /// Also compare the speed under this JSON schema (a file, or the schema itself) with that of free text
    #[arg(long, value_name = "FILE|JSON")]
    json_schema: Option<String>,
}

/// Runs the command.
pub fn run(global: &Global, flags: &Flags) -> Result<()> {
    flags.check()?;
    let schema = flags.json_schema.as_deref().map(schema).transpose()?;
    let model = flags.target.model(global.talks())?;
    let longest = flags.shared_prefix.unwrap_or(0).saturating_add(flags.input_len).saturating_add(flags.output_len);
    let pipeline = flags.target.load(global, &model, longest, Purpose::Together(flags.batch))?;
    let mut random = Random(0);
    let shown = bar(global.talks(), (flags.warmup + flags.rounds) as u64, "measuring");
    let mut rounds = Vec::new();
    let mut before = pipeline.handle().metrics();
    for round in 0..flags.warmup + flags.rounds {
        if round == flags.warmup {
            before = pipeline.handle().metrics();
        }
        let run = flags.round(&pipeline, &mut random)?;
        if round >= flags.warmup {
            rounds.push(run);
        }
        shown.inc(1);
    }
    shown.finish_and_clear();
    let mut document = flags.document(&rounds);
    extend(&mut document, counted(&before, &pipeline.handle().metrics()));
    if let Some(prefix) = flags.shared_prefix {
        document["shared_prefix"] = flags.prefix(&pipeline, prefix, &mut random)?;
    }
    if let Some(schema) = schema {
        document["structured"] = flags.structured(&pipeline, schema, &mut random)?;
    }
    extend(&mut document, flags.target.describe(&pipeline));
    match global.json {
        true => print_json(&document),
        false => print(&table(&document)),
    }
}

/// Speeds of one round.
struct Speeds {
    /// Seconds until the last of the first tokens, and from there to the last token.
    prefill: f64,
    decode: f64,
}

impl Flags {
    fn check(&self) -> Result<()> {
        within(&[
            ("input-len", self.input_len, 1, lengths::MOST),
            ("output-len", self.output_len, 2, lengths::MOST),
            ("batch", self.batch, 1, MOST_AT_ONCE),
            ("rounds", self.rounds, 1, MOST),
            ("warmup", self.warmup, 0, MOST),
            ("shared-prefix", self.shared_prefix.unwrap_or(1), 1, lengths::MOST),
        ])
    }

    /// Prompts that no round had before, so that no prefix is known.
    fn round(&self, pipeline: &Pipeline, random: &mut Random) -> Result<Run> {
        let vocab = pipeline.handle().info().plan.vocab;
        let jobs: Vec<_> = (0..self.batch).map(|_| job(random.ids(self.input_len, vocab), self.output_len)).collect();
        drive(pipeline.handle(), &jobs, self.batch, |_| {})
    }

    fn document(&self, rounds: &[Run]) -> Value {
        let speeds: Vec<Speeds> = rounds.iter().map(Speeds::of).collect();
        let prefill: Distribution = speeds.iter().map(|s| s.prefill).collect();
        let decode: Distribution = speeds.iter().map(|s| s.decode).collect();
        let first: Distribution = rounds.iter().flat_map(|r| r.requests.iter().map(|t| t.first())).collect();
        let gaps: Distribution = rounds.iter().flat_map(|r| r.requests.iter().flat_map(|t| t.gaps())).collect();
        let read = |seconds: f64| (self.batch * self.input_len) as f64 / seconds;
        let made = |seconds: f64| (self.batch * (self.output_len - 1)) as f64 / seconds;
        json!({
            "prefill_tokens_per_s": read(prefill.median()),
            "decode_tokens_per_s": made(decode.median()),
            "ttft_ms": prefill.median() * 1e3,
            "tpot_ms": gaps.json(),
            "ttft_percentiles_ms": first.json(),
            "best": {
                "prefill_tokens_per_s": read(prefill.least()),
                "decode_tokens_per_s": made(decode.least()),
                "ttft_ms": prefill.least() * 1e3,
            },
            "input_len": self.input_len,
            "output_len": self.output_len,
            "batch": self.batch,
            "rounds": self.rounds,
            "warmup": self.warmup,
        })
    }

    /// Time to the first token of a new prompt, and of one that begins with the same `prefix` tokens.
    fn prefix(&self, pipeline: &Pipeline, prefix: usize, random: &mut Random) -> Result<Value> {
        let vocab = pipeline.handle().info().plan.vocab;
        let (mut cold, mut warm, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..self.rounds {
            let shared = random.ids(prefix, vocab);
            let mut first = || -> Result<f64> {
                let prompt = [shared.clone(), random.ids(self.input_len, vocab)].concat();
                let run = drive(pipeline.handle(), &[job(prompt, 2)], 1, |_| {})?;
                Ok(run.requests[0].first())
            };
            let (a, b) = (first()?, first()?);
            cold.push(a);
            warm.push(b);
            ratios.push(b / a);
        }
        let median = |values: Vec<f64>| values.into_iter().collect::<Distribution>().median();
        Ok(json!({
            "tokens": prefix,
            "ttft_ms_cold": median(cold),
            "ttft_ms_warm": median(warm),
            "ratio": median(ratios),
        }))
    }

    /// Speed of the batch under a schema and, in turn, of free text of as many tokens. Answers that satisfy the schema
    /// early are shorter than `--output-len`.
    fn structured(&self, pipeline: &Pipeline, schema: GrammarSpec, random: &mut Random) -> Result<Value> {
        let vocab = pipeline.handle().info().plan.vocab;
        let under = Generation { max_new_tokens: self.output_len, grammar: Some(schema), ..Generation::default() };
        let (mut bound, mut free, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..self.warmup + self.rounds {
            let prompts: Vec<_> = (0..self.batch).map(|_| random.ids(self.input_len, vocab)).collect();
            let jobs = prompts.into_iter().map(|p| pipeline.request(p, &under)).collect::<Result<Vec<_>>>()?;
            let first = drive(pipeline.handle(), &jobs, self.batch, |_| {})?;
            let length = |i: usize| first.requests[i].tokens.len().max(2);
            let jobs: Vec<_> = (0..self.batch).map(|i| job(random.ids(self.input_len, vocab), length(i))).collect();
            let second = drive(pipeline.handle(), &jobs, self.batch, |_| {})?;
            if round >= self.warmup {
                let [a, b] = [&first, &second].map(rate);
                bound.push(a);
                free.push(b);
                ratios.push(a / b);
            }
        }
        let median = |values: Vec<f64>| values.into_iter().collect::<Distribution>().median();
        Ok(json!({
            "decode_tokens_per_s": median(bound),
            "free_tokens_per_s": median(free),
            "ratio": median(ratios),
        }))
    }
}

/// Tokens per second after the first token of each request.
fn rate(run: &Run) -> f64 {
    let after_first: usize = run.requests.iter().map(|r| r.tokens.len().saturating_sub(1)).sum();
    after_first as f64 / Speeds::of(run).decode
}

impl Speeds {
    fn of(run: &Run) -> Speeds {
        let tokens = || run.requests.iter().map(|r| &r.tokens);
        let first = tokens().filter_map(|t| t.first()).max().copied().unwrap_or(run.end);
        let last = tokens().filter_map(|t| t.last()).max().copied().unwrap_or(run.end);
        let seconds = |from: Instant, to: Instant| to.duration_since(from).as_secs_f64();
        Speeds { prefill: seconds(run.start, first), decode: seconds(first, last) }
    }
}

fn table(d: &Value) -> String {
    let number = |v: &Value| v.as_f64().unwrap_or(0.0);
    let (best, each, first) = (&d["best"], &d["tpot_ms"], &d["ttft_percentiles_ms"]);
    let mut text = format!(
        "{}\n{:<10}{:>10}{:>10}{:>10}{:>10}\n",
        d["device"].as_str().unwrap_or_default(),
        "",
        "median",
        "best",
        "p90",
        "p99"
    );
    let rows = [
        ("prefill", number(&d["prefill_tokens_per_s"]), number(&best["prefill_tokens_per_s"])),
        ("decode", number(&d["decode_tokens_per_s"]), number(&best["decode_tokens_per_s"])),
    ];
    for (name, median, best) in rows {
        text += &format!("{name:<10}{median:>10.1}{best:>10.1}{:>20}   tokens/s\n", "");
    }
    for (name, values, best) in [("TTFT", first, number(&best["ttft_ms"])), ("TPOT", each, f64::NAN)] {
        let best = if best.is_nan() { String::new() } else { format!("{best:.2}") };
        let [p50, p90, p99] = ["p50", "p90", "p99"].map(|p| number(&values[p]));
        text += &format!("{name:<10}{p50:>10.2}{best:>10}{p90:>10.2}{p99:>10.2}   ms\n");
    }
    text + &comparisons(d)
}

/// What was measured in pairs, if anything.
fn comparisons(d: &Value) -> String {
    let number = |v: &Value| v.as_f64().unwrap_or(0.0);
    let mut text = String::new();
    if let Some(shared) = d.get("shared_prefix") {
        text += &format!(
            "shared prefix of {} tokens: TTFT {:.1} ms the first time, {:.1} ms the second ({:.3})\n",
            shared["tokens"],
            number(&shared["ttft_ms_cold"]),
            number(&shared["ttft_ms_warm"]),
            number(&shared["ratio"])
        );
    }
    if let Some(bound) = d.get("structured") {
        text += &format!(
            "under the schema {:.1} tokens/s, free text {:.1} ({:.3})\n",
            number(&bound["decode_tokens_per_s"]),
            number(&bound["free_tokens_per_s"]),
            number(&bound["ratio"])
        );
    }
    text
}
