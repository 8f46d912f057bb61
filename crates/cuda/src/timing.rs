//! How long queued work takes on the device, for benches and for the figures that commands print.
use crate::Cuda;
use crate::driver::check;
use cudarc::driver::sys;
use planish_tensor::{Result, Tensor};
use std::ffi::c_void;

/// A point in the stream of work.
struct Event(sys::CUevent);

impl Event {
    fn new() -> Result<Event> {
        let mut event = std::ptr::null_mut();
        // SAFETY: writes one handle, given back in `drop`.
        check(unsafe { sys::cuEventCreate(&mut event, 0) }, "make an event")?;
        Ok(Event(event))
    }
}

impl Drop for Event {
    fn drop(&mut self) {
        // SAFETY: made in `new`.
        let _ = unsafe { sys::cuEventDestroy_v2(self.0) };
    }
}

impl Cuda {
    /// Microseconds between the first and the last of what `work` queues, on the device.
    pub fn time(&self, work: &mut dyn FnMut() -> Result<()>) -> Result<f64> {
        self.context.enter()?;
        let (start, end) = (Event::new()?, Event::new()?);
        let mut milliseconds = 0.0f32;
        // SAFETY: the events and the stream live through the calls; one number is written.
        unsafe {
            check(sys::cuEventRecord(start.0, self.context.stream), "record an event")?;
            work()?;
            check(sys::cuEventRecord(end.0, self.context.stream), "record an event")?;
            check(sys::cuEventSynchronize(end.0), "wait for an event")?;
            check(sys::cuEventElapsedTime_v2(&mut milliseconds, start.0, end.0), "read the time between events")?;
        }
        Ok(f64::from(milliseconds) * 1e3)
    }

    /// The stream that operations are queued on (a `CUstream`), for other libraries' work beside ours.
    pub fn stream(&self) -> *mut c_void {
        self.context.stream.cast()
    }

    /// Where a tensor lies on the device.
    pub fn address(&self, x: &Tensor<Cuda>) -> u64 {
        x.buf.address()
    }
}
