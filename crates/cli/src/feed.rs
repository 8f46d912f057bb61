//! Many requests at once and one reader: events in the order in which they happened, each with its time.
use anyhow::Result;
use planish_engine::{Cancel, Error, Event, Handle, Request};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

/// Requests in flight; those that are not over when it is dropped are cancelled.
pub struct Feed {
    arrivals: Receiver<Arrival>,
    sender: Sender<Arrival>,
    running: Vec<Option<Cancel>>,
}

/// An event and when it happened: the engine's thread takes the time, however late somebody reads.
#[derive(Debug)]
pub struct Arrival {
    /// Number of the request, in order of submission.
    pub request: usize,
    /// When.
    pub at: Instant,
    /// What.
    pub event: Event,
}

impl Default for Feed {
    fn default() -> Feed {
        let (sender, arrivals) = channel();
        Feed { arrivals, sender, running: Vec::new() }
    }
}

impl Feed {
    /// Starts a request; the first is number 0.
    pub fn submit(&mut self, handle: &Handle, request: Request) -> Result<()> {
        let (number, sender) = (self.running.len(), self.sender.clone());
        let sink = move |event| sender.send(Arrival { request: number, at: Instant::now(), event }).is_ok();
        self.running.push(Some(handle.generate_with(request, Box::new(sink))?));
        Ok(())
    }

    /// Waits for the next event of any request.
    pub fn next(&self) -> Result<Arrival> {
        Ok(self.arrivals.recv().map_err(|_| Error::Stopped)?)
    }

    /// Waits so long at most; nothing has come then.
    pub fn next_within(&self, patience: Duration) -> Result<Option<Arrival>> {
        match self.arrivals.recv_timeout(patience) {
            Ok(arrival) => Ok(Some(arrival)),
            Err(RecvTimeoutError::Timeout) => Ok(None),
            Err(RecvTimeoutError::Disconnected) => Err(Error::Stopped.into()),
        }
    }

    /// Ends a request of which nothing more is wanted: events that are under way may still come.
    pub fn complete(&mut self, request: usize) {
        if let Some(cancel) = self.running[request].take() {
            cancel.complete();
        }
    }
}
