//! Host memory of the CPU back ends: cache-line aligned and owned, or shared with a mapped file.
use crate::host_memory;
use half::{bf16, f16};
use planish_tensor::{DType, Error, HostTensor, Result, host::decode_f32};
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;

/// Alignment of owned buffers: a cache line, and a 512-bit vector.
pub const ALIGN: usize = 64;

/// Owned, zeroed, aligned bytes.
pub struct Aligned {
    /// What the allocator gave.
    base: NonNull<u8>,
    /// The first aligned byte of it.
    ptr: NonNull<u8>,
    len: usize,
}

// SAFETY: `Aligned` owns its bytes exclusively, like a `Vec<u8>`.
unsafe impl Send for Aligned {}
// SAFETY: shared references only read.
unsafe impl Sync for Aligned {}

impl Aligned {
    /// `len` zero bytes, for sizes that are no user's choice: ends the process if there is no such memory.
    pub fn zeroed(len: usize) -> Self {
        Self::try_zeroed(len).unwrap_or_else(|| match Self::layout(len) {
            Some(layout) => handle_alloc_error(layout),
            None => panic!("a buffer of {len} bytes: expected fewer than an address can count"),
        })
    }

    /// `len` zero bytes, if there is such memory.
    pub fn try_zeroed(len: usize) -> Option<Self> {
        // SAFETY: the layout has a non-zero size.
        let base = NonNull::new(unsafe { alloc_zeroed(Self::layout(len)?) })?;
        // SAFETY: the layout has room for moving up by less than `ALIGN`.
        let ptr = unsafe { base.add(base.as_ptr().align_offset(ALIGN)) };
        ask_for_large_pages(ptr.as_ptr(), len);
        Some(Self { base, ptr, len })
    }

    /// `len` zero bytes for `what`, or an error that says how many are free.
    pub fn for_what(what: impl FnOnce() -> String, len: usize) -> Result<Self> {
        Self::try_zeroed(len).ok_or_else(|| Error::OutOfMemory {
            what: what(),
            needed: len as u64,
            available: host_memory().free,
        })
    }

    fn layout(len: usize) -> Option<Layout> {
        // Small alignment: then the system hands out pages that are zero already, and nobody writes zeros.
        // One line is for aligning; one spare line lets vector tails be loaded whole.
        Layout::from_size_align(len.checked_add(2 * ALIGN)?, 1).ok()
    }

    /// The bytes.
    pub fn bytes(&self) -> &[u8] {
        // SAFETY: `ptr` is valid for `len` initialised bytes for as long as `self` lives.
        unsafe { std::slice::from_raw_parts(self.ptr.as_ptr(), self.len) }
    }

    /// The bytes, writable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` makes the access exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.ptr.as_ptr(), self.len) }
    }
}

impl Drop for Aligned {
    fn drop(&mut self) {
        if let Some(layout) = Self::layout(self.len) {
            // SAFETY: allocated in `try_zeroed` with the same layout, which therefore is one.
            unsafe { dealloc(self.base.as_ptr(), layout) }
        }
    }
}

/// Asks the system to back a large buffer by large pages: fewer faults when it is filled, fewer address look-ups
/// when it is read. Only advice; nothing depends on the answer.
#[cfg(target_os = "linux")]
fn ask_for_large_pages(ptr: *mut u8, len: usize) {
    const LARGE: usize = 2 << 20;
    const MADV_HUGEPAGE: i32 = 14;
    unsafe extern "C" {
        fn madvise(addr: *mut core::ffi::c_void, length: usize, advice: i32) -> i32;
    }
    let skip = ptr.align_offset(LARGE);
    if len >= skip.saturating_add(2 * LARGE) {
        let whole = (len - skip) / LARGE * LARGE;
        // SAFETY: whole pages inside our own allocation; the advice does not change what they hold.
        unsafe { madvise(ptr.add(skip).cast(), whole, MADV_HUGEPAGE) };
    }
}

#[cfg(not(target_os = "linux"))]
fn ask_for_large_pages(_: *mut u8, _: usize) {}

/// Gives memory back to the system that the allocator holds though nobody uses it, as much is after a file of many small
/// parts was read. Where the allocator cannot be asked nothing happens.
pub fn give_back_unused() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> i32;
        }
        // SAFETY: glibc's; it may be called at any time and leaves all that is allocated alone.
        unsafe { malloc_trim(0) };
    }
}

/// Memory of a CPU tensor.
pub enum CpuBuf {
    /// Writable memory.
    Owned(Aligned),
    /// Read-only bytes of the checkpoint, not copied.
    Shared(HostTensor),
}

/// Element types that may be viewed in a buffer.
///
/// # Safety
/// Every bit pattern must be a valid value, and there must be no padding.
pub unsafe trait Element: Copy + Send + Sync + 'static {
    /// Whether tensors of this type hold such elements.
    fn holds(dtype: DType) -> bool;
}

macro_rules! element {
    ($($ty:ty => [$($dtype:pat),+],)*) => {$(
        // SAFETY: a plain number of fixed size.
        unsafe impl Element for $ty {
            fn holds(dtype: DType) -> bool {
                $(matches!(dtype, $dtype))||+
            }
        }
    )*};
}
element! {
    f32 => [DType::F32],
    bf16 => [DType::BF16],
    f16 => [DType::F16],
    i32 => [DType::I32],
    i8 => [DType::I8],
    u8 => [DType::U8 | DType::I8 | DType::F8E4M3 | DType::F8E5M2],
}

impl CpuBuf {
    /// All bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            CpuBuf::Owned(a) => a.bytes(),
            CpuBuf::Shared(h) => h.bytes(),
        }
    }

    /// All bytes, writable; shared memory is an error.
    pub fn bytes_mut(&mut self) -> Result<&mut [u8]> {
        match self {
            CpuBuf::Owned(a) => Ok(a.bytes_mut()),
            CpuBuf::Shared(h) => Err(Error::unsupported(format!("{h:?} is a read-only view of a file"))),
        }
    }

    /// The elements. The type must fit `dtype`, and the memory be aligned to it.
    pub fn view<T: Element>(&self, dtype: DType) -> Result<&[T]> {
        cast(self.bytes(), dtype)
    }

    /// The elements, writable.
    pub fn view_mut<T: Element>(&mut self, dtype: DType) -> Result<&mut [T]> {
        check::<T>(self.bytes(), dtype)?;
        let bytes = self.bytes_mut()?;
        // SAFETY: `check` proved alignment and length; `Element` allows every bit pattern; access is exclusive.
        Ok(unsafe { std::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), bytes.len() / size_of::<T>()) })
    }
}

/// Views bytes as elements, if the type fits and they are aligned.
pub fn cast<T: Element>(bytes: &[u8], dtype: DType) -> Result<&[T]> {
    check::<T>(bytes, dtype)?;
    // SAFETY: `check` proved alignment and length; `Element` allows every bit pattern.
    Ok(unsafe { std::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>()) })
}

fn check<T: Element>(bytes: &[u8], dtype: DType) -> Result<()> {
    if !T::holds(dtype) {
        return Err(Error::dtype(format!("expected {}, found {dtype}", std::any::type_name::<T>())));
    }
    if bytes.as_ptr().align_offset(align_of::<T>()) != 0 || !bytes.len().is_multiple_of(size_of::<T>()) {
        return Err(Error::dtype(format!("memory is not aligned for {dtype}")));
    }
    Ok(())
}

/// A host tensor as a CPU buffer: shared if its memory is aligned for its type, else copied.
pub fn share(host: &HostTensor) -> Result<CpuBuf> {
    if host.bytes().as_ptr().align_offset(host.dtype().size()) == 0 {
        return Ok(CpuBuf::Shared(host.clone()));
    }
    let mut owned = Aligned::for_what(|| format!("a copy of {host:?}"), host.bytes().len())?;
    owned.bytes_mut().copy_from_slice(host.bytes());
    Ok(CpuBuf::Owned(owned))
}

/// Any float tensor's elements as f32.
pub fn widen(buf: &CpuBuf, dtype: DType, elements: usize) -> Vec<f32> {
    decode_f32(dtype, &buf.bytes()[..elements * dtype.size()])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_check_type_and_sharing() {
        let mut buf = CpuBuf::Owned(Aligned::zeroed(16));
        buf.view_mut::<f32>(DType::F32).unwrap()[3] = 1.5;
        assert_eq!(buf.view::<f32>(DType::F32).unwrap(), [0.0, 0.0, 0.0, 1.5]);
        assert!(buf.view::<f32>(DType::BF16).is_err());
        let mut shared = share(&HostTensor::from_f32(vec![2], &[1.0, 2.0]).unwrap()).unwrap();
        assert!(shared.bytes_mut().is_err());
        assert_eq!(widen(&shared, DType::F32, 2), [1.0, 2.0]);
    }

    #[test]
    fn what_no_memory_holds_is_an_error() {
        // More than processors address; more than a pointer's difference; more than a pointer.
        for rows in [1 << 62, isize::MAX as usize, usize::MAX] {
            assert!(Aligned::try_zeroed(rows).is_none());
            let error = crate::access::alloc::<crate::Cpu>(DType::I8, rows, 1).err().unwrap();
            let Error::OutOfMemory { what, needed, available } = error else { panic!("{error}") };
            assert_eq!((what, needed), (format!("{} [{rows}, 1]", DType::I8), rows as u64));
            assert!(available < needed);
        }
        assert_eq!(Aligned::try_zeroed(3).unwrap().bytes(), [0; 3]);
    }
}
