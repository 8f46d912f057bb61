//! The thread pool: workers spin briefly between operations, then yield, then park, so that a step of many small
//! operations costs no system calls and an idle or oversubscribed machine costs nothing.
//!
//! Each thread has its own share of an operation's tasks, neighbours in ascending order, so that what it asks for ahead
//! of time is what it will need, and what it wrote in one operation is near in the next. Who is done helps the others.
//!
//! An operation is open while tasks may be left. A worker enters an open operation or misses it; the caller closes it
//! when no task is left and waits for those inside. A worker that the system does not run therefore delays nobody.
use planish_tensor::Courtesy;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, Thread};
use std::time::{Duration, Instant};

/// How long a worker looks for the next operation without a pause.
const SPIN: Duration = Duration::from_micros(50);
/// How long after that it looks between other threads' turns, before it parks.
const YIELD: Duration = Duration::from_micros(200);
/// Looks between two readings of the clock.
const LOOKS: u32 = 64;

/// A fixed set of threads (the caller is one of them) that run indexed tasks.
pub struct Threads {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    handles: Vec<Thread>,
    /// One operation at a time: callers on other threads wait here.
    turn: Mutex<()>,
}

/// Lines of its own, so that waiting workers do not slow down anyone else.
#[repr(align(128))]
struct Shared {
    /// Number of the operation in the upper half, [`OPEN`], and the number of workers inside.
    state: AtomicU64,
    job: AtomicPtr<Job<'static>>,
    /// The next task of each thread's share.
    next: Vec<Next>,
    parked: Vec<AtomicBool>,
    courtesy: Courtesy,
    stop: AtomicBool,
}

/// A counter with its cache lines to itself.
#[repr(align(128))]
struct Next(AtomicUsize);

const OPEN: u64 = 1 << 31;
const INSIDE: u64 = OPEN - 1;

fn number(state: u64) -> u64 {
    state >> 32
}

#[repr(align(128))]
struct Job<'a> {
    tasks: usize,
    run: &'a (dyn Fn(usize) + Sync),
    panicked: AtomicBool,
}

impl Threads {
    /// A pool of `threads` (at least one), the caller included.
    pub fn new(threads: usize) -> Self {
        let extra = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            state: AtomicU64::new(0),
            job: AtomicPtr::new(std::ptr::null_mut()),
            next: (0..=extra).map(|_| Next(AtomicUsize::new(0))).collect(),
            parked: (0..extra).map(|_| AtomicBool::new(false)).collect(),
            courtesy: Courtesy::default(),
            stop: AtomicBool::new(false),
        });
        let workers: Vec<_> = (0..extra)
            .map(|i| {
                let shared = shared.clone();
                thread::Builder::new()
                    .name(format!("planish-cpu-{i}"))
                    .spawn(move || work(&shared, i))
                    .expect("the system can start a thread")
            })
            .collect();
        let handles = workers.iter().map(|w| w.thread().clone()).collect();
        Self { shared, workers, handles, turn: Mutex::new(()) }
    }

    /// Number of threads, the caller included.
    pub fn count(&self) -> usize {
        self.workers.len() + 1
    }

    /// Asks the threads to let others run, between two operations.
    pub fn courtesy(&self) -> &Courtesy {
        &self.shared.courtesy
    }

    /// Calls `run(0)` … `run(tasks - 1)`, each once, on any of the threads, and returns when all are done.
    /// Panics (after all threads are out) if a task panicked.
    pub fn run(&self, tasks: usize, run: impl Fn(usize) + Sync) {
        self.shared.courtesy.show();
        if self.workers.is_empty() || tasks <= 1 {
            (0..tasks).for_each(run);
            return;
        }
        let _turn = self.turn.lock().unwrap_or_else(|e| e.into_inner());
        let job = Job { tasks, run: &run, panicked: AtomicBool::new(false) };
        let state = &self.shared.state;
        for (i, next) in self.shared.next.iter().enumerate() {
            next.0.store(share(tasks, self.count(), i).start, Relaxed);
        }
        self.shared.job.store((&raw const job).cast_mut().cast(), Relaxed);
        // Nobody is inside and nobody can enter: the state is ours to write.
        state.store((number(state.load(Relaxed)).wrapping_add(1) << 32) | OPEN, SeqCst);
        self.wake();
        job.drain(&self.shared.next, 0);
        let mut waiting = Waiting::default();
        let mut now = state.fetch_and(!OPEN, AcqRel);
        while now & INSIDE != 0 {
            waiting.pause();
            now = state.load(Acquire);
        }
        assert!(!job.panicked.load(Relaxed), "a task of the thread pool panicked");
    }

    fn wake(&self) {
        for (parked, handle) in self.shared.parked.iter().zip(&self.handles) {
            if parked.load(SeqCst) {
                handle.unpark();
            }
        }
    }
}

/// Tasks of thread `i` of `threads`.
fn share(tasks: usize, threads: usize, i: usize) -> Range<usize> {
    tasks * i / threads..tasks * (i + 1) / threads
}

impl Job<'_> {
    /// Runs thread `own`'s tasks, then those that others have not come to.
    fn drain(&self, next: &[Next], own: usize) {
        for other in 0..next.len() {
            let i = (own + other) % next.len();
            let end = share(self.tasks, next.len(), i).end;
            while next[i].0.load(Relaxed) < end {
                let task = next[i].0.fetch_add(1, Relaxed);
                if task >= end {
                    break;
                }
                // The other threads hold references into the caller's frame: no unwinding before all are out.
                if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (self.run)(task))).is_err() {
                    self.panicked.store(true, Relaxed);
                }
            }
        }
    }
}

fn work(shared: &Shared, index: usize) {
    let mut seen = 0;
    while !shared.stop.load(SeqCst) {
        let now = wait_for_change(shared, index, seen);
        seen = number(now);
        shared.courtesy.join();
        let mut state = now;
        // Enters, unless the operation was closed (or even followed by another) in the meantime.
        while state & OPEN != 0 && number(state) == seen {
            match shared.state.compare_exchange_weak(state, state + 1, Acquire, Relaxed) {
                Ok(_) => {
                    // SAFETY: the job lives on the stack of `run`, which does not return while a worker is inside.
                    unsafe { (*shared.job.load(Relaxed)).drain(&shared.next, index + 1) };
                    shared.state.fetch_sub(1, Release);
                    break;
                }
                Err(other) => state = other,
            }
        }
    }
}

/// The state, once its number is not `seen`.
fn wait_for_change(shared: &Shared, index: usize, seen: u64) -> u64 {
    let mut waiting = Waiting::default();
    loop {
        let now = shared.state.load(Acquire);
        if number(now) != seen {
            return now;
        }
        shared.courtesy.join();
        if !waiting.pause() {
            break;
        }
    }
    let parked = &shared.parked[index];
    loop {
        // The flag is raised before the last look, so that a caller either sees it or is seen here.
        parked.store(true, SeqCst);
        let now = shared.state.load(SeqCst);
        if number(now) != seen {
            parked.store(false, SeqCst);
            return now;
        }
        thread::park();
    }
}

/// Someone who waits: first for a moment, then longer and more politely.
#[derive(Default)]
struct Waiting {
    looks: u32,
    since: Option<Instant>,
    polite: bool,
}

impl Waiting {
    /// Lets a little time pass; false once it is time to park.
    fn pause(&mut self) -> bool {
        self.looks += 1;
        if self.polite {
            thread::yield_now();
        } else {
            std::hint::spin_loop();
            if !self.looks.is_multiple_of(LOOKS) {
                return true;
            }
        }
        let waited = self.since.get_or_insert_with(Instant::now).elapsed();
        self.polite = waited > SPIN;
        waited < YIELD
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.shared.state.fetch_add(1 << 32, SeqCst);
        self.handles.iter().for_each(Thread::unpark);
        for worker in self.workers.drain(..) {
            let _ = worker.join();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_task_runs_once() {
        for threads in [1, 2, 5] {
            let pool = Threads::new(threads);
            for tasks in [0, 1, 2, 7, 100] {
                let counts: Vec<AtomicUsize> = (0..tasks).map(|_| AtomicUsize::new(0)).collect();
                for _ in 0..50 {
                    pool.run(tasks, |i| {
                        counts[i].fetch_add(1, Relaxed);
                    });
                }
                assert!(counts.iter().all(|c| c.load(Relaxed) == 50));
            }
        }
    }

    #[test]
    fn a_thread_that_is_held_up_is_helped() {
        let pool = Threads::new(2);
        let done = AtomicUsize::new(0);
        // Whoever has the first task stays in it until all others are done: half of them are its own.
        pool.run(10, |i| {
            while i == 0 && done.load(SeqCst) < 9 {
                thread::yield_now();
            }
            done.fetch_add(1, SeqCst);
        });
        assert_eq!(done.load(SeqCst), 10);
    }

    #[test]
    fn shares_follow_each_other() {
        for (tasks, threads) in [(0, 2), (1, 3), (7, 2), (16, 16), (100, 7)] {
            let all: Vec<usize> = (0..threads).flat_map(|i| share(tasks, threads, i)).collect();
            assert_eq!(all, (0..tasks).collect::<Vec<_>>());
        }
    }

    #[test]
    fn many_threads_and_callers_share_a_pool() {
        // Far more threads than cores, several callers, pauses that let workers park.
        let pool = Threads::new(16);
        let sum = AtomicUsize::new(0);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for round in 0..300 {
                        let local = AtomicUsize::new(0);
                        pool.run(20, |i| {
                            local.fetch_add(i + 1, Relaxed);
                        });
                        assert_eq!(local.load(Relaxed), 210);
                        sum.fetch_add(1, Relaxed);
                        if round % 100 == 0 {
                            thread::sleep(Duration::from_millis(1));
                        }
                    }
                });
            }
        });
        assert_eq!(sum.load(Relaxed), 1200);
    }

    #[test]
    fn wakes_after_parking_and_survives_a_panic() {
        let pool = Threads::new(3);
        thread::sleep(std::time::Duration::from_millis(20));
        let sum = AtomicUsize::new(0);
        pool.run(10, |i| {
            sum.fetch_add(i, Relaxed);
        });
        assert_eq!(sum.load(Relaxed), 45);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            pool.run(4, |i| assert!(i != 2, "task 2"));
        }));
        assert!(panicked.is_err());
        pool.run(10, |i| {
            sum.fetch_add(i, Relaxed);
        });
        assert_eq!(sum.load(Relaxed), 90);
    }
}
