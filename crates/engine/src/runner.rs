//! The engine's bookkeeping: which requests there are, what runs next, and what a step's results mean for them. Knows no
//! device; the loops in `plain` and `overlap` stand between the two.
use crate::admit::{admit, admit_judging, admit_score};
use crate::assemble::assemble;
use crate::caller::{Caller, Generation, Scoring, Work, owner, sequence_id};
use crate::choose::{Chosen, Verdict, Verdicts, choose};
use crate::config::EngineConfig;
use crate::device::{Produced, Want, Wish};
use crate::error::{Error, Result};
use crate::judge::Judging;
use crate::mailbox::{Flow, Writer};
use crate::metrics::Metrics;
use crate::outlet::Outlet;
use crate::pages::Pages;
use crate::request::{Command, Likelihood, Request, ScoreChunk};
use crate::scheduler::{Arrival, Limits, Scheduler, Slice};
use crate::speculate;
use planish_tensor::{Batch, Courtesy};
use std::collections::HashMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

mod guesses;
mod requests;
#[cfg(test)]
mod tests;

/// One step, ready for a device.
pub(crate) struct Step {
    pub slices: Vec<Slice>,
    /// The sequence of each slice.
    pub ids: Vec<u64>,
    pub batch: Batch,
    /// Known once it begins.
    pub want: Want,
    /// Sequences whose next token was guessed, so that a step after this one could be prepared.
    pub guessed: Vec<u64>,
}

/// Everything about the requests of one model.
pub(crate) struct Runner {
    config: EngineConfig,
    vocab: usize,
    scheduler: Scheduler,
    callers: HashMap<u64, Caller>,
    pub metrics: Metrics,
    /// Pages to be cleared before the next step.
    spoiled: Vec<u32>,
    /// Requests that nobody listens to any more.
    gone: Vec<u64>,
    /// Set once the engine takes no more work; others may read it.
    broken: Arc<OnceLock<Error>>,
    stopping: Option<Stop>,
    checked: Option<Instant>,
    courtesy: Courtesy,
    /// A sink was told something that its thread does not know of yet.
    told: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Stop {
    Now,
    Drain,
}

/// Between two checks of the page tables while there is nothing to do.
const CHECK_EVERY: Duration = Duration::from_secs(1);

impl Runner {
    pub fn new(config: EngineConfig, vocab: usize, broken: Arc<OnceLock<Error>>, courtesy: Courtesy) -> Runner {
        let limits = Limits { tokens: config.step_tokens, rows: config.step_rows, sequences: config.max_batch };
        let pages = Pages::new(config.pages, config.page_size);
        Runner {
            config,
            vocab,
            scheduler: Scheduler::new(limits, pages, config.prefix_cache),
            callers: HashMap::new(),
            metrics: Metrics::new(config.pages),
            spoiled: Vec::new(),
            gone: Vec::new(),
            broken,
            stopping: None,
            checked: None,
            courtesy,
            told: false,
        }
    }

    /// Does as told.
    pub fn accept(&mut self, command: Command) {
        let refusal = self.broken.get().cloned().or(self.stopping.map(|_| Error::Stopped));
        match (command, refusal) {
            (Command::Generate { outlet, .. }, Some(error)) => outlet.fail(error),
            (Command::Score { chunks, .. }, Some(error)) => drop(chunks.push(Err(error), 0)),
            (Command::Judge { likelihoods, .. }, Some(error)) => drop(likelihoods.push(Err(error), 0)),
            (Command::Judge { id, context, continuations, likelihoods }, None) => {
                self.judge(id, &context, continuations, likelihoods);
            }
            (Command::Generate { id, request, outlet }, None) => self.generate(id, *request, outlet),
            (Command::Score { id, tokens, first, chunks }, None) => self.score(id, tokens, first, chunks),
            (Command::Cancel(id), _) => self.cancel(id),
            (Command::Complete(id), _) => self.complete(id),
            (Command::Room(id), _) => self.resume(id),
            (Command::Check(answer), _) => {
                self.publish();
                drop(answer.send(self.check()));
            }
            (Command::Stop { drain: true }, _) => self.stopping = self.stopping.or(Some(Stop::Drain)),
            (Command::Stop { drain: false }, _) => self.stopping = Some(Stop::Now),
        }
    }

    /// True when it was told to stop and nothing is left that must be waited for.
    pub fn is_over(&self) -> bool {
        match self.stopping {
            None => false,
            Some(Stop::Now) => true,
            Some(Stop::Drain) => self.callers.is_empty(),
        }
    }

    /// True once nothing here is to be trusted any more.
    pub fn is_broken(&self) -> bool {
        self.broken.get().is_some()
    }

    /// Whether a step may begin before the one before it is settled.
    pub fn runs_ahead(&self) -> bool {
        self.config.run_ahead && self.config.sample
    }

    /// Called when there is nothing to run: numbers are shown and, from time to time, the books checked.
    pub fn rest(&mut self) {
        self.check_progress();
        if !self.is_broken() && self.checked.is_none_or(|at| at.elapsed() >= CHECK_EVERY) {
            self.checked = Some(Instant::now());
            if let Err(error) = self.check() {
                self.break_down(error);
            }
        }
        self.publish();
    }

    /// Chooses the next step and lays out its batch; none if nothing can run.
    pub fn prepare(&mut self) -> Option<Step> {
        if self.config.speculate > 0 {
            self.propose();
        }
        let slices = self.scheduler.schedule();
        if slices.is_empty() {
            return None;
        }
        let running = self.scheduler.running();
        let batch = assemble(running, &slices, self.config.page_size);
        let ids: Vec<u64> = slices.iter().map(|s| running[s.index].id).collect();
        Some(Step { slices, ids, batch, want: Want::default(), guessed: Vec::new() })
    }

    /// The step goes to the device now: whatever is scheduled from here on comes after it.
    pub fn begin(&mut self, step: &mut Step) {
        step.want = self.want(step);
        self.scheduler.complete(&step.slices);
    }

    /// The least that the device must bring. What is wished depends on the tokens so far, so it is said when the step goes to
    /// the device.
    fn want(&self, step: &Step) -> Want {
        let mut want = Want { rows: Vec::with_capacity(step.batch.logit_rows.len()), judged: Vec::new() };
        for (slice, &id) in step.slices.iter().zip(&step.ids) {
            let (request, choice) = owner(id);
            let end = slice.start + slice.count;
            let positions = end - slice.rows..end;
            let first = want.rows.len();
            match self.callers.get(&request).map(|caller| &caller.work) {
                None => {}
                Some(Work::Score(_)) => want.rows.resize(first + slice.rows, Wish::LogProbs),
                Some(Work::Judge(judging)) => want.judged.extend(judging.targets(choice, positions, first as u32)),
                Some(Work::Generate(g)) => want.rows.extend(positions.map(|p| g.wish(choice, p, self.config.sample))),
            }
            want.rows.resize(first + slice.rows, Wish::Nothing);
        }
        want
    }

    /// Clears what broken requests have left behind, so that it may be used again.
    pub fn clear(&mut self, clear: impl FnOnce(&[u32]) -> Result<()>) {
        // Pages that cannot be cleared stay out of use until it succeeds.
        if !self.spoiled.is_empty() && clear(&self.spoiled).is_ok() {
            self.scheduler.cleared(&self.spoiled);
            self.spoiled.clear();
        }
    }

    /// What a step's results mean for each of its sequences.
    pub fn choose(&mut self, step: &Step, ran: Result<()>, produced: &mut Produced) -> Verdicts {
        for &id in &step.ids {
            self.start(owner(id).0);
        }
        match ran {
            Ok(()) => choose(step, produced, &mut self.callers, self.vocab),
            Err(error) => Verdicts::all_failed(step, &error),
        }
    }

    /// Moves the sequences on, and lets the ended ones go. False if one of them is not what it was guessed to be: a step
    /// prepared on that guess is void.
    pub fn settle(&mut self, step: &Step, verdicts: &Verdicts) -> bool {
        let mut next = 0;
        let mut as_guessed = true;
        for ((&id, slice), verdict) in step.ids.iter().zip(&step.slices).zip(&verdicts.list) {
            match verdict {
                Verdict::Reads
                | Verdict::Gone
                | Verdict::Scored { last: false, .. }
                | Verdict::Judged { last: false } => {}
                Verdict::Scored { last: true, .. } | Verdict::Judged { last: true } => self.scheduler.remove(id),
                Verdict::Failed(error) => self.stop(owner(id).0, error),
                Verdict::Chose { count, end, .. } => {
                    let tokens = &verdicts.tokens[next..next + count];
                    next += count;
                    match end {
                        Some(_) => self.scheduler.remove(id),
                        None => self.advance(step, slice, id, tokens),
                    }
                }
            }
            as_guessed &= !matches!(
                verdict,
                Verdict::Failed(_)
                    | Verdict::Scored { last: true, .. }
                    | Verdict::Judged { last: true }
                    | Verdict::Chose { end: Some(_), .. }
            );
        }
        as_guessed
    }

    fn advance(&mut self, step: &Step, slice: &Slice, id: u64, tokens: &[Chosen]) {
        match tokens {
            [] => {}
            [one] if step.guessed.contains(&id) => self.scheduler.amend(id, one.id),
            [one] if slice.drafts == 0 => self.scheduler.push(id, one.id),
            _ => {
                self.metrics.now.drafts_accepted += tokens.len() as u64 - 1;
                let ids: Vec<u32> = tokens.iter().map(|t| t.id).collect();
                self.scheduler.settle(id, &ids);
            }
        }
    }

    /// Tells the callers.
    pub fn deliver(&mut self, step: &Step, verdicts: Verdicts) {
        let now = Instant::now();
        let mut tokens = verdicts.tokens.into_iter();
        for (&id, verdict) in step.ids.iter().zip(verdicts.list) {
            match verdict {
                Verdict::Reads | Verdict::Gone | Verdict::Judged { last: false } => {}
                Verdict::Judged { last: true } => self.tell_likelihoods(owner(id).0),
                Verdict::Scored { chunk, last } => self.tell_scores(owner(id).0, chunk, last),
                Verdict::Failed(error) => self.fail(owner(id).0, error),
                Verdict::Chose { prompt, count, end } => {
                    self.tell(id, prompt, tokens.by_ref().take(count), end, now);
                }
            }
        }
        // When all have been told: their threads wake up once.
        if std::mem::take(&mut self.told) {
            self.courtesy.ask();
            self.courtesy.show();
        }
    }

    /// Shows the present numbers.
    pub fn publish(&mut self) {
        let stats = self.scheduler.stats();
        let now = &mut self.metrics.now;
        now.preemptions = stats.preemptions;
        now.prefix_queries = stats.prefix_queries;
        now.prefix_hits = stats.prefix_hits;
        now.pages_free = stats.pages_free as u64;
        now.pages_cached = stats.pages_cached as u64;
        self.metrics.publish();
    }

    /// Whether the page tables add up.
    fn check(&self) -> Result<()> {
        match self.broken.get() {
            Some(error) => Err(error.clone()),
            None => self.scheduler.check_integrity().map_err(Error::Integrity),
        }
    }

    /// Nothing to run while somebody who listens waits: that would be for ever.
    fn check_progress(&mut self) {
        if !self.callers.is_empty() && self.callers.values().all(|caller| !caller.paused) {
            self.break_down(Error::Integrity(format!("{} requests wait and none can run", self.callers.len())));
        }
    }

    /// Guesses what comes next in texts whose tokens are the likeliest ones: a wrong guess changes nothing there.
    fn propose(&mut self) {
        let mut drafts = Vec::new();
        for sequence in self.scheduler.running() {
            let (request, choice) = owner(sequence.id);
            let Some(Caller { work: Work::Generate(g), .. }) = self.callers.get(&request) else { continue };
            let left = g.request.max_new_tokens.saturating_sub(g.choices[choice].generated + 1);
            let ready = sequence.computed + 1 == sequence.tokens.len();
            if ready && g.is_plain(choice) {
                let guess = speculate::lookup(&sequence.tokens, self.config.speculate.min(left));
                drafts.push((sequence.id, guess.to_vec()));
            }
        }
        for (id, guess) in drafts {
            self.metrics.now.drafts_proposed += guess.len() as u64;
            self.scheduler.propose(id, &guess);
        }
    }
}
