//! Work space that kernels share: zeroed once, grown when needed, and never freed while the device is open, because
//! recorded steps keep its address.
use crate::buffer::Buffer;
use crate::driver::{Context, check};
use cudarc::driver::sys;
use planish_tensor::Result;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

/// Buffers by purpose; the last of each is the one in use.
#[derive(Default)]
pub(crate) struct Scratch {
    buffers: Mutex<HashMap<&'static str, Vec<Buffer>>>,
}

impl Scratch {
    /// At least `bytes` for a purpose, zeroed when it was made; kernels that want zeros leave zeros.
    pub(crate) fn lease(&self, context: &Arc<Context>, purpose: &'static str, bytes: usize) -> Result<u64> {
        let mut buffers = self.buffers.lock().unwrap_or_else(PoisonError::into_inner);
        let of_purpose = buffers.entry(purpose).or_default();
        if let Some(buffer) = of_purpose.last().filter(|b| b.len() >= bytes) {
            return Ok(buffer.address());
        }
        let bytes = bytes.next_power_of_two();
        let buffer = Buffer::uninitialized(context, bytes, purpose)?;
        // Not on our stream, which may be recording: the zeros are for now, not for each replay.
        // SAFETY: the whole of a new buffer; the wait makes the zeros visible to our stream.
        unsafe {
            check(sys::cuMemsetD8_v2(buffer.address(), 0, bytes), "zero work space")?;
            check(sys::cuStreamSynchronize(std::ptr::null_mut()), "zero work space")?;
        }
        let address = buffer.address();
        of_purpose.push(buffer);
        Ok(address)
    }
}
