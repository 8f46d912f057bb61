//! The thread pool: workers spin briefly between operations, then park, so that a step of many small operations
//! costs no system calls and an idle or oversubscribed machine costs nothing.
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU32, AtomicUsize, Ordering::*};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle, Thread};

/// How often a waiting thread looks before it parks: some tens of microseconds.
const SPINS: u32 = 20_000;

/// A fixed set of threads (the caller is one of them) that run indexed tasks.
pub struct Threads {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
    handles: Vec<Thread>,
    /// One operation at a time: callers on other threads wait here.
    turn: Mutex<()>,
}

struct Shared {
    /// Counts operations; a change wakes the workers.
    epoch: AtomicU32,
    job: AtomicPtr<Job<'static>>,
    /// Workers still inside the current operation.
    busy: AtomicUsize,
    parked: Vec<AtomicBool>,
    stop: AtomicBool,
}

struct Job<'a> {
    run: &'a (dyn Fn(usize) + Sync),
    tasks: usize,
    next: AtomicUsize,
    panicked: AtomicBool,
}

impl Threads {
    /// A pool of `threads` (at least one), the caller included.
    pub fn new(threads: usize) -> Self {
        let extra = threads.max(1) - 1;
        let shared = Arc::new(Shared {
            epoch: AtomicU32::new(0),
            job: AtomicPtr::new(std::ptr::null_mut()),
            busy: AtomicUsize::new(0),
            parked: (0..extra).map(|_| AtomicBool::new(false)).collect(),
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

    /// Calls `run(0)` … `run(tasks - 1)`, each once, on any of the threads, and returns when all are done.
    /// Panics (after all threads are out) if a task panicked.
    pub fn run(&self, tasks: usize, run: impl Fn(usize) + Sync) {
        if self.workers.is_empty() || tasks <= 1 {
            (0..tasks).for_each(run);
            return;
        }
        let _turn = self.turn.lock().unwrap_or_else(|e| e.into_inner());
        let job = Job { run: &run, tasks, next: AtomicUsize::new(0), panicked: AtomicBool::new(false) };
        self.shared.busy.store(self.workers.len(), Relaxed);
        self.shared.job.store((&raw const job).cast_mut().cast(), Relaxed);
        self.shared.epoch.fetch_add(1, SeqCst);
        for (parked, handle) in self.shared.parked.iter().zip(&self.handles) {
            if parked.load(SeqCst) {
                handle.unpark();
            }
        }
        job.drain();
        let mut spins = 0;
        while self.shared.busy.load(Acquire) != 0 {
            spins += 1;
            if spins < SPINS { std::hint::spin_loop() } else { thread::yield_now() }
        }
        assert!(!job.panicked.load(Relaxed), "a task of the thread pool panicked");
    }
}

impl Job<'_> {
    fn drain(&self) {
        loop {
            let i = self.next.fetch_add(1, Relaxed);
            if i >= self.tasks {
                return;
            }
            // The other threads hold references into the caller's frame: no unwinding before all are out.
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| (self.run)(i))).is_err() {
                self.panicked.store(true, Relaxed);
            }
        }
    }
}

fn work(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        seen = wait_for_change(shared, index, seen);
        if shared.stop.load(SeqCst) {
            return;
        }
        // SAFETY: the job lives on the stack of `run`, which does not return before `busy` is 0.
        unsafe { (*shared.job.load(Relaxed)).drain() };
        shared.busy.fetch_sub(1, Release);
    }
}

fn wait_for_change(shared: &Shared, index: usize, seen: u32) -> u32 {
    for _ in 0..SPINS {
        let now = shared.epoch.load(Acquire);
        if now != seen {
            return now;
        }
        std::hint::spin_loop();
    }
    let parked = &shared.parked[index];
    loop {
        // The flag is raised before the last look, so that a caller either sees it or is seen here.
        parked.store(true, SeqCst);
        let now = shared.epoch.load(SeqCst);
        if now != seen {
            parked.store(false, SeqCst);
            return now;
        }
        thread::park();
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.shared.stop.store(true, SeqCst);
        self.shared.epoch.fetch_add(1, SeqCst);
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
