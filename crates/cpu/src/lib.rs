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
mod mixture;
pub mod null;
pub mod rope;
pub mod rowwise;
pub mod scalar;
mod simd;
pub mod threads;
mod vector;

use planish_tensor::Memory;

pub use fast::Cpu;
pub use isa::Isa;
pub use null::Null;
pub use scalar::Scalar;

/// Memory of this machine as the system counts it (0 where it does not say).
pub fn host_memory() -> Memory {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let field = |name: &str| {
        let line = text.lines().find(|l| l.starts_with(name))?;
        Some(line.split_whitespace().nth(1)?.parse::<u64>().ok()? * 1024)
    };
    Memory { free: field("MemAvailable:").unwrap_or(0), total: field("MemTotal:").unwrap_or(0) }
}
