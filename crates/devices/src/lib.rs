//! The one place that names the back ends and opens them.
#![forbid(unsafe_code)]

mod place;

use planish_cpu::{Cpu, Isa, Null};
use planish_cuda::{Cuda, DeviceInfo, Options};
use planish_tensor::{Backend, Memory, Q8};

pub use place::Place;
pub use planish_cpu::buffer::give_back_unused;

/// Work that runs on whichever back end was asked for.
pub trait Work {
    /// What the work gives back.
    type Output;
    /// Does it.
    fn run<B: Backend>(self, backend: B) -> Self::Output;
}

/// What `--device` may say.
pub const DEVICE_HELP: &str = "auto, cpu, cuda, cuda:N or null";

/// Why a device could not be opened.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Error {
    /// No such name.
    #[error("--device: expected {DEVICE_HELP}, found {0}")]
    Unknown(String),
    /// A model is not spread over several devices.
    #[error(
        "--device {0}: expected one device, found {1}: a model runs on one GPU; name one of them, such as cuda:{2}"
    )]
    Several(String, usize, usize),
    /// There is no such device, or it cannot be used.
    #[error("--device {0}: {1}")]
    Unusable(String, planish_tensor::Error),
}

/// How a device is opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Opening {
    /// Bounds a CPU's threads (default: all cores).
    pub threads: Option<usize>,
    /// A token's result may not depend on its batch, in FP8 on a GPU either. All else keeps this promise anyhow.
    pub batch_invariant: bool,
}

/// Opens a device by name and runs `work` on it. `auto` is the first GPU, or the CPU if there is none that can be used.
/// `cuda:0@80` uses the kernels that an older GPU (here sm_80) would use.
pub fn with_device<W: Work>(device: &str, opening: Opening, work: W) -> Result<W::Output, Error> {
    let cpu = |work: W| work.run(Cpu::new(opening.threads.unwrap_or_else(cores), Isa::best()));
    let batch_invariant = opening.batch_invariant;
    match device.parse()? {
        Place::Auto => match Cuda::open(Options { batch_invariant, ..Options::default() }) {
            Ok(cuda) => Ok(work.run(cuda)),
            Err(_) => Ok(cpu(work)),
        },
        Place::Cpu => Ok(cpu(work)),
        Place::Null => Ok(work.run(Null)),
        Place::Cuda { ordinals, kernels_of } => match ordinals[..] {
            [ordinal] => {
                let cuda = Cuda::open(Options { ordinal, kernels_of, batch_invariant });
                Ok(work.run(cuda.map_err(|e| Error::Unusable(device.into(), e))?))
            }
            _ => Err(Error::Several(device.into(), ordinals.len(), ordinals[0])),
        },
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
    /// Compute capability of a GPU, such as `9.0`.
    pub capability: Option<String>,
    /// Bytes free and in all.
    pub memory: (u64, u64),
    /// Kernels of the INT8 products.
    pub int8: String,
    /// Kernels of the FP8 products.
    pub fp8: String,
}

/// Every device of this machine, and why there is no GPU among them, if so.
pub fn devices() -> (Vec<Device>, Option<String>) {
    let memory = planish_cpu::host_memory();
    let isa = Isa::best();
    let mut found = vec![Device {
        name: "cpu".into(),
        description: format!("{} cores, {}", cores(), isa.name()),
        capability: None,
        memory: (memory.free, memory.total),
        int8: isa.name().into(),
        fp8: format!("{}, decoded exactly to f32", isa.of_floats().name()),
    }];
    match planish_cuda::count() {
        Ok(0) => (found, Some("the driver knows of none".into())),
        Ok(count) => {
            found.extend((0..count).map(|ordinal| gpu(ordinal).unwrap_or_else(|error| unusable(ordinal, &error))));
            (found, None)
        }
        Err(error) => (found, Some(error.to_string())),
    }
}

/// The newest CUDA that the NVIDIA driver of this machine runs, such as `13.0`; none without a driver.
pub fn cuda_version() -> Option<String> {
    planish_cuda::version()
}

/// A GPU that does not open: the others are none the worse for it.
fn unusable(ordinal: usize, error: &planish_tensor::Error) -> Device {
    Device {
        name: format!("cuda:{ordinal}"),
        description: format!("cannot be used: {error}"),
        capability: None,
        memory: (0, 0),
        int8: "no".into(),
        fp8: "no".into(),
    }
}

fn gpu(ordinal: usize) -> planish_tensor::Result<Device> {
    let info = planish_cuda::info(ordinal)?;
    let memory = Cuda::open(Options { ordinal, ..Options::default() })?.memory();
    Ok(listed(&info, memory))
}

fn listed(info: &DeviceInfo, memory: Memory) -> Device {
    Device {
        name: format!("cuda:{}", info.ordinal),
        description: format!("{}, sm_{}, {} multiprocessors", info.name, info.arch, info.sm_count),
        capability: Some(format!("{}.{}", info.arch / 10, info.arch % 10)),
        memory: (memory.free, memory.total),
        int8: planish_cuda::describe(Q8::Int8, info.arch),
        fp8: planish_cuda::describe(Q8::E4M3, info.arch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amx_and_i8mm_multiply_no_floats() {
        assert_eq!(Isa::Amx.of_floats(), Isa::Avx512);
        assert_eq!(Isa::NeonI8mm.of_floats(), Isa::Neon);
        assert_eq!(Isa::Avx2.of_floats(), Isa::Avx2);
    }

    #[test]
    fn a_gpu_that_does_not_open_is_listed_with_the_reason() {
        let device = unusable(1, &planish_tensor::Error::Device("fell off the bus".into()));
        assert_eq!((device.name.as_str(), device.int8.as_str(), device.memory), ("cuda:1", "no", (0, 0)));
        assert!(device.description.contains("fell off the bus"));
    }

    /// Every GPU as it is listed, from what a driver would say of it.
    #[test]
    fn gpus_are_listed_with_what_they_run_and_by_which_kernels() {
        let (no_int8, no_fp8) = ("use FP8 (--quant-dtype fp8)", "use INT8 (--quant-dtype int8)");
        for (arch, capability, int8, fp8) in [
            (70, "7.0", "dp4a", no_fp8),
            (75, "7.5", "mma m8n8k16", no_fp8),
            (80, "8.0", "mma m16n8k32", no_fp8),
            (86, "8.6", "mma m16n8k32", no_fp8),
            (89, "8.9", "mma m16n8k32", "mma m16n8k32"),
            (90, "9.0", "wgmma; mma m16n8k32 for up to 16 tokens", "wgmma; mma m16n8k32 for up to 16 tokens"),
            (100, "10.0", no_int8, "mma m16n8k32"),
            (120, "12.0", no_int8, "mma m16n8k32"),
        ] {
            let (name, total) = ("NVIDIA Test".to_owned(), 80 << 30);
            let info = DeviceInfo { ordinal: 2, name, arch, sm_count: 99, shared_bytes: 0, l2_bytes: 0, total };
            let device = listed(&info, Memory { free: 5, total });
            assert_eq!((&device.name[..], device.memory), ("cuda:2", (5, total)));
            assert_eq!(device.description, format!("NVIDIA Test, sm_{arch}, 99 multiprocessors"));
            assert_eq!(device.capability.as_deref(), Some(capability));
            for (said, expected) in [(&device.int8, int8), (&device.fp8, fp8)] {
                let refused = expected.starts_with("use ");
                assert_eq!(refused, said.starts_with("no: "), "sm_{arch}: {said}");
                assert!(if refused { said.contains(expected) } else { said == expected }, "sm_{arch}: {said}");
            }
        }
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
        assert!(with_device("cpu", Opening { threads: Some(1), ..Opening::default() }, Name).unwrap().contains("cpu"));
        assert!(with_device("null", Opening::default(), Name).unwrap().contains("null"));
        let error = with_device("gpu", Opening::default(), Name).unwrap_err().to_string();
        assert_eq!(error, "--device: expected auto, cpu, cuda, cuda:N or null, found gpu");
    }

    #[test]
    fn several_gpus_are_no_device_for_a_model() {
        for (name, count, first) in [("cuda:0,1", 2, 0), ("cuda:2-5", 4, 2)] {
            let error = with_device(name, Opening::default(), Name).unwrap_err().to_string();
            let begins = format!("--device {name}: expected one device, found {count}");
            assert!(error.starts_with(&begins) && error.ends_with(&format!("such as cuda:{first}")), "{error}");
        }
    }
}
