//! Large copies to the device: several threads fill pinned memory, half by half, while the copy engine empties the
//! other half. Mapped files are read at the speed of memory and not of one thread's page faults.
use crate::driver::check;
use cudarc::driver::sys;
use planish_tensor::Result;
use std::ffi::c_void;
use std::thread;

/// Bytes of each half.
const HALF: usize = 32 << 20;
/// From this size on a copy goes through pinned memory.
pub(crate) const LARGE: usize = 4 << 20;
/// Threads that fill a half.
const FILLERS: usize = 8;

/// Two halves of pinned memory and the ends of the copies out of them.
pub(crate) struct Staging {
    halves: [Half; 2],
    next: usize,
}

struct Half {
    pinned: *mut u8,
    copied: sys::CUevent,
}

// SAFETY: the pinned memory belongs to the half alone; handles may be used from any thread.
unsafe impl Send for Half {}

impl Staging {
    /// Needs a current context, as every call here.
    pub(crate) fn new() -> Result<Staging> {
        Ok(Staging { halves: [Half::new()?, Half::new()?], next: 0 })
    }

    /// Queues the copy of all bytes to `to`. The source may be changed when this returns.
    pub(crate) fn copy(&mut self, to: sys::CUdeviceptr, bytes: &[u8], stream: sys::CUstream) -> Result<()> {
        let threads = thread::available_parallelism().map_or(1, |n| n.get()).min(FILLERS);
        for (i, chunk) in bytes.chunks(HALF).enumerate() {
            let half = &self.halves[self.next];
            self.next = 1 - self.next;
            // SAFETY: the half's last copy has ended, so its memory is ours; a chunk is no longer than a half.
            let pinned = unsafe {
                check(sys::cuEventSynchronize(half.copied), "wait for a copy")?;
                std::slice::from_raw_parts_mut(half.pinned, chunk.len())
            };
            fill(pinned, chunk, threads);
            let (at, from) = (to + (i * HALF) as u64, half.pinned.cast::<c_void>());
            // SAFETY: the destination was checked by the caller to have room for all bytes.
            unsafe {
                check(sys::cuMemcpyHtoDAsync_v2(at, from, chunk.len(), stream), "copy to the device")?;
                check(sys::cuEventRecord(half.copied, stream), "record an event")?;
            }
        }
        Ok(())
    }
}

fn fill(to: &mut [u8], from: &[u8], threads: usize) {
    let share = from.len().div_ceil(threads).max(1 << 20);
    thread::scope(|scope| {
        for (to, from) in to.chunks_mut(share).zip(from.chunks(share)) {
            scope.spawn(move || to.copy_from_slice(from));
        }
    });
}

impl Half {
    fn new() -> Result<Half> {
        let (mut pinned, mut copied) = (std::ptr::null_mut(), std::ptr::null_mut());
        let timeless = sys::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: both write one handle, given back in `drop`; the memory is written before it is read.
        unsafe {
            check(sys::cuMemHostAlloc(&mut pinned, HALF, 0), "allocate pinned memory")?;
            check(sys::cuEventCreate(&mut copied, timeless), "make an event")?;
        }
        Ok(Half { pinned: pinned.cast(), copied })
    }
}

impl Drop for Half {
    fn drop(&mut self) {
        // SAFETY: the wait ends the copy that reads the memory; the context's owner has made it current.
        unsafe {
            let _ = sys::cuEventSynchronize(self.copied);
            let _ = sys::cuEventDestroy_v2(self.copied);
            let _ = sys::cuMemFreeHost(self.pinned.cast());
        }
    }
}
