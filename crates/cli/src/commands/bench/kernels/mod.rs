//! `planish bench kernels`: the operations of one transformer block, each alone: time, rate, error against the
//! definition, and in the same run the vendor's product or what the operation replaces.
mod data;
mod products;
mod rows;

use super::Random;
use crate::Global;
use crate::commands::{check_device, print, print_json};
use anyhow::{Result, bail};
use clap::Args;
use data::Sizes;
use planish::Model;
use planish_devices::{Opening, Work, with_device};
use planish_tensor::{Backend, Q8};
use serde_json::{Value, json};
use std::time::Instant;

/// Flags of the command.
#[derive(Args)]
pub struct Flags {
    /// A model, or a config.json, whose shapes are measured (default: those of Llama-3-8B); its weights are not read
    model: Option<String>,
    /// Tokens of a step, separated by commas
    #[arg(long, value_delimiter = ',', default_values_t = [1, 16, 256])]
    tokens: Vec<usize>,
    /// The 8-bit type
    #[arg(long, default_value = "int8", value_parser = ["int8", "fp8"])]
    quant_dtype: String,
}

/// Runs the command.
pub fn run(global: &Global, flags: &Flags) -> Result<()> {
    if let Some(wrong) = flags.tokens.iter().find(|t| !(1..=MOST_TOKENS).contains(*t)) {
        bail!("--tokens: expected 1 to {MOST_TOKENS}, found {wrong}");
    }
    check_device(&global.device)?;
    let sizes = match &flags.model {
        Some(name) => Sizes::of(&Model::shape(name, global.talks())?),
        None => Sizes::LLAMA_3_8B,
    };
    let kind = if flags.quant_dtype == "int8" { Q8::Int8 } else { Q8::E4M3 };
    let opening = Opening { threads: global.threads, ..Opening::default() };
    let measured = with_device(&global.device, opening, Measure { sizes, kind, tokens: &flags.tokens })?;
    let (device, rows) = measured?;
    match global.json {
        true => print_json(&json!({ "device": device, "rows": rows.iter().map(Row::json).collect::<Vec<_>>() })),
        false => print(&table(&device, &rows)),
    }
}

/// More tokens than any step has.
const MOST_TOKENS: usize = 65_536;

/// One measurement.
struct Row {
    /// The operation of `planish_tensor::Backend`.
    op: &'static str,
    /// The kernel that ran, by name.
    kernel: String,
    /// Tokens, output columns, and input columns.
    size: [usize; 3],
    /// Type of the weight, or of the codes that are made.
    dtype: String,
    /// Microseconds.
    us: f64,
    /// Multiplications and additions.
    operations: f64,
    /// Bytes that are read or written at least.
    bytes: f64,
    /// What it is measured beside.
    reference: Reference,
    /// Microseconds of the same product of bf16 numbers.
    bf16_us: Option<f64>,
    /// The largest error, in parts of the largest result of the definition.
    rel_err: f64,
}

/// What an operation is measured beside, in the same run.
#[derive(Clone, Debug, PartialEq)]
struct Reference {
    /// What it is; or why there is nothing.
    name: String,
    /// Its microseconds.
    us: Option<f64>,
}

impl Reference {
    fn of(name: &str, us: f64) -> Reference {
        Reference { name: name.into(), us: Some(us) }
    }
}

impl Row {
    fn json(&self) -> Value {
        let [m, n, k] = self.size;
        json!({
            "op": self.op,
            "m": m,
            "n": n,
            "k": k,
            "dtype": self.dtype,
            "kernel": self.kernel,
            "us": self.us,
            "tops": self.operations / self.us / 1e6,
            "gbps": self.bytes / self.us / 1e3,
            "reference": self.reference.name,
            "reference_us": self.reference.us,
            "bf16_us": self.bf16_us,
            "rel_err": self.rel_err,
        })
    }

    fn line(&self) -> String {
        let [m, n, k] = self.size;
        let (tops, rate) = (self.operations / self.us / 1e6, self.bytes / self.us / 1e3);
        let against = self.reference.us.map_or_else(|| "–".into(), |us| format!("{:.2}x", us / self.us));
        format!(
            "{:<22} {m:>6} {n:>7} {k:>7}  {:<8} {:>10.1} {tops:>8.2} {rate:>8.1}  {against:>7}  {:.0e}  {}  ({})\n",
            self.op, self.dtype, self.us, self.rel_err, self.kernel, self.reference.name,
        )
    }
}

struct Measure<'a> {
    sizes: Sizes,
    kind: Q8,
    tokens: &'a [usize],
}

impl Work for Measure<'_> {
    type Output = planish_tensor::Result<(String, Vec<Row>)>;

    fn run<B: Backend>(self, b: B) -> Self::Output {
        b.runs(self.kind)?;
        let mut found = Vec::new();
        products::measure(&b, &self.sizes, self.kind, self.tokens, &mut found)?;
        for &t in self.tokens {
            rows::measure(&b, &self.sizes, self.kind, t, &mut found)?;
        }
        Ok((b.describe(), found))
    }
}

/// Microseconds of one `work`, which is given the number of its turn: the median of five rounds of some milliseconds
/// each, recorded where the device records, so that queueing is not measured.
fn time<B: Backend>(b: &B, work: &mut dyn FnMut(usize) -> planish_tensor::Result<()>) -> planish_tensor::Result<f64> {
    let mut turn = 0;
    let mut next = |work: &mut dyn FnMut(usize) -> planish_tensor::Result<()>| {
        turn += 1;
        work(turn)
    };
    next(work)?;
    b.sync()?;
    let start = Instant::now();
    next(work)?;
    b.sync()?;
    let repeats = (ROUND_US / (start.elapsed().as_secs_f64() * 1e6).max(1.0)).ceil().min(200.0) as usize;
    let mut all = || (0..repeats).try_for_each(|_| next(work));
    let recording = b.record(&mut all).ok();
    let mut rounds = Vec::new();
    for _ in 0..5 {
        b.sync()?;
        let start = Instant::now();
        match &recording {
            Some(recording) => recording.replay()?,
            None => all()?,
        }
        b.sync()?;
        rounds.push(start.elapsed().as_secs_f64() * 1e6 / repeats as f64);
    }
    rounds.sort_by(f64::total_cmp);
    Ok(rounds[2])
}

/// What a round takes about.
const ROUND_US: f64 = 20_000.0;

fn table(device: &str, rows: &[Row]) -> String {
    let mut text = format!("{device}\n\n");
    text += "operation              tokens       n       k  dtype            us    TOP/s     GB/s  against  error  kernel\n";
    rows.iter().for_each(|row| text += &row.line());
    text += "\nagainst: time of what stands in parentheses, by the time of the operation.\n";
    text
}
