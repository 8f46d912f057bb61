//! Tokens chosen ahead: they stay on the device, where the next step reads them, and come to pinned memory meanwhile.
use crate::driver::{Context, check};
use cudarc::driver::sys;
use planish_tensor::{Error, Result};
use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::Arc;

/// Rows at which tokens are chosen ahead, at most: `MOST_CHOSEN` of `kernels/rows.cu`.
pub(crate) const MOST: usize = 1 << 14;
/// Choices that may be unread at a time: of the step that runs, and of the next.
const SLOTS: usize = 2;

/// What was chosen and not read yet, the first first.
pub(crate) struct Ahead {
    context: Arc<Context>,
    /// `[SLOTS, MOST]`
    pinned: *mut u32,
    copied: [sys::CUevent; SLOTS],
    /// Slots and numbers of rows.
    unread: VecDeque<(usize, usize)>,
    next: usize,
}

// SAFETY: the pinned memory belongs to this alone; handles may be used from any thread.
unsafe impl Send for Ahead {}

impl Ahead {
    pub(crate) fn new(context: &Arc<Context>) -> Result<Ahead> {
        context.enter()?;
        let (mut pinned, mut copied) = (std::ptr::null_mut(), [std::ptr::null_mut(); SLOTS]);
        let timeless = sys::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: each writes one handle, given back in `drop`.
        unsafe {
            check(sys::cuMemHostAlloc(&mut pinned, 4 * SLOTS * MOST, 0), "allocate pinned memory")?;
            for event in &mut copied {
                check(sys::cuEventCreate(event, timeless), "make an event")?;
            }
        }
        let pinned = pinned.cast();
        Ok(Ahead { context: context.clone(), pinned, copied, unread: VecDeque::new(), next: 0 })
    }

    /// Queues the copy of so many tokens.
    pub(crate) fn queue(&mut self, from: u64, rows: usize) -> Result<()> {
        if self.unread.len() == SLOTS || rows > MOST {
            return Err(Error::Device(format!("{rows} tokens chosen ahead, {} steps unread", self.unread.len())));
        }
        let slot = self.next;
        let stream = self.context.stream;
        // SAFETY: the slot has room, and nobody reads it before the event; `from` has so many tokens.
        unsafe {
            let to = self.pinned.add(slot * MOST).cast::<c_void>();
            check(sys::cuMemcpyDtoHAsync_v2(to, from, 4 * rows, stream), "copy from the device")?;
            check(sys::cuEventRecord(self.copied[slot], stream), "record an event")?;
        }
        self.unread.push_back((slot, rows));
        self.next = (slot + 1) % SLOTS;
        Ok(())
    }

    /// Waits for the first that are unread.
    pub(crate) fn read(&mut self) -> Result<Vec<u32>> {
        let Some((slot, rows)) = self.unread.pop_front() else {
            return Err(Error::Device("no tokens were chosen ahead".into()));
        };
        self.context.enter()?;
        // SAFETY: the wait ends the copy into the slot, which has so many tokens.
        unsafe {
            check(sys::cuEventSynchronize(self.copied[slot]), "wait for tokens")?;
            Ok(std::slice::from_raw_parts(self.pinned.add(slot * MOST), rows).to_vec())
        }
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        // SAFETY: the waits end the copies into the pinned memory; all handles were made in `new`.
        unsafe {
            let _ = sys::cuCtxSetCurrent(self.context.raw());
            for event in self.copied {
                let _ = sys::cuEventSynchronize(event);
                let _ = sys::cuEventDestroy_v2(event);
            }
            let _ = sys::cuMemFreeHost(self.pinned.cast());
        }
    }
}
