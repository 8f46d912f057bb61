//! The one place that names the back ends and opens them.
#![forbid(unsafe_code)]

use planish_cpu::{Cpu, Isa, Null};
use planish_tensor::Backend;

/// Work that runs on whichever back end was asked for.
pub trait Work {
    /// What the work gives back.
    type Output;
    /// Does it.
    fn run<B: Backend>(self, backend: B) -> Self::Output;
}

/// What `--device` may say.
pub const DEVICE_HELP: &str = "auto, cpu or null";

/// A device by name could not be opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("--device: expected {DEVICE_HELP}, found {0}")]
pub struct UnknownDevice(pub String);

/// Opens `auto`, `cpu` or `null` and runs `work` on it; `threads` bounds a CPU's threads (default: all cores).
pub fn with_device<W: Work>(device: &str, threads: Option<usize>, work: W) -> Result<W::Output, UnknownDevice> {
    match device {
        "auto" | "cpu" => Ok(work.run(Cpu::new(threads.unwrap_or_else(cores), Isa::best()))),
        "null" => Ok(work.run(Null)),
        other => Err(UnknownDevice(other.into())),
    }
}

/// Cores that this process may use.
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// A device of this machine and what it runs, for `planish check-env`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// As `--device` takes it.
    pub name: String,
    /// What it is.
    pub description: String,
    /// Bytes free and in all.
    pub memory: (u64, u64),
    /// Kernels of the INT8 products.
    pub int8: String,
    /// Kernels of the FP8 products.
    pub fp8: String,
}

/// Every device of this machine.
pub fn devices() -> Vec<Device> {
    let memory = planish_cpu::host_memory();
    let isa = Isa::best();
    vec![Device {
        name: "cpu".into(),
        description: format!("{} cores, {}", cores(), isa.name()),
        memory: (memory.free, memory.total),
        int8: isa.name().into(),
        fp8: format!("{}, decoded exactly to f32", float_kernels(isa).name()),
    }]
}

/// The family whose kernels multiply floats: AMX has tiles for INT8 alone.
fn float_kernels(isa: Isa) -> Isa {
    if isa == Isa::Amx { Isa::Avx512 } else { isa }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amx_multiplies_no_floats() {
        assert_eq!(float_kernels(Isa::Amx), Isa::Avx512);
        assert_eq!(float_kernels(Isa::Avx2), Isa::Avx2);
    }

    struct Name;
    impl Work for Name {
        type Output = String;
        fn run<B: Backend>(self, backend: B) -> String {
            backend.describe()
        }
    }

    #[test]
    fn opens_by_name() {
        assert!(with_device("cpu", Some(1), Name).unwrap().contains("cpu"));
        assert!(with_device("null", None, Name).unwrap().contains("null"));
        let error = with_device("gpu", None, Name).unwrap_err().to_string();
        assert_eq!(error, "--device: expected auto, cpu or null, found gpu");
    }
}
