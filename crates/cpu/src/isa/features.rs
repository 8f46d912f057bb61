//! What an x86-64 processor offers of the things that families of kernels ask for, and which family that makes the best.
use super::{Isa, amx};
use std::sync::OnceLock;

/// Answers, each `true` only if the system supports it as well.
#[derive(Clone, Copy, Default)]
pub(super) struct Features {
    /// AVX2 and FMA.
    pub avx2: bool,
    /// 256-bit VNNI.
    pub avx_vnni: bool,
    /// AVX-512 F/BW/DQ/VL with VNNI.
    pub avx512: bool,
    /// Byte permutations.
    pub vbmi: bool,
    /// bf16 dot products.
    pub bf16: bool,
    /// AMX tiles for INT8.
    pub amx: bool,
    /// The vendor is AMD.
    pub amd: bool,
}

impl Features {
    /// This machine's. They hold for the whole process and some cost a system call or a trap: they are kept, as the
    /// standard library keeps what it knows of the processor.
    pub fn here() -> Features {
        static HERE: OnceLock<Features> = OnceLock::new();
        *HERE.get_or_init(|| {
            let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
            let avx512 = avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
                && is_x86_feature_detected!("avx512vnni");
            Features {
                avx2,
                avx_vnni: is_x86_feature_detected!("avxvnni"),
                avx512,
                vbmi: is_x86_feature_detected!("avx512vbmi"),
                bf16: is_x86_feature_detected!("avx512bf16"),
                amx: avx512 && amx::usable(),
                amd: vendor() == AMD,
            }
        })
    }

    /// Whether a machine with these can run the family.
    pub fn run(self, isa: Isa) -> bool {
        match isa {
            Isa::Scalar => true,
            Isa::Neon | Isa::NeonI8mm => false,
            Isa::Avx2 => self.avx2,
            Isa::AvxVnni => self.avx2 && self.avx_vnni,
            Isa::Avx512 => self.avx2 && self.avx512,
            // Its attention looks codes up by permuting bytes.
            Isa::Avx512Bf16 => self.avx2 && self.avx512 && self.vbmi && self.bf16,
            Isa::Amx => self.avx2 && self.avx512 && self.amx,
        }
    }

    /// The best family: the last that runs, but for bf16 dot products on processors that take longer for them than for
    /// the f32 multiply-adds that they replace. Zen's do not; Intel's server cores, whether their AMX can be used or not,
    /// take twice as long.
    pub fn best(self) -> Isa {
        let worth = |isa: Isa| self.run(isa) && (isa != Isa::Avx512Bf16 || self.amd);
        Isa::ALL.into_iter().rfind(|&isa| worth(isa)).unwrap_or(Isa::Scalar)
    }
}

/// How AMD's processors name their vendor: twelve letters in EBX, EDX and ECX.
const AMD: [u32; 3] = [u32::from_le_bytes(*b"Auth"), u32::from_le_bytes(*b"enti"), u32::from_le_bytes(*b"cAMD")];

#[allow(unused_unsafe)] // newer compilers call this function safe
fn vendor() -> [u32; 3] {
    // SAFETY: every x86-64 processor has CPUID and its leaf 0.
    let leaf = unsafe { std::arch::x86_64::__cpuid(0) };
    [leaf.ebx, leaf.edx, leaf.ecx]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processors_get_the_family_that_suits_them() {
        let none = Features::default();
        let haswell = Features { avx2: true, ..none };
        let cascade_lake = Features { avx512: true, ..haswell };
        let cooper_lake = Features { bf16: true, ..cascade_lake };
        let ice_lake = Features { vbmi: true, ..cascade_lake };
        let sapphire_rapids = Features { avx_vnni: true, bf16: true, amx: true, ..ice_lake };
        let zen_3 = Features { amd: true, ..haswell };
        let zen_4 = Features { amd: true, bf16: true, ..ice_lake };
        for (name, features, best) in [
            ("nothing", none, Isa::Scalar),
            ("Haswell", haswell, Isa::Avx2),
            ("Alder Lake", Features { avx_vnni: true, ..haswell }, Isa::AvxVnni),
            ("Cascade Lake", cascade_lake, Isa::Avx512),
            ("Cooper Lake", cooper_lake, Isa::Avx512),
            ("Ice Lake", ice_lake, Isa::Avx512),
            ("Sapphire Rapids", sapphire_rapids, Isa::Amx),
            ("Sapphire Rapids without AMX", Features { amx: false, ..sapphire_rapids }, Isa::Avx512),
            ("Zen 3", zen_3, Isa::Avx2),
            ("Zen 4", zen_4, Isa::Avx512Bf16),
            ("Zen 5", Features { avx_vnni: true, ..zen_4 }, Isa::Avx512Bf16),
        ] {
            assert_eq!(features.best(), best, "{name}");
            assert!(features.run(best) && features.run(Isa::Scalar) && !features.run(Isa::Neon), "{name}");
        }
        assert!(!cooper_lake.run(Isa::Avx512Bf16), "without byte permutations");
        assert!(sapphire_rapids.run(Isa::Avx512Bf16), "slow is not absent");
    }
}
