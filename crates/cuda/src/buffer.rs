//! Device memory that is freed when dropped, and copies to and from it.
use crate::driver::{Context, check};
use cudarc::driver::sys;
use planish_tensor::{Error, Result};
use std::ffi::c_void;
use std::sync::Arc;

/// Bytes on a device, aligned to 256.
pub struct Buffer {
    context: Arc<Context>,
    address: sys::CUdeviceptr,
    bytes: usize,
}

impl Buffer {
    /// Zeroed memory. Room for a few bytes is made even if none are asked for, so that the address is valid.
    pub(crate) fn zeroed(context: &Arc<Context>, bytes: usize, what: &str) -> Result<Buffer> {
        let buffer = Buffer::uninitialized(context, bytes, what)?;
        buffer.zero(0, bytes)?;
        Ok(buffer)
    }

    /// Memory with anything in it.
    pub(crate) fn uninitialized(context: &Arc<Context>, bytes: usize, what: &str) -> Result<Buffer> {
        context.enter()?;
        let mut address = 0;
        // SAFETY: writes one address, freed in `drop`.
        let result = unsafe { sys::cuMemAlloc_v2(&mut address, bytes.max(256)) };
        if result == sys::CUresult::CUDA_ERROR_OUT_OF_MEMORY {
            let available = context.memory().map_or(0, |m| m.free);
            return Err(Error::OutOfMemory { what: format!("{what} on the GPU"), needed: bytes as u64, available });
        }
        check(result, "allocate memory")?;
        Ok(Buffer { context: context.clone(), address, bytes })
    }

    /// A copy of `bytes`.
    pub(crate) fn of(context: &Arc<Context>, bytes: &[u8], what: &str) -> Result<Buffer> {
        let buffer = Buffer::uninitialized(context, bytes.len(), what)?;
        buffer.fill(0, bytes)?;
        Ok(buffer)
    }

    /// Where it starts on the device.
    pub(crate) fn address(&self) -> u64 {
        self.address
    }

    /// Its size.
    pub(crate) fn len(&self) -> usize {
        self.bytes
    }

    fn within(&self, at: usize, count: usize) -> Result<()> {
        match at.checked_add(count).is_some_and(|end| end <= self.bytes) {
            true => Ok(()),
            false => Err(Error::shape(format!("bytes {at} + {count} of a buffer of {}", self.bytes))),
        }
    }

    /// Overwrites bytes from `at`, after all queued work. The source may be changed when this returns.
    pub(crate) fn write(&self, at: usize, bytes: &[u8]) -> Result<()> {
        self.within(at, bytes.len())?;
        match bytes.is_empty() {
            true => Ok(()),
            false => self.context.copy(self.address + at as u64, bytes),
        }
    }

    /// Writes bytes of new memory from `at`, which nothing queued uses: queued work goes on meanwhile, later work sees them.
    /// The source may be changed when this returns.
    pub(crate) fn fill(&self, at: usize, bytes: &[u8]) -> Result<()> {
        self.within(at, bytes.len())?;
        match bytes.is_empty() {
            true => Ok(()),
            false => self.context.fill(self.address + at as u64, bytes),
        }
    }

    /// Reads bytes from `at`, after all queued work.
    pub(crate) fn read(&self, at: usize, bytes: &mut [u8]) -> Result<()> {
        let read = self.queue_read(at, bytes);
        self.context.sync().and(read)
    }

    /// Reads rows of `each` bytes, one after the other, after all queued work. Neighbours are copied together.
    pub(crate) fn read_rows(&self, each: usize, rows: &[u32], bytes: &mut [u8]) -> Result<()> {
        let mut rest = bytes;
        let mut read = Ok(());
        for stretch in rows.chunk_by(|a, b| a + 1 == *b) {
            let (these, others) = rest.split_at_mut(stretch.len() * each);
            read = read.and_then(|()| self.queue_read(stretch[0] as usize * each, these));
            rest = others;
        }
        self.context.sync().and(read)
    }

    /// Queues the reading of bytes from `at`; the caller waits before anyone else may have them.
    fn queue_read(&self, at: usize, bytes: &mut [u8]) -> Result<()> {
        self.within(at, bytes.len())?;
        self.context.enter()?;
        if bytes.is_empty() {
            return Ok(());
        }
        let (from, to) = (self.address + at as u64, bytes.as_mut_ptr().cast::<c_void>());
        // SAFETY: both ranges are checked, and the callers wait before `bytes` is given back.
        check(unsafe { sys::cuMemcpyDtoHAsync_v2(to, from, bytes.len(), self.context.stream) }, "copy from the device")
    }

    /// Queues zeroing of bytes from `at`.
    pub(crate) fn zero(&self, at: usize, count: usize) -> Result<()> {
        self.within(at, count)?;
        self.context.enter()?;
        if count == 0 {
            return Ok(());
        }
        // SAFETY: the range is checked.
        check(unsafe { sys::cuMemsetD8Async(self.address + at as u64, 0, count, self.context.stream) }, "zero memory")
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: freeing waits for the device's work, so nothing queued can read it afterwards.
        unsafe {
            let _ = sys::cuCtxSetCurrent(self.context.raw());
            let _ = sys::cuMemFree_v2(self.address);
        }
    }
}
