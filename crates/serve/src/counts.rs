//! What the server itself counts; the engine counts the rest.
use crate::lag::Lag;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// Status classes of answers.
const CLASSES: usize = 6;

/// Numbers since the start.
#[derive(Debug, Default)]
pub struct Counts {
    inside: AtomicU64,
    turned_away: AtomicU64,
    answers: [AtomicU64; CLASSES],
    params: Mutex<Params>,
    /// From the engine's events to their parts of answers.
    pub lag: Lag,
}

/// What requests asked for, as vLLM's histograms count it.
#[derive(Clone, Debug, Default)]
pub struct Params {
    /// Tokens of prompts.
    pub prompt: Buckets,
    /// Tokens of answers.
    pub generated: Buckets,
    /// Tokens of the longest answer to a prompt.
    pub longest: Buckets,
    /// `max_tokens`.
    pub max_tokens: Buckets,
    /// `n`.
    pub n: Buckets,
}

/// Counts by size.
#[derive(Clone, Debug, Default)]
pub struct Buckets {
    counts: [u64; BOUNDS.len() + 1],
    sum: f64,
}

/// Upper bounds of token counts, as vLLM has them.
pub const BOUNDS: [f64; 17] =
    [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1e3, 2e3, 5e3, 1e4, 2e4, 5e4, 1e5, 2e5];

impl Buckets {
    fn record(&mut self, value: f64) {
        self.counts[BOUNDS.partition_point(|&bound| bound < value)] += 1;
        self.sum += value;
    }

    /// Upper bounds, each with the number of values up to it.
    pub fn cumulative(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        BOUNDS.iter().zip(&self.counts).scan(0, |sum, (&bound, &count)| {
            *sum += count;
            Some((bound, *sum))
        })
    }

    /// Values and their sum.
    pub fn total(&self) -> (u64, f64) {
        (self.counts.iter().sum(), self.sum)
    }
}

impl Counts {
    /// A request has taken a place.
    pub fn entered(&self) {
        self.inside.fetch_add(1, Ordering::Relaxed);
    }

    /// It has left.
    pub fn left(&self) {
        self.inside.fetch_sub(1, Ordering::Relaxed);
    }

    /// There was no place.
    pub fn turned_away(&self) {
        self.turned_away.fetch_add(1, Ordering::Relaxed);
    }

    /// An answer was given.
    pub fn answered(&self, status: u16) {
        self.answers[usize::from(status / 100).min(CLASSES - 1)].fetch_add(1, Ordering::Relaxed);
    }

    /// A request begins.
    pub fn asked(&self, prompts: impl Iterator<Item = usize>, max_tokens: usize, n: usize) {
        let mut params = self.params.lock().unwrap_or_else(|e| e.into_inner());
        prompts.for_each(|tokens| params.prompt.record(tokens as f64));
        params.max_tokens.record(max_tokens as f64);
        params.n.record(n as f64);
    }

    /// An answer has ended.
    pub fn generated(&self, tokens: usize) {
        self.params.lock().unwrap_or_else(|e| e.into_inner()).generated.record(tokens as f64);
    }

    /// All answers to a prompt have ended.
    pub fn answered_prompt(&self, longest: usize) {
        self.params.lock().unwrap_or_else(|e| e.into_inner()).longest.record(longest as f64);
    }

    /// Requests in a place, and those that found none.
    pub fn places(&self) -> (u64, u64) {
        (self.inside.load(Ordering::Relaxed), self.turned_away.load(Ordering::Relaxed))
    }

    /// Answers with each class of status, such as (2, 17).
    pub fn answers(&self) -> impl Iterator<Item = (usize, u64)> + '_ {
        self.answers.iter().enumerate().skip(1).map(|(class, count)| (class, count.load(Ordering::Relaxed)))
    }

    /// What requests asked for.
    pub fn params(&self) -> Params {
        self.params.lock().unwrap_or_else(|e| e.into_inner()).clone()
    }
}
