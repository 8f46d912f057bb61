//! Many requests at once and one reader: events in the order in which they happened, each with its time.
use anyhow::Result;
use planish_engine::{Event, Handle, Request};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Instant;

/// Requests in flight.
pub struct Feed<'a> {
    handle: &'a Handle,
    arrivals: Receiver<Arrival>,
    sender: Sender<Arrival>,
    cancelled: Vec<Arc<AtomicBool>>,
}

/// An event and when it happened, taken before anybody waited for it.
#[derive(Debug)]
pub struct Arrival {
    /// Number of the request, in order of submission.
    pub request: usize,
    /// When.
    pub at: Instant,
    /// What.
    pub event: Event,
}

impl<'a> Feed<'a> {
    /// No request yet.
    pub fn new(handle: &'a Handle) -> Feed<'a> {
        let (sender, arrivals) = channel();
        Feed { handle, arrivals, sender, cancelled: Vec::new() }
    }

    /// Starts a request; the first is number 0.
    pub fn submit(&mut self, request: Request) -> Result<()> {
        let (number, sender) = (self.cancelled.len(), self.sender.clone());
        let cancelled = Arc::new(AtomicBool::new(false));
        self.cancelled.push(cancelled.clone());
        let stream = self.handle.generate(request)?;
        std::thread::spawn(move || {
            for event in stream {
                let arrival = Arrival { request: number, at: Instant::now(), event };
                if cancelled.load(Ordering::Relaxed) || sender.send(arrival).is_err() {
                    return;
                }
            }
        });
        Ok(())
    }

    /// Waits for the next event of any request.
    pub fn next(&self) -> Result<Arrival> {
        Ok(self.arrivals.recv()?)
    }

    /// Events of this request are not wanted any more: the engine drops it at its next one.
    pub fn cancel(&self, request: usize) {
        self.cancelled[request].store(true, Ordering::Relaxed);
    }
}
