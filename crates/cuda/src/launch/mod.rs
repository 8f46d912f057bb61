//! Queueing kernels: one file for each operation of the trait, named as it and its `.cu` are.
pub(crate) mod activate;
pub(crate) mod attention;
pub(crate) mod gated;
pub(crate) mod gemm_float;
pub(crate) mod gemm_hopper;
pub(crate) mod gemm_w8a8;
mod gptq;
pub(crate) mod grids;
pub(crate) mod layer_norm;
pub(crate) mod logits;
pub(crate) mod observe;
pub(crate) mod quantize_rows;
pub(crate) mod rms_norm;
pub(crate) mod rope_store_kv;
pub(crate) mod rows;
pub(crate) mod sample;
mod tensor_map;

use crate::Cuda;
use crate::driver::check;
use crate::modules::Kernel;
use cudarc::driver::sys;
use planish_tensor::{Backend, Error, Result, Tensor};
use std::ffi::c_void;

/// One argument of a kernel.
#[derive(Clone, Copy)]
pub(crate) enum Param<'a> {
    /// A device address, or 0 for an operand that is not there.
    Ptr(u64),
    /// `int`.
    I32(i32),
    /// `float`.
    F32(f32),
    /// `double`.
    F64(f64),
    /// A tensor map, passed by value.
    Map(&'a sys::CUtensorMap),
}

impl From<u64> for Param<'_> {
    fn from(address: u64) -> Self {
        Param::Ptr(address)
    }
}

impl From<f32> for Param<'_> {
    fn from(value: f32) -> Self {
        Param::F32(value)
    }
}

impl From<f64> for Param<'_> {
    fn from(value: f64) -> Self {
        Param::F64(value)
    }
}

impl From<i32> for Param<'_> {
    fn from(value: i32) -> Self {
        Param::I32(value)
    }
}

/// A count as the kernels take it; sizes are checked against `i32` where tensors are made.
impl From<usize> for Param<'_> {
    fn from(value: usize) -> Self {
        debug_assert!(i32::try_from(value).is_ok());
        Param::I32(value as i32)
    }
}

impl<'a> From<&'a sys::CUtensorMap> for Param<'a> {
    fn from(map: &'a sys::CUtensorMap) -> Self {
        Param::Map(map)
    }
}

impl Param<'_> {
    fn address(&self) -> *mut c_void {
        match self {
            Param::Ptr(p) => std::ptr::from_ref(p).cast_mut().cast(),
            Param::I32(i) => std::ptr::from_ref(i).cast_mut().cast(),
            Param::F32(f) => std::ptr::from_ref(f).cast_mut().cast(),
            Param::F64(f) => std::ptr::from_ref(f).cast_mut().cast(),
            Param::Map(m) => std::ptr::from_ref(*m).cast_mut().cast(),
        }
    }
}

/// Parameters of a kernel from values: `params![x, rows, 0.5f32]`.
macro_rules! params {
    ($($value:expr),* $(,)?) => { &[$($crate::launch::Param::from($value)),*] };
}
pub(crate) use params;

/// How a kernel is spread over the device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    /// Blocks in x, y, z. Nothing is launched if one is 0.
    pub blocks: [usize; 3],
    /// Threads of a block.
    pub threads: usize,
    /// Bytes of dynamic shared memory; the same for every launch of one kernel, or at most [`Grid::shared_limit`].
    pub shared: usize,
    /// The largest `shared` that this kernel is ever given.
    pub shared_limit: usize,
}

impl Grid {
    /// A row of blocks without dynamic shared memory.
    pub(crate) fn of(blocks: usize, threads: usize) -> Grid {
        Grid { blocks: [blocks, 1, 1], threads, shared: 0, shared_limit: 0 }
    }

    /// The same with dynamic shared memory.
    pub(crate) fn with_shared(self, bytes: usize, limit: usize) -> Grid {
        Grid { shared: bytes, shared_limit: limit, ..self }
    }
}

impl Cuda {
    /// Queues the kernel `name` of `kernels/<file>.cu`. It may start while the one before it finishes: kernels wait
    /// by themselves (`grid_wait` in `dependency.cuh`) before they read what was written.
    pub(crate) fn launch(&self, file: &'static str, name: &str, grid: Grid, params: &[Param<'_>]) -> Result<()> {
        if grid.blocks.contains(&0) {
            return Ok(());
        }
        let limits = [i32::MAX as usize, 65_535, 65_535];
        if grid.blocks.iter().zip(limits).any(|(&n, limit)| n > limit) {
            return Err(Error::shape(format!("{name}: a grid of {:?} blocks is too large", grid.blocks)));
        }
        let kernel = self.modules.kernel(file, name, grid.shared_limit.max(grid.shared) as u32)?;
        self.context.enter()?;
        self.queue(kernel, name, grid, params)
    }

    fn queue(&self, kernel: Kernel, name: &str, grid: Grid, params: &[Param<'_>]) -> Result<()> {
        let mut addresses: Vec<*mut c_void> = params.iter().map(Param::address).collect();
        let mut overlap = sys::CUlaunchAttribute {
            id: sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION,
            pad: [0; 4],
            value: sys::CUlaunchAttributeValue { programmaticStreamSerializationAllowed: 1 },
        };
        let config = sys::CUlaunchConfig {
            gridDimX: grid.blocks[0] as u32,
            gridDimY: grid.blocks[1] as u32,
            gridDimZ: grid.blocks[2] as u32,
            blockDimX: grid.threads as u32,
            blockDimY: 1,
            blockDimZ: 1,
            sharedMemBytes: grid.shared as u32,
            hStream: self.context.stream,
            attrs: &mut overlap,
            numAttrs: u32::from(self.overlaps()),
        };
        // SAFETY: the parameters' addresses are valid for the call, which copies them; their number and types are the
        // kernel's own, as each launch file states beside its `.cu`.
        let result =
            unsafe { sys::cuLaunchKernelEx(&config, kernel.function, addresses.as_mut_ptr(), std::ptr::null_mut()) };
        check(result, &format!("launch {name}"))
    }
}

/// Where a tensor's first row is on the device.
pub(crate) fn address<B: Backend<Buf = crate::Buffer>>(tensor: &Tensor<B>) -> u64 {
    tensor.buf.address()
}
