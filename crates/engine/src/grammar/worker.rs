//! The one thread of a vocabulary on which masks are computed, in order of arrival.
use super::compile::Compiled;
use super::limits::is_slow;
use super::{Mask, Vocabulary};
use crate::error::{Error, Result};
use llguidance::Matcher;
use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// What is known once a token was taken in.
#[derive(Clone)]
pub struct Step {
    /// What may follow.
    pub mask: Arc<Mask>,
    /// Nothing but an end.
    pub complete: bool,
}

/// The thread; it ends with its last sender.
pub struct Worker {
    jobs: Sender<Job>,
    next: AtomicU64,
}

enum Job {
    Enter { id: u64, compiled: Arc<Compiled>, answer: Arc<Answer> },
    Advance { id: u64, token: u32 },
    Leave { id: u64 },
}

/// A guide's end of the worker.
pub struct Place {
    id: u64,
    jobs: Sender<Job>,
    answer: Arc<Answer>,
    _vocabulary: Vocabulary,
}

/// Where the worker puts a guide's latest step.
#[derive(Default)]
struct Answer {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Jobs that are not done yet.
    pending: usize,
    latest: Option<Result<Step>>,
}

impl Worker {
    /// Starts the thread.
    pub fn start() -> Worker {
        let (jobs, inbox) = channel();
        // Without a thread the inbox is dropped, and every guide reports that the worker has ended.
        let _ = thread::Builder::new().name("grammar masks".into()).spawn(move || work(inbox));
        Worker { jobs, next: AtomicU64::new(0) }
    }

    /// A new guide's place.
    pub fn enter(&self, compiled: Arc<Compiled>, vocabulary: Vocabulary) -> Place {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let answer = Arc::new(Answer::default());
        let place = Place { id, jobs: self.jobs.clone(), answer: answer.clone(), _vocabulary: vocabulary };
        place.send(Job::Enter { id, compiled, answer });
        place
    }
}

impl Place {
    /// Queues a token.
    pub fn advance(&self, token: u32) {
        self.send(Job::Advance { id: self.id, token });
    }

    /// The step after all queued tokens.
    pub fn wait(&self) -> Result<Step> {
        let mut state = self.answer.lock();
        loop {
            match &state.latest {
                Some(latest) if state.pending == 0 || latest.is_err() => return latest.clone(),
                _ => state = self.answer.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
            }
        }
    }

    /// The step after all queued tokens, if it is known already and no error.
    pub fn known(&self) -> Option<Step> {
        let state = self.answer.lock();
        state.latest.clone().filter(|_| state.pending == 0)?.ok()
    }

    fn send(&self, job: Job) {
        self.answer.lock().pending += 1;
        if self.jobs.send(job).is_err() {
            self.answer.put(Err(Error::Grammar("the thread that computes masks has ended".into())));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.jobs.send(Job::Leave { id: self.id });
    }
}

impl Answer {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, step: Result<Step>) {
        let mut state = self.lock();
        state.pending = state.pending.saturating_sub(1);
        state.latest = Some(step);
        self.changed.notify_all();
    }
}

fn work(inbox: Receiver<Job>) {
    let mut followers: HashMap<u64, Follower> = HashMap::new();
    for job in inbox {
        match job {
            Job::Enter { id, compiled, answer } => {
                let mut follower = Follower::new(compiled, answer);
                follower.answer_with(Follower::look);
                followers.insert(id, follower);
            }
            Job::Advance { id, token } => {
                if let Some(follower) = followers.get_mut(&id) {
                    follower.answer_with(|follower| follower.take(token));
                }
            }
            Job::Leave { id } => {
                if let Some(follower) = followers.remove(&id) {
                    let Follower { compiled, matcher, .. } = follower;
                    drop(matcher);
                    compiled.trim();
                }
            }
        }
    }
}

/// One text's parser.
struct Follower {
    matcher: Matcher,
    compiled: Arc<Compiled>,
    /// All tokens taken in, to begin again from.
    tokens: Vec<u32>,
    answer: Arc<Answer>,
    /// Time that it has taken so far.
    spent: Duration,
    /// Why it goes no further.
    failed: Option<Error>,
}

impl Follower {
    fn new(compiled: Arc<Compiled>, answer: Arc<Answer>) -> Follower {
        let (matcher, tokens) = (compiled.warm(), Vec::new());
        Follower { matcher, compiled, tokens, answer, spent: Duration::ZERO, failed: None }
    }

    fn answer_with(&mut self, act: impl FnOnce(&mut Follower) -> Result<Step>) {
        let step = match &self.failed {
            Some(error) => Err(error.clone()),
            None => self.within_time(act),
        };
        self.failed = step.as_ref().err().cloned();
        self.answer.put(step);
    }

    fn within_time(&mut self, act: impl FnOnce(&mut Follower) -> Result<Step>) -> Result<Step> {
        let started = Instant::now();
        let panicked = |_| Err(Error::Grammar("the grammar's parser panicked".into()));
        let step = catch_unwind(AssertUnwindSafe(|| act(self))).unwrap_or_else(panicked);
        self.spent += started.elapsed();
        if is_slow(self.spent, self.tokens.len()) { Err(self.too_slow()) } else { step }
    }

    fn too_slow(&self) -> Error {
        let (kind, seconds, tokens) = (self.compiled.kind(), self.spent.as_secs_f64(), self.tokens.len());
        Error::Grammar(format!(
            "{kind}: what may follow took {seconds:.1} s to compute for {tokens} tokens: too complex"
        ))
    }

    fn take(&mut self, token: u32) -> Result<Step> {
        if self.matcher.is_stopped() && !self.matcher.is_error() {
            return self.stay(token);
        }
        self.tokens.push(token);
        match self.matcher.consume_token(token) {
            Ok(()) => self.look(),
            Err(_) => self.begin_again(),
        }
    }

    /// After the end, ends may follow and nothing else.
    fn stay(&mut self, token: u32) -> Result<Step> {
        let step = self.look()?;
        match step.mask.allows(token) {
            true => Ok(step),
            false => Err(Error::Grammar(format!("{}: token {token} after the end", self.compiled.kind()))),
        }
    }

    fn look(&mut self) -> Result<Step> {
        match step(&mut self.matcher) {
            Ok(step) => Ok(step),
            Err(_) => self.begin_again(),
        }
    }

    /// Repeats the text from an untouched start: what failed may have been the fault of a lexer shared with others.
    fn begin_again(&mut self) -> Result<Step> {
        let kind = self.compiled.kind();
        let failed = |error: String| {
            let reason = error.replace("\n<non-verbose/>", "");
            let reason = reason.split("\n<backtrace>").next().unwrap_or_default();
            Error::Grammar(format!("{kind}: {reason}"))
        };
        self.matcher = self.compiled.alone();
        let started = Instant::now();
        for &token in &self.tokens {
            self.matcher.consume_token(token).map_err(|error| failed(error.to_string()))?;
            if is_slow(self.spent + started.elapsed(), self.tokens.len()) {
                return Err(self.too_slow());
            }
        }
        step(&mut self.matcher).map_err(failed)
    }
}

fn step(matcher: &mut Matcher) -> Result<Step, String> {
    let complete = matcher.is_stopped();
    let mask = matcher.compute_mask_or_eos().map_err(|error| error.to_string())?;
    Ok(Step { mask: Arc::new(Mask::from_words(mask.into())), complete })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::grammar::GrammarSpec;
    use planish_text::Tokenizer;

    #[test]
    fn a_text_whose_masks_take_too_long_ends_and_stays_ended() {
        let json = include_bytes!("../../../text/tests/data/smollm2/tokenizer.json");
        let vocabulary = Vocabulary::new(Tokenizer::from_json(json).unwrap(), vec![2], 256);
        let compiled = vocabulary.compiled(&GrammarSpec::Regex("[0-9]+".into())).unwrap();
        let answer = Arc::new(Answer::default());
        let mut follower = Follower::new(compiled, answer.clone());
        let latest = || answer.lock().latest.clone().unwrap();
        follower.answer_with(Follower::look);
        assert!(latest().is_ok());
        // Half an hour of masks: as if an ambiguous grammar had taken it.
        follower.spent += Duration::from_secs(1800);
        follower.answer_with(Follower::look);
        let told = latest().err().unwrap().to_string();
        assert!(
            told.starts_with("regular expression: ") && told.contains("1800") && told.contains("too complex"),
            "{told}"
        );
        follower.spent = Duration::ZERO;
        follower.answer_with(Follower::look);
        assert_eq!(latest().err().unwrap().to_string(), told);
        assert!(!is_slow(Duration::from_secs(2), 0) && is_slow(Duration::from_millis(2001), 0));
        assert!(!is_slow(Duration::from_secs(22), 1000) && is_slow(Duration::from_secs(23), 1000));
    }
}
