//! Where a long run works, and whom it tells: what every way into it, a command or a program, decides first.
use anyhow::{Result, bail};
use planish_devices::{Opening, Work, cores, with_device};
use planish_tensor::Backend;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Threads that a process can be asked for.
pub const MOST_THREADS: usize = 1024;

/// The machine of a run.
#[derive(Clone, Debug, Default)]
pub struct Machine {
    /// `auto`, `cpu`, `cuda`, `cuda:N`.
    pub device: String,
    /// Threads of the CPU; all cores unless given.
    pub threads: Option<usize>,
    /// Whether notes and progress are shown on stderr.
    pub talks: bool,
    /// Set by another thread, it ends the run at the next occasion.
    pub stop: Arc<AtomicBool>,
}

impl Machine {
    /// How its device is opened.
    pub fn opening(&self) -> Opening {
        Opening { threads: self.threads, ..Opening::default() }
    }

    /// Threads of the CPU, decided.
    pub fn threads(&self) -> usize {
        self.threads.unwrap_or_else(cores)
    }

    /// Fails once the run is to end.
    pub fn go_on(&self) -> planish_quant::Result<()> {
        match self.stop.load(Ordering::Relaxed) {
            true => Err(planish_quant::Error::Interrupted),
            false => Ok(()),
        }
    }
}

struct Nothing;

impl Work for Nothing {
    type Output = ();
    fn run<B: Backend>(self, _: B) {}
}

/// Refuses a device that is not there before anything is written, and the null device, which answers every
/// operation without computing: good for measuring overhead, never for a result.
pub fn check_device(device: &str) -> Result<()> {
    if device == "null" {
        bail!("--device: expected a device that computes (auto, cpu or cuda), found null");
    }
    Ok(with_device(device, Opening { threads: Some(1), ..Opening::default() }, Nothing)?)
}

/// A progress bar on stderr, hidden where nobody looks.
pub fn bar(shown: bool, length: u64, what: &str) -> indicatif::ProgressBar {
    if !shown {
        return indicatif::ProgressBar::hidden();
    }
    let style = indicatif::ProgressStyle::with_template("{msg:12} {wide_bar} {pos}/{len} {elapsed} (eta {eta})")
        .unwrap_or_else(|_| indicatif::ProgressStyle::default_bar());
    indicatif::ProgressBar::new(length).with_style(style).with_message(what.to_owned())
}
