//! Which instruction sets the kernels may use, found once at start. Nothing is compiled for one machine only.
#[cfg(target_arch = "x86_64")]
mod features;

/// A family of kernels, plainest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Isa {
    /// Plain loops.
    Scalar,
    /// aarch64 NEON with dot products.
    Neon,
    /// aarch64 NEON with dot products and 8-bit matrix multiplication (i8mm).
    NeonI8mm,
    /// AVX2 and FMA.
    Avx2,
    /// AVX2 with 256-bit VNNI.
    AvxVnni,
    /// AVX-512 F/BW/DQ/VL with VNNI.
    Avx512,
    /// AVX-512 as above, VBMI and bf16 dot products.
    Avx512Bf16,
    /// AVX-512 as `Avx512`, and AMX tiles for INT8.
    Amx,
}

impl Isa {
    /// Every family, plainest first.
    pub const ALL: [Isa; 8] =
        [Isa::Scalar, Isa::Neon, Isa::NeonI8mm, Isa::Avx2, Isa::AvxVnni, Isa::Avx512, Isa::Avx512Bf16, Isa::Amx];

    /// The best family of this machine.
    #[cfg(target_arch = "x86_64")]
    pub fn best() -> Isa {
        features::Features::here().best()
    }

    /// The best family of this machine.
    #[cfg(not(target_arch = "x86_64"))]
    pub fn best() -> Isa {
        *Isa::available().last().expect("scalar kernels run everywhere")
    }

    /// Every family that this machine can run, plainest first.
    pub fn available() -> Vec<Isa> {
        Isa::ALL.into_iter().filter(|isa| isa.runs_here()).collect()
    }

    /// Whether this machine can run the family.
    #[cfg(target_arch = "x86_64")]
    pub fn runs_here(self) -> bool {
        features::Features::here().run(self)
    }

    /// Whether this machine can run the family.
    #[cfg(target_arch = "aarch64")]
    pub fn runs_here(self) -> bool {
        let dotprod = std::arch::is_aarch64_feature_detected!("dotprod");
        match self {
            Isa::Scalar => true,
            Isa::Neon => dotprod,
            Isa::NeonI8mm => dotprod && std::arch::is_aarch64_feature_detected!("i8mm"),
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
            Isa::NeonI8mm => "neon-i8mm",
            Isa::Avx2 => "avx2",
            Isa::AvxVnni => "avx-vnni",
            Isa::Avx512 => "avx512-vnni",
            Isa::Avx512Bf16 => "avx512-vnni-bf16",
            Isa::Amx => "amx-int8",
        }
    }

    /// The family whose kernels multiply floats, FP8 codes among them: AMX and i8mm are for INT8 alone.
    pub fn of_floats(self) -> Isa {
        match self {
            Isa::Amx => Isa::Avx512,
            Isa::NeonI8mm => Isa::Neon,
            other => other,
        }
    }

    /// Whether the family multiplies vectors in bf16. [`Isa::best`] is this one only where that is fast.
    pub fn has_fast_bf16_dots(self) -> bool {
        self == Isa::Avx512Bf16
    }
}

/// Whether AMX is there: the processor, the system's support, and its leave, for which a process asks once.
#[cfg(target_arch = "x86_64")]
mod amx {
    use std::arch::{asm, x86_64::__cpuid_count};

    /// Costs a system call.
    pub(super) fn usable() -> bool {
        processor_has_it() && system_saves_it() && leave_is_given()
    }

    /// `amx-tile` and `amx-int8`. Only asked of processors with AVX-512, whose leaves go up to 7.
    #[allow(unused_unsafe)] // newer compilers call this function safe
    fn processor_has_it() -> bool {
        const TILE_AND_INT8: u32 = 1 << 24 | 1 << 25;
        // SAFETY: every x86-64 processor has CPUID.
        unsafe { __cpuid_count(7, 0) }.edx & TILE_AND_INT8 == TILE_AND_INT8
    }

    /// Whether the system saves tiles when it switches threads.
    fn system_saves_it() -> bool {
        const CONFIG_AND_DATA: u32 = 1 << 17 | 1 << 18;
        let low: u32;
        // SAFETY: where AVX-512 was detected, the system has set OSXSAVE, and XGETBV may be used.
        unsafe { asm!("xgetbv", in("ecx") 0, out("eax") low, out("edx") _, options(nomem, nostack, preserves_flags)) };
        low & CONFIG_AND_DATA == CONFIG_AND_DATA
    }

    /// Linux grants the tiles' state to processes that ask for it.
    #[cfg(target_os = "linux")]
    fn leave_is_given() -> bool {
        const ARCH_PRCTL: isize = 158;
        const ARCH_REQ_XCOMP_PERM: isize = 0x1023;
        const TILE_DATA: isize = 18;
        let result: isize;
        // SAFETY: arch_prctl(ARCH_REQ_XCOMP_PERM, 18) touches no memory of ours; a system call clobbers rcx and r11.
        unsafe {
            asm!(
                "syscall",
                inlateout("rax") ARCH_PRCTL => result,
                in("rdi") ARCH_REQ_XCOMP_PERM,
                in("rsi") TILE_DATA,
                lateout("rcx") _,
                lateout("r11") _,
                options(nostack),
            );
        }
        result == 0
    }

    #[cfg(not(target_os = "linux"))]
    fn leave_is_given() -> bool {
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalar_runs_everywhere_and_the_best_is_available() {
        let all = Isa::available();
        assert_eq!(all[0], Isa::Scalar);
        assert!(all.contains(&Isa::best()));
        assert!(all.windows(2).all(|w| w[0] < w[1]));
    }

    #[test]
    fn amx_stands_on_avx512_and_its_leave_lasts() {
        if !Isa::Amx.runs_here() {
            println!("skipped: no amx");
            return;
        }
        assert!(Isa::Avx512.runs_here());
        // Threads started later have it as well.
        assert!(std::thread::spawn(|| Isa::Amx.runs_here()).join().unwrap());
        assert_eq!(Isa::best(), Isa::Amx);
        assert!(!Isa::Amx.has_fast_bf16_dots());
    }
}
