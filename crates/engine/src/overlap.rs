//! The overlapped loop: while the device runs a step, the engine's thread tells the callers about the one before and
//! prepares the next on the guess that every sequence goes on. Where one does not, the next step is prepared again.
use crate::device::{Machine, Produced};
use crate::error::{Error, Result};
use crate::plain::attend;
use crate::request::Command;
use crate::runner::{Runner, Step};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// What the device's thread is asked to do.
enum Job {
    Run(Box<Step>, Produced),
    Clear(Vec<u32>),
}

/// What it answers.
struct Report {
    result: Result<()>,
    /// What was run, and what came of it.
    ran: Option<(Box<Step>, Produced)>,
    took: Duration,
}

/// The engine's end of the device's thread. Nothing else may be asked between a run and its report.
struct Remote {
    jobs: SyncSender<Job>,
    reports: Receiver<Report>,
}

/// Runs until told to stop, or until the engine is broken.
pub(crate) fn serve(runner: &mut Runner, machine: &mut dyn Machine, commands: &Receiver<Command>) {
    let (jobs, inbox) = sync_channel(1);
    let (outbox, reports) = sync_channel(1);
    thread::scope(|scope| {
        let work = move || work(machine, &inbox, &outbox);
        match thread::Builder::new().name("planish-device".into()).spawn_scoped(scope, work) {
            Ok(_) => drive(runner, &Remote { jobs, reports }, commands),
            Err(e) => runner.break_down(Error::Device(format!("cannot start a thread: {e}"))),
        }
    });
}

/// The device's thread: does one job after the other, and survives a panic to tell of it.
fn work(machine: &mut dyn Machine, jobs: &Receiver<Job>, reports: &SyncSender<Report>) {
    while let Ok(mut job) = jobs.recv() {
        let started = Instant::now();
        let done = catch_unwind(AssertUnwindSafe(|| match &mut job {
            Job::Run(step, produced) => machine.run(&step.batch, &step.want, produced),
            Job::Clear(pages) => machine.clear(pages),
        }));
        let result = done.unwrap_or_else(|panic| Err(Error::of_panic(&*panic)));
        let ran = match job {
            Job::Run(step, produced) => Some((step, produced)),
            Job::Clear(_) => None,
        };
        if reports.send(Report { result, ran, took: started.elapsed() }).is_err() {
            return;
        }
    }
}

impl Remote {
    fn ask(&self, job: Job) -> Result<()> {
        self.jobs.send(job).map_err(|_| Error::Stopped)
    }

    fn report(&self) -> Result<Report> {
        self.reports.recv().map_err(|_| Error::Stopped)
    }

    fn clear(&self, pages: &[u32]) -> Result<()> {
        self.ask(Job::Clear(pages.to_vec()))?;
        self.report()?.result
    }
}

/// What may be told about a step while the next one runs.
type Untold = Option<(Box<Step>, crate::choose::Verdicts)>;

fn drive(runner: &mut Runner, remote: &Remote, commands: &Receiver<Command>) {
    let mut produced = Produced::default();
    let mut untold: Untold = None;
    let mut ready: Option<Step> = None;
    let mut busy = false;
    while !runner.is_over() && !runner.is_broken() {
        if ready.is_none() {
            tell(runner, &mut untold);
            if !attend(runner, commands, busy) || runner.is_broken() {
                break;
            }
            ready = runner.prepare();
            busy = ready.is_some();
        }
        let Some(step) = ready.take() else { continue };
        let outcome = run(runner, remote, step, std::mem::take(&mut produced), &mut untold, commands);
        match outcome {
            Ok((next, buffers)) => (ready, produced) = (next, buffers),
            Err(error) => return runner.break_down(error),
        }
    }
}

fn tell(runner: &mut Runner, untold: &mut Untold) {
    if let Some((step, verdicts)) = untold.take() {
        runner.deliver(&step, verdicts);
        runner.publish();
    }
}

/// Runs one step; gives back the next one, if there is one, and the buffers.
fn run(
    runner: &mut Runner,
    remote: &Remote,
    mut step: Step,
    produced: Produced,
    untold: &mut Untold,
    commands: &Receiver<Command>,
) -> Result<(Option<Step>, Produced)> {
    let started = Instant::now();
    let certain = runner.begin_guessing(&mut step);
    remote.ask(Job::Run(Box::new(step), produced))?;
    tell(runner, untold);
    let goes_on = attend(runner, commands, true);
    let ahead = if certain && goes_on { runner.prepare() } else { None };
    let report = remote.report()?;
    let Some((step, mut produced)) = report.ran else { return Err(Error::Stopped) };
    if let Err(Error::Panicked(_)) = report.result {
        return report.result.map(|()| (None, produced));
    }
    let verdicts = runner.choose(&step, report.result, &mut produced);
    let as_guessed = runner.settle(&step, &verdicts);
    runner.clear(|pages| remote.clear(pages));
    runner.metrics.count_step(step.batch.t(), report.took, started.elapsed().saturating_sub(report.took));
    *untold = Some((step, verdicts));
    Ok((runner.next(ahead, as_guessed), produced))
}
