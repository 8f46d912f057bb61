//! Device memory that operations use between their own kernels. All work is queued on one stream, so the next
//! operation may have the same bytes. Memory once given stays valid: a recorded step may hold its address.
use crate::buffer::Buffer;
use crate::driver::Context;
use planish_tensor::Result;
use std::sync::{Arc, Mutex, PoisonError};

/// Room that grows.
#[derive(Default)]
pub(crate) struct Scratch {
    /// The last is the largest.
    rooms: Mutex<Vec<Buffer>>,
}

impl Scratch {
    /// Runs `with` on at least `bytes` bytes, and keeps other callers waiting meanwhile.
    pub(crate) fn lend<T>(
        &self,
        context: &Arc<Context>,
        bytes: usize,
        with: impl FnOnce(&Buffer) -> Result<T>,
    ) -> Result<T> {
        let mut rooms = self.rooms.lock().unwrap_or_else(PoisonError::into_inner);
        if rooms.last().is_none_or(|last| last.len() < bytes) {
            let size = bytes.next_power_of_two().max(1 << 20);
            rooms.push(Buffer::uninitialized(context, size, "space for intermediate results")?);
        }
        with(&rooms[rooms.len() - 1])
    }
}
