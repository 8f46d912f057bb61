//! The plain loop: one step after the other, on one thread.
use crate::device::{Machine, Produced};
use crate::request::Command;
use crate::runner::Runner;
use std::sync::mpsc::Receiver;
use std::time::Instant;

/// Runs until told to stop, or until the engine is broken.
pub(crate) fn serve(runner: &mut Runner, machine: &mut dyn Machine, commands: &Receiver<Command>) {
    let mut produced = Produced::default();
    let mut busy = false;
    while attend(runner, commands, busy) && !runner.is_broken() {
        busy = step(runner, machine, &mut produced);
    }
}

/// Does as told, waiting for something to do if there is nothing. False when it is time to stop.
pub(crate) fn attend(runner: &mut Runner, commands: &Receiver<Command>, busy: bool) -> bool {
    let heard = hear(runner, commands);
    if !busy && !heard && !runner.is_over() {
        runner.rest();
        match commands.recv() {
            Ok(command) => runner.accept(command),
            Err(_) => return false,
        }
    }
    hear(runner, commands);
    !runner.is_over()
}

/// Does as told so far; whether there was anything.
fn hear(runner: &mut Runner, commands: &Receiver<Command>) -> bool {
    let mut heard = false;
    while let Ok(command) = commands.try_recv() {
        runner.accept(command);
        heard = true;
    }
    runner.cancel_gone();
    heard
}

/// One step of all running sequences. False if there was nothing to run.
fn step(runner: &mut Runner, machine: &mut dyn Machine, produced: &mut Produced) -> bool {
    let started = Instant::now();
    let Some(mut step) = runner.prepare() else { return false };
    runner.begin(&mut step);
    let submitted = Instant::now();
    let ran = machine.run(&step.batch, &step.want, produced);
    let forward = submitted.elapsed();
    let verdicts = runner.choose(&step, ran, produced);
    runner.settle(&step, &verdicts);
    runner.clear(|pages| machine.clear(pages));
    runner.deliver(&step, verdicts);
    runner.metrics.count_step(step.batch.t(), forward, started.elapsed() - forward);
    runner.publish();
    true
}
