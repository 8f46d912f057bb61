//! What an engine knows of a device: how it does well there, its memory, and steps that can be run again.
use crate::Result;

/// How an engine does well on a device, unless it is told otherwise.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preferences {
    /// Tokens in a page of the KV cache.
    pub page_size: usize,
    /// Tokens in a page where many short texts share beginnings, which they do in whole pages.
    pub fine_page_size: usize,
    /// Tokens in one step.
    pub step_tokens: usize,
    /// Most tokens in one step where all requests are there from the start, and nobody waits for single tokens.
    pub offline_step_tokens: usize,
    /// Sequences running at once.
    pub max_batch: usize,
    /// Part of the memory that is free beside weights and buffers for keys and values.
    pub kv_share: f64,
    /// Prepare a step while the one before runs.
    pub overlap: bool,
    /// Choose tokens on the device, see [`crate::Backend::sample`].
    pub sample: bool,
    /// Begin a step before the host knows the tokens of the one before, see [`crate::Backend::choose_ahead`].
    pub run_ahead: bool,
}

impl Preferences {
    /// Of a CPU, which shares its memory with everything else. Its thread pool wants every core, and preparing a step
    /// takes less time than waking a second thread saves.
    pub const CPU: Preferences = Preferences {
        page_size: 16,
        fine_page_size: 1,
        step_tokens: 512,
        offline_step_tokens: 512,
        max_batch: 64,
        kv_share: 0.4,
        overlap: false,
        sample: true,
        run_ahead: false,
    };
}

/// Bytes on a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Bytes not in use.
    pub free: u64,
    /// All bytes.
    pub total: u64,
}

/// See [`crate::Backend::recording_key`].
pub type RecordingKey = [u64; 5];

/// Queued operations that can be run again at little cost.
pub trait Recording: Send {
    /// Queues them once more.
    fn replay(&self) -> Result<()>;
}

/// See [`crate::Backend::vendor_product`].
pub struct VendorProduct<'a> {
    /// The library, and what it makes of what.
    pub name: &'static str,
    /// Queues the product with the weight of this number.
    pub queue: Box<dyn FnMut(usize) -> Result<()> + 'a>,
}
