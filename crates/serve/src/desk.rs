//! Slow work of requests: tokenizing, templates, grammars. Done on a few threads beside those that serve connections, so
//! that a long text holds up others of its kind and nothing else.
use crate::error::{ApiError, Result};
use std::sync::Arc;
use tokio::sync::Semaphore;

/// Shorter texts are encoded on the spot: going elsewhere takes longer than they do.
pub const SHORT: usize = 2048;

/// A bounded number of threads.
pub struct Desk {
    seats: Arc<Semaphore>,
}

impl Default for Desk {
    fn default() -> Desk {
        let cores = std::thread::available_parallelism().map_or(2, |n| n.get());
        Desk { seats: Arc::new(Semaphore::new(cores.clamp(2, 8))) }
    }
}

impl Desk {
    /// Does a piece of work elsewhere and waits for it. A caller that goes away while it waits for a seat costs nothing.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        let closed = || ApiError::unavailable("the server is shutting down");
        let seat = self.seats.clone().acquire_owned().await.map_err(|_| closed())?;
        let done = tokio::task::spawn_blocking(move || {
            // The seat stays taken until the work is over, also when nobody waits for it any more.
            let _seat = seat;
            work()
        });
        done.await.unwrap_or_else(|_| Err(ApiError::internal("preparing the request failed")))
    }
}
