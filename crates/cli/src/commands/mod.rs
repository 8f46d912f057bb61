//! One file for each command: its flags, and what it does.
pub mod bench;
pub mod chat;
pub mod check_env;
pub mod client;
pub mod compare;
pub mod convert;
pub mod eval;
mod flags;
pub mod generate;
pub mod inspect;
pub mod lmdeploy;
pub mod quantize;
pub mod sensitivity;
pub mod serve;
mod structure;
mod talk;
mod tasks;
mod usage;

pub use planish::machine::{bar, check_device};

use crate::Global;
use anyhow::{Context, Error, Result, anyhow, bail};
use planish::notice::say;
use planish::{Model, Pipeline, PipelineOptions};
use serde::Serialize;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};

/// Prints to stdout; a closed pipe is an error that the caller's caller knows.
pub fn print(text: &str) -> Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("stdout")
}

/// Prints a JSON document as it is made: it may be much larger than what it is made of.
pub fn print_json(document: &impl Serialize) -> Result<()> {
    let mut out = BufWriter::new(std::io::stdout().lock());
    let written = serde_json::to_writer_pretty(&mut out, document).map_err(std::io::Error::from);
    written.and_then(|()| out.write_all(b"\n")).and_then(|()| out.flush()).context("stdout")
}

/// Refuses a file that cannot be written, before the work whose result it is to hold.
pub fn check_place(flag: &str, file: Option<&PathBuf>) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.is_dir() {
        bail!(
            "{flag} {}: expected a file in a folder that is there, found no folder {}",
            file.display(),
            folder.display()
        );
    }
    if file.is_dir() {
        bail!("{flag} {}: expected a file, found a folder", file.display());
    }
    Ok(())
}

/// Loads a model and says what came out smaller than one might expect.
pub fn open(global: &Global, model: &Model, options: &PipelineOptions) -> Result<Pipeline> {
    let pipeline = Pipeline::open(model, options).map_err(named_by_flag)?;
    if global.talks() {
        pipeline.handle().info().notes.iter().for_each(|note| say(format_args!("note: {note}")));
    }
    Ok(pipeline)
}

/// The engine knows its settings by their fields, a user by their flags.
fn named_by_flag(error: Error) -> Error {
    for cause in error.chain() {
        if let Some(planish_engine::Error::Options(text)) = cause.downcast_ref()
            && let Some((field, rest)) = text.split_once(':')
            && field.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        {
            return anyhow!("--{}:{rest}", field.replace('_', "-"));
        }
    }
    error
}

/// Bytes for people.
pub fn human(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} MB", bytes as f64 / 1e6),
        _ => format!("{:.2} GB", bytes as f64 / 1e9),
    }
}
