//! What the engine counts, in one place: plain numbers that its thread writes and publishes after each step.
use crate::request::FinishReason;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// Everything counted since the start, at one moment between two steps. `accepted` is always the sum of `finished()`,
/// `failed`, `cancelled`, `running` and `queued`.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Requests that were taken in.
    pub accepted: u64,
    /// Requests that were answered with an error at once, before they were taken in.
    pub refused: u64,
    /// Requests that ended with a stop id or string.
    pub finished_stop: u64,
    /// Requests that ended with `max_new_tokens` or the context.
    pub finished_length: u64,
    /// Texts that were scored to their end.
    pub finished_scored: u64,
    /// Requests that ended with an error.
    pub failed: u64,
    /// Requests whose caller went away.
    pub cancelled: u64,
    /// Requests that no step has seen yet.
    pub queued: u64,
    /// Requests that a step has seen and that have not ended.
    pub running: u64,
    /// Tokens of the prompts that were taken in.
    pub prompt_tokens: u64,
    /// Tokens given to callers.
    pub generated_tokens: u64,
    /// Sequences that gave their pages back because these ran out.
    pub preemptions: u64,
    /// Tokens looked up in the prefix cache.
    pub prefix_queries: u64,
    /// Tokens found there.
    pub prefix_hits: u64,
    /// Tokens guessed by prompt lookup.
    pub drafts_proposed: u64,
    /// Guesses that the model agreed with.
    pub drafts_accepted: u64,
    /// Steps.
    pub steps: u64,
    /// Steps prepared while the one before ran, and prepared again because something ended.
    pub prepared_again: u64,
    /// Steps that began before the tokens of the one before them were known.
    pub begun_ahead: u64,
    /// Pages of the pool.
    pub pages_total: u64,
    /// Pages that nobody uses or knows.
    pub pages_free: u64,
    /// Pages that nobody uses, kept for their tokens until they are needed.
    pub pages_cached: u64,
    /// Seconds inside the model's forward pass (and reading its results).
    pub forward_seconds: f64,
    /// Seconds of steps outside of it: scheduling, assembling, choosing, telling callers.
    pub other_seconds: f64,
    /// Seconds from arrival to the first token.
    pub time_to_first_token: Histogram,
    /// Seconds between two tokens of a sequence.
    pub inter_token: Histogram,
    /// Seconds from arrival to the end, of requests that finished.
    pub request_latency: Histogram,
    /// Seconds from arrival to the first step.
    pub queue_time: Histogram,
    /// Seconds from the first step to the end, of requests that generated tokens and finished; and its two parts.
    pub inference_time: Histogram,
    /// From the first step to the first token.
    pub prefill_time: Histogram,
    /// From the first token to the end.
    pub decode_time: Histogram,
    /// Tokens of a step.
    pub step_tokens: Histogram,
}

impl Snapshot {
    /// Nothing counted; `pages` in the pool.
    pub fn new(pages: usize) -> Snapshot {
        Snapshot {
            pages_total: pages as u64,
            pages_free: pages as u64,
            time_to_first_token: Histogram::new(&FIRST_TOKEN),
            inter_token: Histogram::new(&INTER_TOKEN),
            request_latency: Histogram::new(&REQUEST),
            queue_time: Histogram::new(&REQUEST),
            inference_time: Histogram::new(&REQUEST),
            prefill_time: Histogram::new(&REQUEST),
            decode_time: Histogram::new(&REQUEST),
            step_tokens: Histogram::new(&STEP_TOKENS),
            ..Snapshot::default()
        }
    }

    /// Requests that came to a good end.
    pub fn finished(&self) -> u64 {
        self.finished_stop + self.finished_length + self.finished_scored
    }

    /// Whether every accepted request is accounted for.
    pub fn is_conserved(&self) -> bool {
        self.accepted == self.finished() + self.failed + self.cancelled + self.running + self.queued
    }

    /// Counts an end by its reason.
    pub(crate) fn finish(&mut self, reason: FinishReason) {
        match reason {
            FinishReason::Stop => self.finished_stop += 1,
            FinishReason::Length => self.finished_length += 1,
        }
    }
}

/// Upper bounds of vLLM's histogram of the same name, so that its dashboards fit.
const FIRST_TOKEN: [f64; 22] = [
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
];
const INTER_TOKEN: [f64; 19] =
    [0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0];
const REQUEST: [f64; 21] = [
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
];
const STEP_TOKENS: [f64; 13] =
    [1.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0, 4096.0, 8192.0, 16384.0];
/// Room for the longest list of bounds, and for what is above them.
const BUCKETS: usize = 24;

/// Counts of values by size.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Histogram {
    bounds: &'static [f64],
    counts: [u64; BUCKETS],
    sum: f64,
}

impl Histogram {
    fn new(bounds: &'static [f64]) -> Histogram {
        Histogram { bounds, ..Histogram::default() }
    }

    /// Counts one value.
    pub fn record(&mut self, value: f64) {
        self.counts[self.bounds.partition_point(|&b| b < value)] += 1;
        self.sum += value;
    }

    /// Values counted.
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Their sum.
    pub fn sum(&self) -> f64 {
        self.sum
    }

    /// Upper bounds, rising, each with the number of values up to it (as Prometheus counts: cumulative).
    pub fn buckets(&self) -> impl Iterator<Item = (f64, u64)> + '_ {
        self.bounds.iter().zip(&self.counts).scan(0, |sum, (&bound, &count)| {
            *sum += count;
            Some((bound, *sum))
        })
    }
}

/// The engine's own copy, and the one that others may read. A reader holds the lock for one small copy.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// Written by the engine's thread alone.
    pub now: Snapshot,
    shared: Arc<Mutex<Snapshot>>,
}

impl Metrics {
    pub fn new(pages: usize) -> Metrics {
        let now = Snapshot::new(pages);
        Metrics { now, shared: Arc::new(Mutex::new(now)) }
    }

    /// Where others read.
    pub fn shared(&self) -> Arc<Mutex<Snapshot>> {
        self.shared.clone()
    }

    /// Shows the present numbers to others.
    pub fn publish(&self) {
        *self.shared.lock().unwrap_or_else(|e| e.into_inner()) = self.now;
    }

    /// Counts a step's tokens and time.
    pub fn count_step(&mut self, tokens: usize, forward: Duration, other: Duration) {
        self.now.steps += 1;
        self.now.step_tokens.record(tokens as f64);
        self.now.forward_seconds += forward.as_secs_f64();
        self.now.other_seconds += other.as_secs_f64();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_cumulative_and_include_their_bound() {
        let mut h = Histogram::new(&STEP_TOKENS);
        [1.0, 2.0, 8.0, 9.0, 99999.0].into_iter().for_each(|v| h.record(v));
        let buckets: Vec<_> = h.buckets().take(3).collect();
        assert_eq!(buckets, [(1.0, 1), (8.0, 3), (16.0, 4)]);
        assert_eq!((h.count(), h.sum(), h.buckets().last()), (5, 100_019.0, Some((16384.0, 4))));
    }

    #[test]
    fn others_see_what_was_published() {
        let mut m = Metrics::new(7);
        let shared = m.shared();
        m.now.accepted = 1;
        let seen = *shared.lock().unwrap();
        assert_eq!((seen.accepted, seen.pages_total), (0, 7));
        m.publish();
        assert!(!shared.lock().unwrap().is_conserved());
        m.now.queued = 1;
        m.publish();
        assert!(shared.lock().unwrap().is_conserved());
    }
}
