//! Threads that compute on every processor let those run that carry results away.
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering::Relaxed};

/// Operations before which threads give way for what was handed over once: more than it takes, and an end for whoever
/// never thanks.
const TIMES: i32 = 64;

/// Who hands results to another thread asks; computing threads then give way between two operations, until whoever has
/// picked everything up thanks. Without it the other thread waits for the end of a slice, milliseconds long.
/// Nobody gives way to those who have never thanked.
#[derive(Clone, Debug, Default)]
pub struct Courtesy(Arc<State>);

#[derive(Debug, Default)]
struct State {
    asked: AtomicI32,
    thanks: AtomicBool,
}

impl Courtesy {
    /// Something was handed to another thread, which should run now.
    pub fn ask(&self) {
        if self.0.thanks.load(Relaxed) {
            self.0.asked.store(TIMES, Relaxed);
        }
    }

    /// The other thread has nothing left to do.
    pub fn thank(&self) {
        self.0.thanks.store(true, Relaxed);
        self.0.asked.store(0, Relaxed);
    }

    /// Before an operation, by the thread that begins it: gives way once if that was asked for.
    pub fn show(&self) {
        if self.is_asked() {
            // Threads may pass 0 together: whatever is below it counts as none.
            self.0.asked.fetch_sub(1, Relaxed);
            std::thread::yield_now();
        }
    }

    /// The same by a thread that helps with operations, or waits for one.
    pub fn join(&self) {
        if self.is_asked() {
            std::thread::yield_now();
        }
    }

    fn is_asked(&self) -> bool {
        self.0.asked.load(Relaxed) > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_shown_until_thanked_or_long_enough() {
        let (courtesy, other) = (Courtesy::default(), Courtesy::default());
        let same = courtesy.clone();
        same.ask();
        assert!(!courtesy.is_asked(), "nobody is there to thank");
        same.thank();
        same.ask();
        assert!(courtesy.is_asked() && !other.is_asked());
        courtesy.show();
        (0..2 * TIMES).for_each(|_| courtesy.join());
        assert!(courtesy.is_asked(), "helpers do not count");
        same.thank();
        courtesy.show();
        assert!(!courtesy.is_asked());
        courtesy.ask();
        (0..TIMES).for_each(|_| courtesy.show());
        assert!(!courtesy.is_asked());
    }

    #[test]
    fn many_threads_may_show_it_at_once() {
        let courtesy = Courtesy::default();
        courtesy.thank();
        for _ in 0..100 {
            courtesy.ask();
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| (0..TIMES).for_each(|_| courtesy.show()));
                }
            });
            assert!(!courtesy.is_asked());
        }
    }
}
