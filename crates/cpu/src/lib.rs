//! The CPU back ends: the scalar reference, the fast kernels, and one that runs nothing.

pub mod access;
pub mod attention;
pub mod buffer;
pub mod exp;
pub mod fast;
pub mod gemm_float;
pub mod gemm_w8a8;
pub mod gram;
pub mod isa;
pub mod linear;
mod memory;
mod mixture;
pub mod null;
pub mod rope;
pub mod rowwise;
pub mod scalar;
mod simd;
pub mod threads;
mod vector;

pub use fast::Cpu;
pub use isa::Isa;
pub use memory::host_memory;
pub use null::Null;
pub use scalar::Scalar;
