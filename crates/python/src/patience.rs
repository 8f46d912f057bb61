//! Waiting for long work as Python expects it: without the interpreter's lock, and with an ear for Ctrl-C.
use crate::errors::{panicked, raised};
use anyhow::Result;
use pyo3::prelude::*;
use std::sync::Mutex;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::Duration;

/// How often signals are looked for.
pub const PAUSE: Duration = Duration::from_millis(50);

/// Does work on a thread of its own. A signal's exception is raised at once if `stop` has nothing to say, and after the
/// work has stopped if it has; a second one does not wait. Work that nobody waits for is left to end by itself.
pub fn patiently<T: Send + 'static>(
    py: Python<'_>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
    stop: Option<&dyn Fn()>,
) -> PyResult<T> {
    let (sender, receiver) = channel();
    let thread = std::thread::Builder::new().name("planish-work".into()).spawn(move || {
        // Nobody may be there any more to hear it.
        let _ = sender.send(work());
    })?;
    // A receiver is of one thread at a time, which a lock says in a type.
    let receiver = Mutex::new(receiver);
    let receive = || receiver.lock().unwrap_or_else(|e| e.into_inner()).recv_timeout(PAUSE);
    let mut signal: Option<PyErr> = None;
    loop {
        match py.detach(receive) {
            Ok(done) => return signal.map_or_else(|| done.map_err(|error| raised(&error)), Err),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                let failure = py.detach(|| thread.join());
                let error = failure.err().map(|panic| panicked(&*panic));
                return Err(signal.unwrap_or_else(|| raised(&error.unwrap_or_else(|| anyhow::anyhow!("no answer")))));
            }
        }
        if let Err(error) = py.check_signals() {
            match stop {
                Some(stop) if signal.is_none() => stop(),
                _ => return Err(error),
            }
            signal = Some(error);
        }
    }
}
