//! The CPU back ends: the scalar reference, the fast kernels, and one that runs nothing.

pub mod buffer;
pub mod exp;
pub mod gemm_w8a8;
pub mod isa;
pub mod rowwise;
mod simd;
pub mod threads;
