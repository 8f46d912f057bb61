//! When requests are sent: at random times, or as soon as there is room.
use super::super::Random;
use super::load::Job;
use super::request::{Outcome, Target};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Of the thread of one request; it parses small JSON.
const STACK: usize = 256 << 10;

/// A load that ran.
pub struct Run {
    /// In order of sending.
    pub outcomes: Vec<Outcome>,
    /// From the start until the last request ended.
    pub elapsed: Duration,
}

/// Times after the start at which requests arrive: a Poisson process of `rate` a second, or all at once.
pub fn times(count: usize, rate: f64, random: &mut Random) -> Vec<Duration> {
    let mut at = 0.0;
    let mut next = |_| {
        let now = at;
        // Above 0 and at most 1, in steps of 2^-53.
        let uniform = ((random.next() >> 11) + 1) as f64 / (1u64 << 53) as f64;
        at += -uniform.ln() / rate;
        Duration::from_secs_f64(if rate.is_finite() { now } else { 0.0 })
    };
    (0..count).map(&mut next).collect()
}

/// Places for requests in flight.
struct Room {
    free: Mutex<usize>,
    freed: Condvar,
}

impl Room {
    fn take(&self) {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let mut free = self.freed.wait_while(free, |free| *free == 0).unwrap_or_else(PoisonError::into_inner);
        *free -= 1;
    }

    fn give(&self) {
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.freed.notify_one();
    }
}

/// Sends each job at its time, or later, when fewer than `most` are in flight. Each has a thread of its own, so that
/// none waits to be read.
pub fn run(target: &Target, jobs: &[Job], times: &[Duration], most: Option<usize>, ended: &(dyn Fn() + Sync)) -> Run {
    let room = Room { free: Mutex::new(most.unwrap_or(usize::MAX)), freed: Condvar::new() };
    let start = Instant::now();
    let outcomes = std::thread::scope(|scope| {
        let mut threads = Vec::with_capacity(jobs.len());
        for (job, time) in jobs.iter().zip(times) {
            std::thread::sleep((start + *time).saturating_duration_since(Instant::now()));
            room.take();
            let room = &room;
            let work = move || {
                let outcome = target.ask(job);
                room.give();
                ended();
                outcome
            };
            threads.push(std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work));
        }
        let outcome = |thread: std::io::Result<std::thread::ScopedJoinHandle<'_, Outcome>>| match thread {
            Ok(thread) => thread.join().unwrap_or_else(|_| Outcome::failed("its thread panicked")),
            Err(error) => Outcome::failed(&format!("no thread: {error}; give --concurrency")),
        };
        threads.into_iter().map(outcome).collect()
    });
    Run { outcomes, elapsed: start.elapsed() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_follow_the_rate_and_the_seed() {
        let drawn = times(4000, 50.0, &mut Random(7));
        assert_eq!(drawn, times(4000, 50.0, &mut Random(7)));
        assert_ne!(drawn, times(4000, 50.0, &mut Random(8)));
        assert_eq!(drawn[0], Duration::ZERO);
        assert!(drawn.is_sorted());
        // 80 s expected, with a standard deviation of 1.3 s.
        let last = drawn[3999].as_secs_f64();
        assert!((74.0..86.0).contains(&last), "{last}");
        // A share 1/e of the gaps of a Poisson process is longer than their mean.
        let long = drawn.windows(2).filter(|w| w[1] - w[0] > Duration::from_millis(20)).count();
        assert!((1300..1650).contains(&long), "{long}");
        assert!(times(9, f64::INFINITY, &mut Random(1)).iter().all(Duration::is_zero));
    }
}
