//! Which instruction sets the kernels may use, found once at start. Nothing is compiled for one machine only.

/// A family of kernels, best last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain loops.
    Scalar,
    /// aarch64 NEON with dot products.
    Neon,
    /// AVX2 and FMA.
    Avx2,
    /// AVX2 with 256-bit VNNI.
    AvxVnni,
    /// AVX-512 F/BW/DQ/VL/VBMI with VNNI.
    Avx512,
    /// AVX-512 as above, and bf16 dot products.
    Avx512Bf16,
}

impl Isa {
    /// Every family, plainest first.
    pub const ALL: [Isa; 6] = [Isa::Scalar, Isa::Neon, Isa::Avx2, Isa::AvxVnni, Isa::Avx512, Isa::Avx512Bf16];

    /// The best family of this machine.
    pub fn best() -> Isa {
        *Isa::available().last().expect("scalar kernels run everywhere")
    }

    /// Every family that this machine can run, best last.
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.runs_here()).collect()
    }

    /// Whether this machine can run the family.
    #[cfg(target_arch = "x86_64")]
    pub fn runs_here(self) -> bool {
        let avx2 = is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma");
        let avx512 = avx2
            && is_x86_feature_detected!("avx512f")
            && is_x86_feature_detected!("avx512bw")
            && is_x86_feature_detected!("avx512dq")
            && is_x86_feature_detected!("avx512vl")
            && is_x86_feature_detected!("avx512vbmi")
            && is_x86_feature_detected!("avx512vnni");
        match self {
            Isa::Scalar => true,
            Isa::Neon => false,
            Isa::Avx2 => avx2,
            Isa::AvxVnni => avx2 && is_x86_feature_detected!("avxvnni"),
            Isa::Avx512 => avx512,
            Isa::Avx512Bf16 => avx512 && is_x86_feature_detected!("avx512bf16"),
        }
    }

    /// Whether this machine can run the family.
    #[cfg(target_arch = "aarch64")]
    pub fn runs_here(self) -> bool {
        match self {
            Isa::Scalar => true,
            Isa::Neon => std::arch::is_aarch64_feature_detected!("dotprod"),
            _ => false,
        }
    }

    /// Whether this machine can run the family.
    #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
    pub fn runs_here(self) -> bool {
        self == Isa::Scalar
    }

    /// The name that people see and type.
    pub fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Neon => "neon",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avx-vnni",
            Isa::Avx512 => "avx512-vnni",
            Isa::Avx512Bf16 => "avx512-vnni-bf16",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalar_runs_everywhere_and_best_is_last() {
        let all = Isa::available();
        assert_eq!(all[0], Isa::Scalar);
        assert_eq!(*all.last().unwrap(), Isa::best());
        assert!(all.windows(2).all(|w| w[0] < w[1]));
    }
}
