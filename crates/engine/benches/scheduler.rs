//! Time of the scheduler in a decode step: schedule, assemble, complete and push, without any model.
//! `cargo bench -p planish-engine --bench scheduler`
use planish_engine::assemble::assemble_into;
use planish_engine::pages::Pages;
use planish_engine::scheduler::{Arrival, Limits, Scheduler};
use planish_tensor::Batch;
use std::hint::black_box;
use std::time::{Duration, Instant};

const PAGE_SIZE: usize = 16;
const PROMPT: usize = 128;
const STEPS: usize = 500;
const REPEATS: usize = 9;

fn main() {
    println!("{:>9} {:>12} {:>12} {:>16}", "sequences", "best µs/step", "mean µs/step", "integrity check");
    for n in [1, 32, 128] {
        let runs: Vec<(Duration, Duration)> = (0..REPEATS).map(|_| decode(n)).collect();
        let best = runs.iter().map(|r| r.0).min().unwrap_or_default();
        let check = runs.iter().map(|r| r.1).min().unwrap_or_default();
        let mean: Duration = runs.iter().map(|r| r.0).sum::<Duration>() / REPEATS as u32;
        let micros = |d: Duration| d.as_secs_f64() * 1e6 / STEPS as f64;
        println!("{n:>9} {:>12.2} {:>12.2} {:>13.1} µs", micros(best), micros(mean), check.as_secs_f64() * 1e6);
    }
}

/// Time of all decode steps of `n` sequences with a waiting one behind them, and of one integrity check after.
fn decode(n: usize) -> (Duration, Duration) {
    let limits = Limits { tokens: 512.max(n), rows: 128.max(n), sequences: n };
    let pages = Pages::new((n + 1) * (PROMPT + STEPS).div_ceil(PAGE_SIZE) + n, PAGE_SIZE);
    let mut scheduler = Scheduler::new(limits, pages, true);
    for id in 0..=n as u64 {
        let tokens = (0..PROMPT as u32).map(|i| i * 31 + id as u32).collect();
        scheduler.arrive(Arrival { id, tokens, rows_from: usize::MAX, ..Arrival::default() });
    }
    let (mut batch, mut ids) = (Batch::default(), Vec::new());
    while scheduler.running().len() < n || batch.tokens.len() != n {
        step(&mut scheduler, &mut batch, &mut ids);
    }
    let start = Instant::now();
    for _ in 0..STEPS {
        step(&mut scheduler, &mut batch, &mut ids);
    }
    let steps = start.elapsed();
    assert_eq!(batch.tokens.len(), n);
    let start = Instant::now();
    scheduler.check_integrity().expect("pages are whole");
    (steps, start.elapsed())
}

fn step(scheduler: &mut Scheduler, batch: &mut Batch, ids: &mut Vec<u64>) {
    let plan = scheduler.schedule();
    assemble_into(batch, scheduler.running(), &plan, PAGE_SIZE);
    black_box(&batch);
    scheduler.complete(&plan);
    ids.clear();
    ids.extend(plan.iter().filter(|s| s.rows > 0).map(|s| scheduler.running()[s.index].id));
    for (i, &id) in ids.iter().enumerate() {
        scheduler.push(id, i as u32);
    }
}
