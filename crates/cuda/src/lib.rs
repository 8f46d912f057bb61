//! NVIDIA GPUs as a back end: kernels compiled ahead of time, embedded, and loaded through the driver.
//! Starts, and says politely why not, on machines without a GPU, a driver or a toolkit.

mod ahead;
mod backend;
mod batch;
mod buffer;
mod choose;
mod driver;
mod graph;
mod launch;
mod linear;
mod modules;
mod scratch;
mod staging;
mod support;
mod timing;
mod vendor;

pub use batch::DeviceBatch;
pub use buffer::Buffer;
pub use choose::hopper::{Choice, Tile};
pub use choose::{Device, Kernel, Operands, choose};
pub use driver::{Arch, DeviceInfo, count, info, present, version};
pub use linear::Linear;
pub use support::{Family, describe, family};

use ahead::Ahead;
use batch::Blocks;
use driver::Context;
use modules::Modules;
use planish_tensor::Result;
use scratch::Scratch;
use std::sync::{Arc, Mutex, PoisonError};

/// One GPU.
pub struct Cuda {
    // Dropped first: modules are unloaded while the context still stands.
    modules: Modules,
    blocks: Blocks,
    scratch: Scratch,
    /// Made when it is first needed.
    ahead: Mutex<Option<Ahead>>,
    context: Arc<Context>,
    info: DeviceInfo,
    arch: Arch,
    batch_invariant: bool,
}

/// How a device is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Its number.
    pub ordinal: usize,
    /// Use the kernels of this older architecture, to test them on a newer device.
    pub kernels_of: Option<Arch>,
    /// A token's sums do not depend on how many others there are, in FP8 either (those of INT8 never do).
    pub batch_invariant: bool,
}

impl Cuda {
    /// Opens a device; fails if this build has no kernels for it.
    pub fn open(options: Options) -> Result<Cuda> {
        let info = info(options.ordinal)?;
        support::is_new_enough(info.arch)?;
        modules::has_kernels(info.arch)?;
        options.kernels_of.map_or(Ok(()), |asked| support::has_kernels_of(asked, info.arch))?;
        let context = Arc::new(Context::new(options.ordinal)?);
        let arch = options.kernels_of.unwrap_or(info.arch);
        Ok(Cuda {
            modules: Modules::new(&context, info.arch),
            blocks: Blocks::default(),
            scratch: Scratch::default(),
            ahead: Mutex::default(),
            context,
            info,
            arch,
            batch_invariant: options.batch_invariant,
        })
    }

    /// What the driver says of the device.
    pub fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// The architecture whose kernels are used.
    pub fn arch(&self) -> Arch {
        self.arch
    }

    /// The chip, as kernels are chosen for it.
    fn chip(&self) -> Device {
        Device { arch: self.arch, sm_count: self.info.sm_count as usize }
    }

    /// Work space of at least `bytes`, zeroed when it was made; see [`scratch`].
    fn scratch(&self, purpose: &'static str, bytes: usize) -> Result<u64> {
        self.scratch.lease(&self.context, purpose, bytes)
    }

    /// Tokens chosen ahead.
    fn ahead<T>(&self, with: impl FnOnce(&mut Ahead) -> Result<T>) -> Result<T> {
        let mut ahead = self.ahead.lock().unwrap_or_else(PoisonError::into_inner);
        match &mut *ahead {
            Some(ahead) => with(ahead),
            none => with(none.insert(Ahead::new(&self.context)?)),
        }
    }

    /// Whether a kernel may start while the one before it finishes.
    fn overlaps(&self) -> bool {
        self.info.arch >= 90
    }
}
