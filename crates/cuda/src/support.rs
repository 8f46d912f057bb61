//! Which 8-bit products each architecture runs, and by which kernels: the one table behind `check-env`, the errors of
//! loading, and the choice of kernels.
use crate::choose::FEW_TOKENS;
use crate::driver::Arch;
use planish_tensor::{Error, Q8, Result};

/// A family of product kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Family {
    /// Four products of bytes at a time, in ordinary instructions.
    Dp4a,
    /// Turing's tensor cores: `mma` of 8 x 8 x 16.
    Mma75,
    /// Ampere's and later tensor cores: `mma` of 16 x 8 x 32.
    Mma80,
    /// Hopper's tensor cores: `wgmma` fed by the copy engine.
    Wgmma,
}

impl Family {
    /// For people.
    pub const fn name(self) -> &'static str {
        match self {
            Family::Dp4a => "dp4a",
            Family::Mma75 => "mma m8n8k16",
            Family::Mma80 => "mma m16n8k32",
            Family::Wgmma => "wgmma",
        }
    }
}

/// What a model needs and only the CPU does.
pub(crate) fn no_kernel(operation: &str) -> Error {
    Error::unsupported(format!("{operation}: expected a kernel for GPUs, found none; --device cpu runs this model"))
}

/// Fails on GPUs that nothing runs on: with those no device is opened.
pub(crate) fn is_new_enough(arch: Arch) -> Result<()> {
    match arch {
        ..=69 => Err(Error::unsupported(format!(
            "GPUs before Volta (sm_70) are not supported: use --device cpu (this GPU is sm_{arch})"
        ))),
        _ => Ok(()),
    }
}

/// Fails where a GPU of `device` does not load kernels of the architecture that it is asked to use: it has its own and those
/// of tensor cores from sm_80 on, and Hopper, on which all are tested, has all before it.
pub(crate) fn has_kernels_of(asked: Arch, device: Arch) -> Result<()> {
    is_new_enough(asked)?;
    match asked {
        _ if asked == device || asked < device && (device == 90 || (80..90).contains(&asked)) => Ok(()),
        _ => Err(Error::unsupported(format!("this GPU (sm_{device}) does not load the kernels of sm_{asked}"))),
    }
}

/// The kernels that multiply codes of this type, or an error that names the type which this architecture does run.
pub fn family(kind: Q8, arch: Arch) -> Result<Family> {
    let refuse = |why: &str| Err(Error::unsupported(format!("{why} (this GPU is sm_{arch})")));
    is_new_enough(arch)?;
    match (kind, arch) {
        (Q8::Int8, 100..) => refuse("GPUs after Hopper have no fast INT8 products: use FP8 (--quant-dtype fp8)"),
        (Q8::Int8, 90..) => Ok(Family::Wgmma),
        (Q8::Int8, 80..) => Ok(Family::Mma80),
        (Q8::Int8, 75..) => Ok(Family::Mma75),
        (Q8::Int8, _) => Ok(Family::Dp4a),
        (_, ..=88) => refuse("FP8 products need Ada (sm_89) or newer: use INT8 (--quant-dtype int8)"),
        (_, 90) => Ok(Family::Wgmma),
        (_, _) => Ok(Family::Mma80),
    }
}

/// What `check-env` says.
pub fn describe(kind: Q8, arch: Arch) -> String {
    match family(kind, arch) {
        Ok(Family::Wgmma) => {
            let (many, few) = (Family::Wgmma.name(), Family::Mma80.name());
            format!("{many}; {few} for up to {FEW_TOKENS} tokens")
        }
        Ok(family) => family.name().into(),
        Err(error) => format!("no: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_architecture_runs_what_its_tensor_cores_have() {
        let table = [
            (70, Some(Family::Dp4a), None),
            (75, Some(Family::Mma75), None),
            (80, Some(Family::Mma80), None),
            (86, Some(Family::Mma80), None),
            (89, Some(Family::Mma80), Some(Family::Mma80)),
            (90, Some(Family::Wgmma), Some(Family::Wgmma)),
            (100, None, Some(Family::Mma80)),
            (120, None, Some(Family::Mma80)),
        ];
        for (arch, int8, fp8) in table {
            assert_eq!(family(Q8::Int8, arch).ok(), int8, "sm_{arch}");
            assert_eq!(family(Q8::E4M3, arch).ok(), fp8, "sm_{arch}");
            assert_eq!(family(Q8::E5M2, arch).ok(), fp8, "sm_{arch}");
        }
    }

    #[test]
    fn forced_kernels_are_those_that_a_gpu_loads() {
        for (device, loads) in [
            (70, &[70][..]),
            (75, &[75]),
            (80, &[80]),
            (89, &[80, 86, 87, 89]),
            (90, &[70, 72, 75, 80, 86, 87, 89, 90]),
            (100, &[80, 86, 87, 89]),
            (120, &[80, 86, 87, 89]),
        ] {
            for asked in [61, 70, 72, 75, 80, 86, 87, 89, 90] {
                let expected = loads.contains(&asked);
                assert_eq!(has_kernels_of(asked, device).is_ok(), expected, "sm_{asked} on sm_{device}");
            }
            assert_eq!(has_kernels_of(device, device), Ok(()));
        }
    }

    #[test]
    fn errors_name_what_can_be_done() {
        assert_eq!(describe(Q8::Int8, 90), "wgmma; mma m16n8k32 for up to 16 tokens");
        assert_eq!(describe(Q8::E4M3, 89), "mma m16n8k32");
        assert!(describe(Q8::Int8, 100).contains("use FP8"));
        assert!(describe(Q8::E4M3, 80).contains("use INT8"));
        assert!(describe(Q8::Int8, 61).contains("--device cpu"));
        assert!(is_new_enough(61).is_err_and(|e| e.to_string().contains("--device cpu")));
        assert_eq!(is_new_enough(70), Ok(()));
    }
}
