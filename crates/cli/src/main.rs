//! The `planish` command: what a user types, handed to the command of that name.
#![forbid(unsafe_code)]

mod commands;

use anyhow::Result;
use clap::{Args, CommandFactory, Parser, Subcommand};
use planish::line::one_line;
use planish::machine::{MOST_THREADS, Machine};
use planish::notice::say;
use planish_devices::{DEVICE_HELP, Place};
use std::process::ExitCode;

/// Quantize a language model to 8 bits (weights and activations), prove that it is still the same model, and run it.
#[derive(Parser)]
#[command(name = "planish", version, propagate_version = true)]
struct Cli {
    #[command(flatten)]
    global: Global,
    #[command(subcommand)]
    command: Command,
}

/// Flags of every command.
#[derive(Args, Clone)]
struct Global {
    /// Where to run: auto, cpu, cuda, cuda:N or null
    #[arg(long, global = true, default_value = "auto", value_parser = parse_device)]
    device: String,
    /// Threads of the CPU (default: all cores)
    #[arg(long, global = true, value_parser = parse_threads)]
    threads: Option<usize>,
    /// Print one JSON document on stdout and nothing else
    #[arg(long, global = true)]
    json: bool,
    /// How much to say on stderr: off, error, warn, info
    #[arg(long, global = true, default_value = "info", value_parser = ["off", "error", "warn", "info", "debug"])]
    log_level: String,
}

impl Global {
    /// The machine of a long run.
    fn machine(&self) -> Machine {
        Machine { device: self.device.clone(), threads: self.threads, talks: self.talks(), ..Machine::default() }
    }

    /// Whether progress and notes are shown.
    fn talks(&self) -> bool {
        matches!(self.log_level.as_str(), "info" | "debug")
    }
}

#[derive(Subcommand)]
enum Command {
    /// Make an 8-bit checkpoint: SmoothQuant, then GPTQ or round-to-nearest, with self-checks
    Quantize(commands::quantize::Flags),
    /// Print and draw each layer's share of the damage that quantizing does
    Sensitivity(commands::sensitivity::Flags),
    /// LMDeploy's spelling: `planish lite smooth_quant MODEL --work-dir DIR`
    #[command(subcommand)]
    Lite(Lite),
    /// An 8-bit checkpoint in another layout, without recalibrating
    Convert(commands::convert::Flags),
    /// Perplexity of both models, KL divergence between them, answers side by side
    Compare(commands::compare::Flags),
    /// Tasks of lm-evaluation-harness: same prompts, same metrics, same table
    Eval(Box<commands::eval::Flags>),
    /// Answer prompts, all in one batch
    Generate(commands::generate::Flags),
    /// Talk to a model in the terminal
    Chat(commands::chat::Flags),
    /// Serve models over HTTP, OpenAI-compatible, with Swagger UI at / (LMDeploy's `serve api_server MODEL` is the same)
    Serve(Box<commands::serve::Flags>),
    /// Talk to any OpenAI-compatible server in the terminal (LMDeploy's `serve api_client URL` is the same)
    Client(commands::client::Flags),
    /// Measure speed
    #[command(subcommand)]
    Bench(commands::bench::Bench),
    /// Architecture, quantization, tensors and sizes; --verify checks the digests
    Inspect(commands::inspect::Flags),
    /// Devices of this machine and what each can run
    CheckEnv,
}

#[derive(Subcommand)]
enum Lite {
    /// The same as `planish quantize`
    #[command(name = "smooth_quant")]
    SmoothQuant(commands::quantize::LiteFlags),
}

fn main() -> ExitCode {
    let args = commands::lmdeploy::translate(std::env::args_os().collect());
    match commands::serve::expand(args, Cli::command()).and_then(|args| run(&Cli::parse_from(args))) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            say(format_args!("error: {}", one_line(&error)));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> Result<()> {
    let global = &cli.global;
    match &cli.command {
        Command::Quantize(flags) => commands::quantize::run(global, flags),
        Command::Sensitivity(flags) => commands::sensitivity::run(global, flags),
        Command::Lite(Lite::SmoothQuant(flags)) => commands::quantize::run_lite(global, flags),
        Command::Convert(flags) => commands::convert::run(global, flags),
        Command::Compare(flags) => commands::compare::run(global, flags),
        Command::Eval(flags) => commands::eval::run(global, flags),
        Command::Generate(flags) => commands::generate::run(global, flags),
        Command::Chat(flags) => commands::chat::run(global, flags),
        Command::Serve(flags) => commands::serve::run(global, flags),
        Command::Client(flags) => commands::client::run(global, flags),
        Command::Bench(bench) => commands::bench::run(global, bench),
        Command::Inspect(flags) => commands::inspect::run(global, flags),
        Command::CheckEnv => commands::check_env::run(global),
    }
}

/// The name of a device, or of several; whether they are there is seen when they are opened.
fn parse_device(name: &str) -> Result<String, String> {
    let known: Result<Place, _> = name.parse();
    known.map(|_| name.to_owned()).map_err(|_| format!("expected {DEVICE_HELP}"))
}

/// A number of threads that a process can start.
fn parse_threads(text: &str) -> Result<usize, String> {
    let threads = text.parse().ok().filter(|n| (1..=MOST_THREADS).contains(n));
    threads.ok_or_else(|| format!("expected a number from 1 to {MOST_THREADS}"))
}

/// A reader that has seen enough (`planish … | head`) is no failure.
fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .any(|c| c.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe))
}
