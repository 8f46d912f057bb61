//! How long the engine's events wait until their part of an answer is made: what the HTTP layer adds to each token.
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds in microseconds.
const BOUNDS: [u64; 14] =
    [50, 100, 250, 500, 1_000, 2_000, 3_000, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 1_000_000];

/// Counts of times by length; written for every token, so without a lock.
#[derive(Debug, Default)]
pub struct Lag {
    counts: [AtomicU64; BOUNDS.len() + 1],
    nanoseconds: AtomicU64,
}

impl Lag {
    /// Counts one event's time.
    pub fn record(&self, time: Duration) {
        let bucket = BOUNDS.partition_point(|&bound| Duration::from_micros(bound) < time);
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    /// Upper bounds in seconds, the last without end, each with the number of times up to it; and the sum of all.
    pub fn read(&self) -> (Vec<(f64, u64)>, f64) {
        let bounds = BOUNDS.iter().map(|&bound| bound as f64 / 1e6).chain([f64::INFINITY]);
        let counts = self.counts.iter().scan(0, |sum, count| {
            *sum += count.load(Ordering::Relaxed);
            Some(*sum)
        });
        (bounds.zip(counts).collect(), self.nanoseconds.load(Ordering::Relaxed) as f64 / 1e9)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_up_to_their_bound() {
        let lag = Lag::default();
        for us in [0, 50, 51, 1_000, 2_000_000] {
            lag.record(Duration::from_micros(us));
        }
        let (buckets, sum) = lag.read();
        let up_to = |bound: f64| buckets.iter().find(|(known, _)| *known == bound).unwrap().1;
        assert_eq!([0.00005, 0.0001, 0.0005, 0.001, 1.0, f64::INFINITY].map(up_to), [2, 3, 3, 4, 4, 5]);
        assert_eq!(sum, 2.001101);
    }
}
