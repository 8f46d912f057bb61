//! Lines on their way to the log, written by a thread of their own: whoever answers requests never waits for a reader of
//! the log, and a log that cannot be written to is no reason to fail.
use std::io::Write;
use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::time::Duration;

/// Lines that may wait; more are left out, and counted.
const MOST: usize = 4096;

/// A log's lines. Clones are the same log.
#[derive(Clone)]
pub struct Lines(Arc<Shared>);

struct Shared {
    queue: Mutex<Queue>,
    news: Condvar,
}

#[derive(Default)]
struct Queue {
    waiting: Vec<String>,
    /// Lines that found no room since the last that did.
    left_out: u64,
    closed: bool,
    /// Everything is written, or nobody writes.
    over: bool,
}

impl Lines {
    /// A log that writes there; `left_out` words the line that stands for so many others.
    pub fn start(out: impl Write + Send + 'static, left_out: fn(u64) -> String) -> Lines {
        let lines = Lines(Arc::new(Shared { queue: Mutex::default(), news: Condvar::new() }));
        let shared = lines.0.clone();
        let started = std::thread::Builder::new().name("planish-log".into()).spawn(move || shared.write(out, left_out));
        // Without a thread there is no log: the server itself can do without.
        lines.0.lock().over = started.is_err();
        lines
    }

    /// Takes a line; never waits.
    pub fn push(&self, line: String) {
        let mut queue = self.0.lock();
        match queue.waiting.len() < MOST {
            true => queue.waiting.push(line),
            false => queue.left_out += 1,
        }
        self.0.news.notify_all();
    }

    /// Takes no more as the process ends; what waits has this long to be written.
    pub fn close(&self, limit: Duration) {
        let mut queue = self.0.lock();
        queue.closed = true;
        self.0.news.notify_all();
        drop(self.0.news.wait_timeout_while(queue, limit, |queue| !queue.over));
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn write(&self, mut out: impl Write, left_out: fn(u64) -> String) {
        loop {
            let queue = self.lock();
            let idle = |queue: &mut Queue| queue.waiting.is_empty() && !queue.closed;
            let mut queue = self.news.wait_while(queue, idle).unwrap_or_else(|poisoned| poisoned.into_inner());
            if queue.waiting.is_empty() {
                queue.over = true;
                self.news.notify_all();
                return;
            }
            let mut lines = std::mem::take(&mut queue.waiting);
            let missing = std::mem::take(&mut queue.left_out);
            drop(queue);
            lines.extend((missing > 0).then(|| left_out(missing)));
            for line in lines {
                // A log that is full or has no reader may have one again.
                let _ = out.write_all((line + "\n").as_bytes());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Error, ErrorKind, Result};
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Writes when it is told to, and fails now and then.
    struct Slow {
        begun: Sender<()>,
        gate: Receiver<()>,
        written: Arc<Mutex<Vec<String>>>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> Result<usize> {
            let _ = self.begun.send(());
            let _ = self.gate.recv();
            let line = String::from_utf8(bytes.to_vec()).unwrap();
            if line == "broken\n" {
                return Err(Error::from(ErrorKind::BrokenPipe));
            }
            self.written.lock().unwrap().push(line);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }

    #[test]
    fn nobody_waits_for_a_log_that_is_not_read() {
        let (begun, first) = channel();
        let (open, gate) = channel();
        let written: Arc<Mutex<Vec<String>>> = Arc::default();
        let lines = Lines::start(Slow { begun, gate, written: written.clone() }, |n| format!("{n} left out"));
        lines.push("first".into());
        first.recv().unwrap();
        // The writer stands within the first line, and none of this waits for it.
        lines.push("broken".into());
        (0..MOST + 6).for_each(|i| lines.push(i.to_string()));
        assert!(written.lock().unwrap().is_empty());
        drop(open);
        lines.close(Duration::from_secs(600));
        let written = written.lock().unwrap();
        assert_eq!((written.len(), &*written[0], &*written[1]), (MOST + 1, "first\n", "0\n"));
        assert_eq!((&*written[MOST - 1], &*written[MOST]), (&*format!("{}\n", MOST - 2), "7 left out\n"));
    }
}
