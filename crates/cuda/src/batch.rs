//! A step's arrays on the device: one block of u32, one copy. Blocks are used again by the next step, at the same
//! address, so that a recorded step can be replayed over new contents.
use crate::buffer::Buffer;
use crate::driver::{Context, check};
use cudarc::driver::sys;
use planish_tensor::{Batch, Result};
use std::ffi::c_void;
use std::sync::{Arc, Mutex, PoisonError};

/// Words before the arrays: `[t, s, rows, pages_per_seq, page_size, longest query, longest kv, 0]`, for kernels whose
/// launch must not depend on them.
const HEADER: usize = 8;
/// Smallest block: room for 256 sequences of 8,192 tokens in pages of 16, so that blocks are rarely replaced.
const SMALLEST: usize = 256 * 1024;

/// A step's arrays on the device. The order keeps addresses equal for equal `(t, s, rows)`.
pub struct DeviceBatch {
    block: Option<Block>,
    free: Arc<Mutex<Vec<Block>>>,
    /// New tokens.
    pub(crate) t: usize,
    /// Sequences.
    pub(crate) s: usize,
    /// Rows whose logits are wanted.
    pub(crate) rows: usize,
    /// Most new tokens of a sequence.
    pub(crate) longest_query: usize,
    /// Fewest new tokens of a sequence.
    pub(crate) shortest_query: usize,
    /// Most tokens that a sequence sees.
    pub(crate) longest_kv: usize,
}

/// Where each array starts, in words.
struct Layout {
    tokens: usize,
    positions: usize,
    slots: usize,
    query_starts: usize,
    kv_lens: usize,
    logit_rows: usize,
    page_tables: usize,
}

impl Layout {
    fn of(t: usize, s: usize, rows: usize) -> Layout {
        let tokens = HEADER;
        let (positions, slots) = (tokens + t, tokens + 2 * t);
        let query_starts = slots + t;
        let kv_lens = query_starts + s + 1;
        let logit_rows = kv_lens + s;
        Layout { tokens, positions, slots, query_starts, kv_lens, logit_rows, page_tables: logit_rows + rows }
    }
}

macro_rules! arrays {
    ($($(#[$doc:meta])* $name:ident),*) => {$(
        $(#[$doc])*
        pub(crate) fn $name(&self) -> u64 {
            self.word(Layout::of(self.t, self.s, self.rows).$name)
        }
    )*};
}

impl DeviceBatch {
    /// The header, see [`HEADER`].
    pub(crate) fn header(&self) -> u64 {
        self.word(0)
    }

    arrays!(
        /// `[t]`
        tokens,
        /// `[t]`
        positions,
        /// `[t]`
        slots,
        /// `[s + 1]`
        query_starts,
        /// `[s]`
        kv_lens,
        /// `[rows]`
        logit_rows,
        /// `[s, pages_per_seq]`; the row length is in the header.
        page_tables
    );

    fn word(&self, at: usize) -> u64 {
        self.block.as_ref().map_or(0, |b| b.device.address() + 4 * at as u64)
    }
}

impl Drop for DeviceBatch {
    fn drop(&mut self) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.extend(self.block.take());
    }
}

/// Device memory, the pinned host memory it is copied from, and the end of the last copy.
struct Block {
    context: Arc<Context>,
    device: Buffer,
    words: usize,
    pinned: *mut u32,
    copied: sys::CUevent,
}

// SAFETY: the pinned memory belongs to the block alone; handles may be used from any thread.
unsafe impl Send for Block {}
// SAFETY: nothing is written through a shared reference.
unsafe impl Sync for Block {}

impl Block {
    fn new(context: &Arc<Context>, words: usize) -> Result<Block> {
        let device = Buffer::uninitialized(context, 4 * words, "a step's arrays")?;
        let (mut pinned, mut copied) = (std::ptr::null_mut(), std::ptr::null_mut());
        let timeless = sys::CUevent_flags_enum::CU_EVENT_DISABLE_TIMING as u32;
        // SAFETY: both write one handle, given back in `drop`.
        unsafe {
            check(sys::cuMemHostAlloc(&mut pinned, 4 * words, 0), "allocate pinned memory")?;
            check(sys::cuEventCreate(&mut copied, timeless), "make an event")?;
        }
        Ok(Block { context: context.clone(), device, words, pinned: pinned.cast(), copied })
    }

    /// Queues the copy of `words`.
    fn write(&mut self, parts: &[&[u32]]) -> Result<()> {
        self.context.enter()?;
        let mut at = 0;
        // SAFETY: the wait ends the last copy's reading; `at` stays within `words`, which the caller has made fit.
        unsafe {
            check(sys::cuEventSynchronize(self.copied), "wait for a copy")?;
            for part in parts {
                assert!(at + part.len() <= self.words);
                std::ptr::copy_nonoverlapping(part.as_ptr(), self.pinned.add(at), part.len());
                at += part.len();
            }
            let (to, from) = (self.device.address(), self.pinned.cast::<c_void>());
            check(sys::cuMemcpyHtoDAsync_v2(to, from, 4 * at, self.context.stream), "copy a step's arrays")?;
            check(sys::cuEventRecord(self.copied, self.context.stream), "record an event")
        }
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: the wait ends the copy that reads the pinned memory; both handles were made in `new`.
        unsafe {
            let _ = sys::cuCtxSetCurrent(self.context.raw());
            let _ = sys::cuEventSynchronize(self.copied);
            let _ = sys::cuEventDestroy_v2(self.copied);
            let _ = sys::cuMemFreeHost(self.pinned.cast());
        }
    }
}

/// The blocks that no batch holds.
#[derive(Default)]
pub(crate) struct Blocks {
    free: Arc<Mutex<Vec<Block>>>,
}

impl Blocks {
    /// Queues the upload of a step's arrays.
    pub(crate) fn upload(&self, context: &Arc<Context>, batch: &Batch) -> Result<DeviceBatch> {
        let (t, s, rows) = (batch.t(), batch.sequences(), batch.logit_rows.len());
        let words = Layout::of(t, s, rows).page_tables + batch.page_tables.len();
        let queries = || batch.query_starts.windows(2).map(|w| (w[1] - w[0]) as usize);
        let [longest_query, shortest_query] = [queries().max(), queries().min()].map(|n| n.unwrap_or(0));
        let longest_kv = batch.kv_lens.iter().copied().max().unwrap_or(0) as usize;
        let numbers = [t, s, rows, batch.pages_per_seq, batch.page_size, longest_query, longest_kv, 0];
        let header = numbers.map(|n| n as u32);
        // Tokens may be missing where hidden states are given instead.
        let nothing = vec![0; t - batch.tokens.len().min(t)];
        let mut block = self.lease(context, words)?;
        let parts: [&[u32]; 9] = [
            &header,
            &batch.tokens[..t - nothing.len()],
            &nothing,
            &batch.positions,
            &batch.slots,
            &batch.query_starts,
            &batch.kv_lens,
            &batch.logit_rows,
            &batch.page_tables,
        ];
        block.write(&parts)?;
        let free = self.free.clone();
        Ok(DeviceBatch { block: Some(block), free, t, s, rows, longest_query, shortest_query, longest_kv })
    }

    /// The block that came back last, if it is large enough.
    fn lease(&self, context: &Arc<Context>, words: usize) -> Result<Block> {
        let last = self.free.lock().unwrap_or_else(PoisonError::into_inner).pop();
        match last {
            Some(block) if block.words >= words => Ok(block),
            _ => Block::new(context, words.next_power_of_two().max(SMALLEST)),
        }
    }
}
