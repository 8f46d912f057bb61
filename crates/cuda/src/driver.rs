//! The driver: what it says of its devices, and a context on one of them. Every call to the driver's library is in
//! this crate, and only after [`present`]: the library is looked for when first used, and missing it would panic.
use crate::staging::{LARGE, Staging};
use cudarc::driver::sys;
use planish_tensor::{Error, Memory, Result};
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::{Mutex, OnceLock, PoisonError};

/// The oldest driver whose loader takes our fatbins: CUDA 13.0, driver 580.
const NEEDED_VERSION: i32 = 13000;

/// An architecture: 10 times the compute capability, 90 for Hopper.
pub type Arch = u32;

/// Fails with what the driver says, naming what was tried.
pub(crate) fn check(result: sys::CUresult, what: &str) -> Result<()> {
    if result == sys::CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut text: *const c_char = std::ptr::null();
    // SAFETY: the driver writes a pointer to a string that lives as long as the process, or null.
    let known = unsafe { sys::cuGetErrorString(result, &mut text) };
    let message = match known == sys::CUresult::CUDA_SUCCESS && !text.is_null() {
        // SAFETY: see above.
        true => unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned(),
        false => format!("error {}", result as i32),
    };
    Err(Error::Device(format!("CUDA: {what}: {message}")))
}

/// Whether this machine has a driver, started and new enough; if not, why.
pub fn present() -> Result<()> {
    static PRESENT: OnceLock<Result<()>> = OnceLock::new();
    PRESENT.get_or_init(start).clone()
}

/// The newest CUDA that this machine's driver runs, as `13.0`; none without a driver.
pub fn version() -> Option<String> {
    // SAFETY: only looks whether the library can be opened.
    if !unsafe { sys::is_culib_present() } {
        return None;
    }
    let mut version: c_int = 0;
    // SAFETY: writes one integer, and needs no context.
    let asked = unsafe { sys::cuDriverGetVersion(&mut version) };
    (asked == sys::CUresult::CUDA_SUCCESS && version > 0).then(|| numbered(version))
}

fn numbered(version: c_int) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

fn start() -> Result<()> {
    // SAFETY: only looks whether the library can be opened.
    if !unsafe { sys::is_culib_present() } {
        return Err(Error::unsupported("no NVIDIA driver on this machine (libcuda.so.1 is not there)"));
    }
    let mut version: c_int = 0;
    // SAFETY: both write at most one integer and need no context.
    unsafe {
        check(sys::cuInit(0), "start the driver")?;
        check(sys::cuDriverGetVersion(&mut version), "ask the driver's version")?;
    }
    if version < NEEDED_VERSION {
        let found = numbered(version);
        return Err(Error::unsupported(format!(
            "the NVIDIA driver runs CUDA {found}; CUDA 13.0 (driver 580) or newer is needed"
        )));
    }
    if crate::modules::is_empty() {
        return Err(Error::unsupported(
            "this build has no GPU kernels (it was compiled without nvcc 13.0, see docs/gpu.md)",
        ));
    }
    Ok(())
}

/// What the driver says of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceInfo {
    /// Its number, as in `cuda:0`.
    pub ordinal: usize,
    /// Product name.
    pub name: String,
    /// Architecture.
    pub arch: Arch,
    /// Multiprocessors.
    pub sm_count: u32,
    /// Shared memory that a block may ask for, in bytes.
    pub shared_bytes: u32,
    /// Second-level cache, in bytes.
    pub l2_bytes: u64,
    /// Memory in bytes.
    pub total: u64,
}

/// Number of devices.
pub fn count() -> Result<usize> {
    present()?;
    let mut n: c_int = 0;
    // SAFETY: writes one integer.
    check(unsafe { sys::cuDeviceGetCount(&mut n) }, "count the devices")?;
    Ok(n as usize)
}

fn device(ordinal: usize) -> Result<sys::CUdevice> {
    let found = count()?;
    if ordinal >= found {
        return Err(Error::unsupported(format!("cuda:{ordinal}: this machine has {found} CUDA devices, from cuda:0")));
    }
    let mut device = 0;
    // SAFETY: writes one handle; the ordinal exists.
    check(unsafe { sys::cuDeviceGet(&mut device, ordinal as c_int) }, "open the device")?;
    Ok(device)
}

/// Reads what the driver says of device `ordinal`.
pub fn info(ordinal: usize) -> Result<DeviceInfo> {
    use sys::CUdevice_attribute_enum as Attribute;
    let device = device(ordinal)?;
    let ask = |attribute| {
        let mut value: c_int = 0;
        // SAFETY: writes one integer.
        check(unsafe { sys::cuDeviceGetAttribute(&mut value, attribute, device) }, "ask about the device")?;
        Ok::<u32, Error>(value as u32)
    };
    let mut name = [0 as c_char; 128];
    let mut total = 0;
    // SAFETY: the name's length is passed, and ends with a zero; the size is one number.
    unsafe {
        check(sys::cuDeviceGetName(name.as_mut_ptr(), name.len() as c_int, device), "ask the device's name")?;
        check(sys::cuDeviceTotalMem_v2(&mut total, device), "ask the device's memory")?;
    }
    // SAFETY: the driver wrote a string that ends with a zero.
    let name = unsafe { CStr::from_ptr(name.as_ptr()) }.to_string_lossy().into_owned();
    let major = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR)?;
    let minor = ask(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR)?;
    Ok(DeviceInfo {
        ordinal,
        name,
        arch: 10 * major + minor,
        sm_count: ask(Attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)?,
        shared_bytes: ask(Attribute::CU_DEVICE_ATTRIBUTE_MAX_SHARED_MEMORY_PER_BLOCK_OPTIN)?,
        l2_bytes: u64::from(ask(Attribute::CU_DEVICE_ATTRIBUTE_L2_CACHE_SIZE)?),
        total: total as u64,
    })
}

/// The primary context of a device, the one stream that all our work is queued on, and one for copies beside it.
pub(crate) struct Context {
    device: sys::CUdevice,
    context: sys::CUcontext,
    pub(crate) stream: sys::CUstream,
    /// What is copied to new memory.
    fills: sys::CUstream,
    /// The end of the last of those copies.
    filled: sys::CUevent,
    staging: Mutex<Option<Staging>>,
}

// SAFETY: the driver's handles may be used from any thread; every use makes the context current there first.
unsafe impl Send for Context {}
// SAFETY: as above; the driver's calls lock what they share.
unsafe impl Sync for Context {}

impl Context {
    pub(crate) fn new(ordinal: usize) -> Result<Context> {
        let device = device(ordinal)?;
        let mut context = std::ptr::null_mut();
        // SAFETY: the handle is given back in `drop`.
        check(unsafe { sys::cuDevicePrimaryCtxRetain(&mut context, device) }, "make a context")?;
        let (stream, fills, filled) = (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
        let mut made = Context { device, context, stream, fills, filled, staging: Mutex::new(None) };
        made.enter()?;
        let flags = sys::CUstream_flags_enum::CU_STREAM_NON_BLOCKING as u32;
        let timeless = sys::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: each writes one handle, destroyed in `drop`.
        unsafe {
            check(sys::cuStreamCreate(&mut made.stream, flags), "make a stream")?;
            check(sys::cuStreamCreate(&mut made.fills, flags), "make a stream")?;
            check(sys::cuEventCreate(&mut made.filled, timeless), "make an event")?;
        }
        Ok(made)
    }

    /// Makes the context current on this thread, as every call that follows needs.
    pub(crate) fn enter(&self) -> Result<()> {
        // SAFETY: the context lives as long as `self`.
        check(unsafe { sys::cuCtxSetCurrent(self.context) }, "enter the context")
    }

    /// The driver's handle.
    pub(crate) fn raw(&self) -> sys::CUcontext {
        self.context
    }

    pub(crate) fn sync(&self) -> Result<()> {
        self.enter()?;
        // SAFETY: the stream lives as long as `self`.
        check(unsafe { sys::cuStreamSynchronize(self.stream) }, "wait for the device")
    }

    /// Queues a copy to `to`, which has room for it, after all queued work. The source may be changed when this returns.
    pub(crate) fn copy(&self, to: sys::CUdeviceptr, bytes: &[u8]) -> Result<()> {
        self.copy_by(self.stream, to, bytes)
    }

    /// The same to new memory, which nothing queued uses: beside what is queued, and before all that is queued later.
    pub(crate) fn fill(&self, to: sys::CUdeviceptr, bytes: &[u8]) -> Result<()> {
        self.copy_by(self.fills, to, bytes)?;
        // SAFETY: all handles live as long as `self`. Another thread's copies may be waited for too.
        unsafe {
            check(sys::cuEventRecord(self.filled, self.fills), "record an event")?;
            check(sys::cuStreamWaitEvent(self.stream, self.filled, 0), "wait for a copy")
        }
    }

    fn copy_by(&self, stream: sys::CUstream, to: sys::CUdeviceptr, bytes: &[u8]) -> Result<()> {
        self.enter()?;
        if bytes.len() >= LARGE {
            let mut staging = self.staging.lock().unwrap_or_else(PoisonError::into_inner);
            if staging.is_none() {
                *staging = Some(Staging::new()?);
            }
            if let Some(staging) = staging.as_mut() {
                return staging.copy(to, bytes, stream);
            }
        }
        let from = bytes.as_ptr().cast::<c_void>();
        // SAFETY: the caller has checked the destination, and the wait ends the reading.
        unsafe {
            check(sys::cuMemcpyHtoDAsync_v2(to, from, bytes.len(), stream), "copy to the device")?;
            check(sys::cuStreamSynchronize(stream), "wait for the device")
        }
    }

    pub(crate) fn memory(&self) -> Result<Memory> {
        self.enter()?;
        let (mut free, mut total) = (0, 0);
        // SAFETY: writes two numbers.
        check(unsafe { sys::cuMemGetInfo_v2(&mut free, &mut total) }, "ask for free memory")?;
        Ok(Memory { free: free as u64, total: total as u64 })
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: nothing uses the streams any more: buffers and modules hold the context by reference count.
        unsafe {
            let _ = sys::cuCtxSetCurrent(self.context);
            drop(self.staging.get_mut().unwrap_or_else(PoisonError::into_inner).take());
            for stream in [self.fills, self.stream].into_iter().filter(|stream| !stream.is_null()) {
                let _ = sys::cuStreamSynchronize(stream);
                let _ = sys::cuStreamDestroy_v2(stream);
            }
            if !self.filled.is_null() {
                let _ = sys::cuEventDestroy_v2(self.filled);
            }
            let _ = sys::cuDevicePrimaryCtxRelease_v2(self.device);
        }
    }
}
