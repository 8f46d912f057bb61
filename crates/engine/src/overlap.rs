//! The overlapped loop: while the device runs a step, the engine's thread tells the callers about the one before and
//! prepares the next on the guess that every sequence goes on. Where nothing that the next step asks depends on the tokens
//! that are still being chosen, and the device can name them itself, that step begins at once and the device never waits;
//! what it does for sequences that turn out to have ended is dropped. Elsewhere the next step waits for those tokens, and
//! where a sequence does not go on it is prepared again.
use crate::device::{Machine, Produced, Want};
use crate::error::{Error, Result};
use crate::plain::attend;
use crate::request::Command;
use crate::runner::{Runner, Step};
use planish_tensor::Batch;
use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

/// What of a step goes to the device's thread, and comes back.
#[derive(Default)]
struct Work {
    batch: Batch,
    want: Want,
    produced: Produced,
}

/// What the device's thread is asked to do.
enum Job {
    /// Answered when it is done.
    Run(Box<Work>),
    /// Not answered: the step is finished by [`Job::Finish`], after those begun before it.
    Begin(Box<Work>),
    Finish,
    Clear(Vec<u32>),
}

/// What it answers.
struct Report {
    result: Result<()>,
    /// What was run, and what came of it.
    work: Option<Box<Work>>,
    took: Duration,
}

/// The engine's end of the device's thread. Nothing else may be asked before an answer that is due.
struct Remote {
    jobs: SyncSender<Job>,
    reports: Receiver<Report>,
}

/// Runs until told to stop, or until the engine is broken.
pub(crate) fn serve(runner: &mut Runner, machine: &mut dyn Machine, commands: &Receiver<Command>) {
    let (jobs, inbox) = sync_channel(2);
    let (outbox, reports) = sync_channel(1);
    thread::scope(|scope| {
        let work = move || work(machine, &inbox, &outbox);
        match thread::Builder::new().name("planish-device".into()).spawn_scoped(scope, work) {
            Ok(_) => {
                Engine { runner, remote: Remote { jobs, reports }, commands, untold: None, spare: Vec::new() }.drive()
            }
            Err(e) => runner.break_down(Error::Device(format!("cannot start a thread: {e}"))),
        }
    });
}

/// A step that was begun, how that went, and when.
type Begun = (Box<Work>, Result<()>, Instant);

/// The device's thread: does one job after the other, and survives a panic to tell of it.
fn work(machine: &mut dyn Machine, jobs: &Receiver<Job>, reports: &SyncSender<Report>) {
    let mut begun: VecDeque<Begun> = VecDeque::new();
    let mut free_since = Instant::now();
    while let Ok(job) = jobs.recv() {
        let started = Instant::now();
        let report = match job {
            Job::Begin(mut work) => {
                let result = surviving(|| machine.begin(&mut work.batch, &work.want));
                begun.push_back((work, result, started));
                continue;
            }
            Job::Finish => {
                let Some((mut work, result, at)) = begun.pop_front() else { return };
                let result = result.and_then(|()| surviving(|| machine.finish(&mut work.produced)));
                let took = at.max(free_since).elapsed();
                Report { result, work: Some(work), took }
            }
            Job::Run(mut work) => {
                let Work { batch, want, produced } = &mut *work;
                let result = surviving(|| machine.run(batch, want, produced));
                Report { result, work: Some(work), took: started.elapsed() }
            }
            Job::Clear(pages) => {
                Report { result: surviving(|| machine.clear(&pages)), work: None, took: started.elapsed() }
            }
        };
        free_since = Instant::now();
        if reports.send(report).is_err() {
            return;
        }
    }
}

fn surviving(act: impl FnOnce() -> Result<()>) -> Result<()> {
    catch_unwind(AssertUnwindSafe(act)).unwrap_or_else(|panic| Err(Error::of_panic(&*panic)))
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

/// The engine's thread.
struct Engine<'a> {
    runner: &'a mut Runner,
    remote: Remote,
    commands: &'a Receiver<Command>,
    /// What may be told about a step while the next one runs.
    untold: Option<(Step, crate::choose::Verdicts)>,
    /// Buffers of steps that are over.
    spare: Vec<Produced>,
}

impl Engine<'_> {
    fn drive(mut self) {
        let mut ready: Option<Step> = None;
        let mut busy = false;
        while !self.runner.is_over() && !self.runner.is_broken() {
            if ready.is_none() {
                self.tell();
                if !attend(self.runner, self.commands, busy) || self.runner.is_broken() {
                    break;
                }
                ready = self.runner.prepare();
                busy = ready.is_some();
            }
            let Some(step) = ready.take() else { continue };
            match self.run(step) {
                Ok(next) => ready = next,
                Err(error) => return self.runner.break_down(error),
            }
        }
    }

    fn tell(&mut self) {
        if let Some((step, verdicts)) = self.untold.take() {
            self.runner.deliver(&step, verdicts);
            self.runner.publish();
        }
    }

    /// Runs a step, and those that follow it without a wait; gives back the next one, if there is one.
    fn run(&mut self, mut step: Step) -> Result<Option<Step>> {
        let mut certain = self.runner.begin_guessing(&mut step);
        let begun = certain && self.runner.runs_ahead() && step.want.is_of_choices();
        let work = self.work_of(&mut step);
        self.remote.ask(if begun { Job::Begin(work) } else { Job::Run(work) })?;
        loop {
            let started = Instant::now();
            self.tell();
            let goes_on = attend(self.runner, self.commands, true);
            let mut ahead = if certain && goes_on { self.runner.prepare() } else { None };
            let mut follows = false;
            if let Some(next) = ahead.as_mut().filter(|_| begun) {
                follows = self.runner.follow(&step, next);
                if follows {
                    let work = self.work_of(next);
                    self.remote.ask(Job::Begin(work))?;
                }
            }
            if begun {
                self.remote.ask(Job::Finish)?;
            }
            let as_guessed = self.settle(step, started)?;
            match ahead {
                Some(next) if follows => {
                    step = next;
                    certain = self.runner.catch_up(&mut step);
                }
                ahead => return Ok(self.runner.next(ahead, as_guessed)),
            }
        }
    }

    /// What goes to the device.
    fn work_of(&mut self, step: &mut Step) -> Box<Work> {
        let (batch, want) = (std::mem::take(&mut step.batch), std::mem::take(&mut step.want));
        Box::new(Work { batch, want, produced: self.spare.pop().unwrap_or_default() })
    }

    /// Waits for the step that runs; moves its sequences on. False if one of them is not what it was guessed to be.
    fn settle(&mut self, mut step: Step, started: Instant) -> Result<bool> {
        let report = self.remote.report()?;
        let Some(mut work) = report.work else { return Err(Error::Stopped) };
        (step.batch, step.want) = (std::mem::take(&mut work.batch), std::mem::take(&mut work.want));
        if let Err(Error::Panicked(_)) = report.result {
            return report.result.map(|()| false);
        }
        let verdicts = self.runner.choose(&step, report.result, &mut work.produced);
        self.spare.push(work.produced);
        let as_guessed = self.runner.settle(&step, &verdicts);
        let remote = &self.remote;
        self.runner.clear(|pages| remote.clear(pages));
        self.runner.metrics.count_step(step.batch.t(), report.took, started.elapsed().saturating_sub(report.took));
        self.untold = Some((step, verdicts));
        Ok(as_guessed)
    }
}
