//! A forward reader over the file's bytes that never reads past the end and never trusts a count.
use super::error::{GgufError, Result};

/// Position in the header of a file.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0 }
    }

    /// Bytes read so far.
    pub(super) fn position(&self) -> usize {
        self.at
    }

    pub(super) fn take(&mut self, n: usize, what: &str) -> Result<&'a [u8]> {
        let end = self.at.checked_add(n).filter(|&end| end <= self.bytes.len());
        let end = end.ok_or_else(|| self.truncated(n as u64, what))?;
        let taken = &self.bytes[self.at..end];
        self.at = end;
        Ok(taken)
    }

    pub(super) fn array<const N: usize>(&mut self, what: &str) -> Result<[u8; N]> {
        let taken = self.take(N, what)?;
        Ok(std::array::from_fn(|i| taken[i]))
    }

    pub(super) fn u32(&mut self, what: &str) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array(what)?))
    }

    pub(super) fn u64(&mut self, what: &str) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array(what)?))
    }

    /// Reads a count of things that take at least `min_bytes` each, and refuses one that cannot fit in what is left.
    pub(super) fn count(&mut self, min_bytes: usize, what: &str) -> Result<usize> {
        let count = self.u64(what)?;
        let needed = count.saturating_mul(min_bytes as u64);
        let left = (self.bytes.len() - self.at) as u64;
        if needed > left {
            return Err(self.truncated(needed, what));
        }
        usize::try_from(count).map_err(|_| GgufError::overflow(what))
    }

    /// Reads a string: a 64-bit length, then UTF-8.
    pub(super) fn string(&mut self, what: &str) -> Result<&'a str> {
        let len = self.count(1, what)?;
        let offset = self.at;
        let raw = self.take(len, what)?;
        std::str::from_utf8(raw).map_err(|e| {
            let found = format!("an invalid byte at offset {}", offset + e.valid_up_to());
            GgufError::malformed(what, "UTF-8 text", found)
        })
    }

    fn truncated(&self, needed: u64, what: &str) -> GgufError {
        let left = (self.bytes.len() - self.at) as u64;
        GgufError::Truncated { what: what.to_owned(), needed, offset: self.at as u64, left }
    }
}
