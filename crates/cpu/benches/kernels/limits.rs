//! What this machine can do at best.
use crate::best;
use planish_cpu::isa::Isa;
use planish_cpu::threads::Threads;
use std::hint::black_box;

/// 8-bit operations (two a multiplication and addition) a second of all threads, with the instructions of a family;
/// 0 without VNNI.
pub fn int8_peak(threads: &Threads, isa: Isa) -> f64 {
    const ROUNDS: usize = 20_000;
    #[cfg(target_arch = "x86_64")]
    if isa == Isa::Amx {
        let seconds = best(|| {
            // SAFETY: the family was found.
            threads.run(threads.count(), |_| unsafe { dot_tiles(ROUNDS) });
        });
        return threads.count() as f64 * (ROUNDS * 6 * 2 * 16 * 16 * 64) as f64 / seconds;
    }
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx512 {
        let seconds = best(|| {
            // SAFETY: the features were found.
            threads.run(threads.count(), |_| unsafe { dot512(ROUNDS) });
        });
        return threads.count() as f64 * (ROUNDS * 16 * 128) as f64 / seconds;
    }
    #[cfg(target_arch = "x86_64")]
    if isa >= Isa::Avx2 && Isa::AvxVnni.runs_here() {
        let seconds = best(|| {
            // SAFETY: the features were found.
            threads.run(threads.count(), |_| unsafe { dot256(ROUNDS) });
        });
        return threads.count() as f64 * (ROUNDS * 12 * 64) as f64 / seconds;
    }
    let _ = (threads, isa);
    0.0
}

/// Products of tiles into six tiles of sums, one after the other.
///
/// # Safety
/// The machine must have `Isa::Amx`.
#[cfg(target_arch = "x86_64")]
unsafe fn dot_tiles(rounds: usize) {
    use std::arch::asm;
    #[repr(align(64))]
    struct Shape([u8; 64]);
    let mut shape = Shape([0; 64]);
    shape.0[0] = 1;
    for t in 0..8 {
        (shape.0[16 + 2 * t], shape.0[48 + t]) = (64, 16);
    }
    // SAFETY: the caller's; compiled code uses no tiles.
    unsafe {
        asm!("ldtilecfg [{}]", in(reg) &shape.0, options(nostack, readonly));
        for _ in 0..rounds {
            asm!(
                "tdpbsud tmm0, tmm6, tmm7",
                "tdpbsud tmm1, tmm6, tmm7",
                "tdpbsud tmm2, tmm6, tmm7",
                "tdpbsud tmm3, tmm6, tmm7",
                "tdpbsud tmm4, tmm6, tmm7",
                "tdpbsud tmm5, tmm6, tmm7",
                options(nostack, nomem)
            );
        }
        asm!("tilerelease", options(nostack, nomem));
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512vnni")]
fn dot512(rounds: usize) {
    use std::arch::x86_64::*;
    let (a, b) = (_mm512_set1_epi32(black_box(0x0102_0304)), _mm512_set1_epi32(black_box(0x0403_0201)));
    let mut acc = [_mm512_setzero_si512(); 16];
    for _ in 0..rounds {
        for x in &mut acc {
            *x = _mm512_dpbusd_epi32(*x, a, b);
        }
    }
    black_box(acc);
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,avxvnni")]
fn dot256(rounds: usize) {
    use std::arch::x86_64::*;
    let (a, b) = (_mm256_set1_epi32(black_box(0x0102_0304)), _mm256_set1_epi32(black_box(0x0403_0201)));
    let mut acc = [_mm256_setzero_si256(); 12];
    for _ in 0..rounds {
        for x in &mut acc {
            *x = _mm256_dpbusd_avx_epi32(*x, a, b);
        }
    }
    black_box(acc);
}

/// Bytes a second that all threads read from an array far larger than the caches.
pub fn read_bandwidth(threads: &Threads) -> f64 {
    let data = vec![1u64; 32 << 20];
    let parts = 16 * threads.count();
    let seconds = best(|| {
        threads.run(parts, |i| {
            let part = &data[data.len() * i / parts..data.len() * (i + 1) / parts];
            #[cfg(target_arch = "x86_64")]
            if is_x86_feature_detected!("avx512f") {
                // SAFETY: the feature was found.
                unsafe { sum512(part) };
                return;
            }
            let mut sums = [0u64; 32];
            for chunk in part.as_chunks::<32>().0 {
                for (s, x) in sums.iter_mut().zip(chunk) {
                    *s ^= x;
                }
            }
            black_box(sums);
        });
    });
    8.0 * data.len() as f64 / seconds
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
fn sum512(data: &[u64]) {
    use std::arch::x86_64::*;
    let mut acc = [_mm512_setzero_si512(); 4];
    for chunk in data.as_chunks::<32>().0 {
        for i in 0..4 {
            // SAFETY: eight numbers of the chunk.
            acc[i] = _mm512_xor_si512(acc[i], unsafe { _mm512_loadu_si512(chunk.as_ptr().add(8 * i).cast()) });
        }
    }
    black_box(acc);
}
