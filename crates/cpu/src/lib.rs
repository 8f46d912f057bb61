//! The CPU back ends: the scalar reference, the fast kernels, and one that runs nothing.

pub mod attention;
pub mod buffer;
pub mod exp;
pub mod gemm_float;
pub mod gram;
pub mod isa;
pub mod rope;
pub mod threads;
mod vector;
