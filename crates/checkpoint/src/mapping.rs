//! A file mapped read-only. The crate's only unsafe code.
#![allow(unsafe_code)]
use crate::{Error, Result};
use memmap2::{Mmap, UncheckedAdvice};
use std::{fs::File, ops::Range, path::Path};

/// The bytes of a file. A file that another process cuts short while it is mapped ends this process with
/// SIGBUS; the writer therefore never changes a file in place, it replaces names.
pub(crate) struct Mapping {
    map: Mmap,
}

impl Mapping {
    /// Maps the whole of `file`; `path` is for messages.
    pub(crate) fn open(file: &File, path: &Path) -> Result<Mapping> {
        // SAFETY: the mapping is read-only and shared; nothing of ours writes a model file in place. Bytes that
        // another process changes can only give other numbers: no reference typed beyond u8 is made from them.
        let map = unsafe { Mmap::map(file) }.map_err(Error::io(path, "map"))?;
        Ok(Mapping { map })
    }

    /// Tells the kernel that this process will not need `range` soon, so that it leaves the resident set.
    /// Bytes read later come from the file again. Out-of-range requests do nothing.
    pub(crate) fn release(&self, range: Range<usize>) {
        if range.start >= range.end || range.end > self.map.len() {
            return;
        }
        // SAFETY: the range lies in the mapping. On a shared file mapping DONTNEED loses nothing: later reads
        // fault the same bytes in from the file. Failure is harmless, since this is only advice.
        let _ = unsafe { self.map.unchecked_advise_range(UncheckedAdvice::DontNeed, range.start, range.len()) };
    }
}

impl AsRef<[u8]> for Mapping {
    fn as_ref(&self) -> &[u8] {
        &self.map
    }
}
