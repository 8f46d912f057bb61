//! The CPU back ends: the scalar reference, the fast kernels, and one that runs nothing.

pub mod buffer;
pub mod exp;
pub mod isa;
pub mod threads;
