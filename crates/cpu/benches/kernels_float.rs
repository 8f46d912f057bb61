//! Float kernels: time, rate, and share of the peak measured in the same run; error against the plain loops.
//! `cargo bench -p planish-cpu --bench kernels_float [-- FILTER]`, with `BENCH_ISA=avx2` or
//! `BENCH_THREADS=1` if wanted. The best of many repetitions counts.
use planish_cpu::gemm_float::{PackedFloat, gemm_float, gemm_float_scalar};
use planish_cpu::gram::{accumulate_gram, observe_columns};
use planish_cpu::isa::Isa;
use planish_cpu::threads::Threads;
use planish_tensor::FloatMath;
use planish_tensor::{DType, HostTensor};
use std::time::{Duration, Instant};

/// Best rates of one thread: f32 and bf16 GFLOP/s, GB/s.
struct Peaks {
    f32: f64,
    bf16: f64,
    read: f64,
}

/// Measures some kernels.
type Section = fn(&Threads, Isa, &Peaks);

fn main() {
    let filter = std::env::args().skip(1).find(|a| !a.starts_with('-')).unwrap_or_default();
    let wanted = std::env::var("BENCH_ISA").ok();
    let isa = match Isa::available().into_iter().find(|i| Some(i.name()) == wanted.as_deref()) {
        Some(isa) => isa,
        None => Isa::best(),
    };
    let peaks = Peaks { f32: peak_f32(isa), bf16: peak_bf16(isa), read: peak_read() };
    println!(
        "{}: {:.0} f32 and {:.0} bf16 GFLOP/s, {:.0} GB/s a thread",
        isa.name(),
        peaks.f32,
        peaks.bf16,
        peaks.read
    );
    let all = std::thread::available_parallelism().map_or(1, |n| n.get());
    let counts = match std::env::var("BENCH_THREADS") {
        Ok(n) => vec![n.parse().expect("BENCH_THREADS is a number")],
        Err(_) if all > 1 => vec![1, all],
        Err(_) => vec![1],
    };
    for threads in counts {
        let pool = Threads::new(threads);
        println!("\n{threads} thread(s)   kernel, µs, GFLOP/s (share of peak), GB/s, largest error / largest value");
        let sections: [(&str, Section); 2] = [("gemm", gemms), ("gram", grams)];
        sections.iter().filter(|(name, _)| name.contains(&filter)).for_each(|(_, section)| section(&pool, isa, &peaks));
    }
}

/// Best time in seconds of repetitions over about a third of a second.
fn best(mut run: impl FnMut()) -> f64 {
    run();
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed() < Duration::from_millis(200) {
        let once = Instant::now();
        run();
        best = best.min(once.elapsed().as_secs_f64());
    }
    best
}

/// Prints a row; `peak` is GFLOP/s of one thread.
fn row(pool: &Threads, name: &str, seconds: f64, flops: f64, peak: f64, bytes: f64, error: f64) {
    let (rate, all) = (flops / seconds / 1e9, peak * pool.count() as f64);
    let (us, share, gb) = (seconds * 1e6, 100.0 * rate / all, bytes / seconds / 1e9);
    println!("{name:<44} {us:>10.1} {rate:>8.1} ({share:>3.0} %) {gb:>7.1}   {error:.1e}");
}

fn floats(seed: u64, n: usize) -> Vec<f32> {
    let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    (0..n)
        .map(|_| {
            s ^= s << 13;
            s ^= s >> 7;
            s ^= s << 17;
            (s >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        })
        .collect()
}

fn error(a: &[f32], b: &[f32]) -> f64 {
    let top = b.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    a.iter().zip(b).fold(0.0f64, |m, (x, y)| m.max((x - y).abs() as f64)) / top as f64
}

fn gemms(pool: &Threads, isa: Isa, peaks: &Peaks) {
    use FloatMath::{Bf16, F32};
    for (dtype, math) in [(DType::BF16, F32), (DType::BF16, Bf16), (DType::F32, F32)] {
        for (n, k) in [(576, 576), (960, 576), (3072, 576), (576, 1536), (2048, 2048), (49152, 576)] {
            let host = HostTensor::from_f32_as(dtype, vec![n, k], &floats(1, n * k)).unwrap();
            let w = PackedFloat::pack(&[&host], None, isa, pool).unwrap();
            for t in [1, 2, 4, 8, 16, 128, 512, 2048] {
                if t * n * k > 1 << 31 {
                    continue;
                }
                let (x, mut out) = (floats(2, t * k), vec![0.0; t * n]);
                let seconds = best(|| gemm_float(pool, &x, &w, math, &mut out));
                // The plain loops are slow: the first rows stand for all.
                let rows = t.min(2);
                let mut expected = vec![0.0; rows * n];
                gemm_float_scalar(pool, &x[..rows * k], &w, &mut expected);
                let flops = 2.0 * (t * n * k) as f64;
                let peak = if math == Bf16 { peaks.bf16 } else { peaks.f32 };
                let name = format!("gemm {dtype} math {math:?} t={t} n={n} k={k}");
                row(pool, &name, seconds, flops, peak, w.bytes() as f64, error(&out[..rows * n], &expected));
            }
        }
    }
}

fn grams(pool: &Threads, isa: Isa, peaks: &Peaks) {
    for (t, k) in [(512, 576), (2048, 576), (512, 1536), (2048, 1536)] {
        let x = floats(7, t * k);
        for math in [FloatMath::F32, FloatMath::Bf16] {
            let mut gram = vec![0.0; k * k];
            let seconds = best(|| accumulate_gram(pool, isa, &x, k, math, &mut gram));
            let (mut got, mut expected) = (vec![0.0; 96 * 96], vec![0.0; 96 * 96]);
            let part: Vec<f32> = x.chunks_exact(k).flat_map(|row| &row[..96]).copied().collect();
            accumulate_gram(pool, isa, &part, 96, math, &mut got);
            accumulate_gram(pool, Isa::Scalar, &part, 96, FloatMath::F32, &mut expected);
            let flops = (t * k * (k + 1)) as f64;
            let peak = if math == FloatMath::Bf16 { peaks.bf16 } else { peaks.f32 };
            let name = format!("gram {math:?} t={t} k={k}");
            row(pool, &name, seconds, flops, peak, (x.len() * 4) as f64, error(&got, &expected));
        }
        let mut absmax = vec![0.0; k];
        let seconds = best(|| observe_columns(pool, isa, &x, k, &mut absmax));
        row(pool, &format!("observe columns t={t} k={k}"), seconds, 0.0, peaks.f32, (x.len() * 4) as f64, 0.0);
    }
}

fn peak_f32(isa: Isa) -> f64 {
    let (steps, flops) = (100_000, 16.0 * 2.0);
    #[cfg(target_arch = "x86_64")]
    {
        // SAFETY: the family runs here.
        let run = || unsafe { if isa >= Isa::Avx512 { x86::fma512(steps) } else { x86::fma256(steps) } };
        let lanes = if isa >= Isa::Avx512 { 16.0 } else { 8.0 };
        if isa >= Isa::Avx2 {
            return steps as f64 * flops * lanes / best(run) / 1e9;
        }
    }
    let _ = (isa, steps, flops);
    f64::NAN
}

fn peak_bf16(isa: Isa) -> f64 {
    #[cfg(target_arch = "x86_64")]
    if isa.has_fast_bf16_dots() {
        // SAFETY: the family runs here.
        let seconds = best(|| unsafe { x86::dot512(100_000) });
        return 100_000.0 * 16.0 * 64.0 / seconds / 1e9;
    }
    peak_f32(isa)
}

fn peak_read() -> f64 {
    let data = vec![1u64; 32 << 20];
    let mut sum = 0u64;
    let seconds = best(|| sum = sum.wrapping_add(std::hint::black_box(&data).iter().fold(0, |a, &b| a ^ b)));
    std::hint::black_box(sum);
    (data.len() * 8) as f64 / seconds / 1e9
}

/// Sixteen independent chains of multiply-adds.
#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::*;
    use std::hint::black_box;

    #[target_feature(enable = "avx512f")]
    pub fn fma512(steps: usize) {
        let (a, mut acc) = (_mm512_set1_ps(black_box(0.5)), [_mm512_set1_ps(1.0); 16]);
        for _ in 0..steps {
            for c in &mut acc {
                *c = _mm512_fmadd_ps(a, *c, a);
            }
        }
        black_box(acc);
    }

    #[target_feature(enable = "avx2,fma")]
    pub fn fma256(steps: usize) {
        let (a, mut acc) = (_mm256_set1_ps(black_box(0.5)), [_mm256_set1_ps(1.0); 14]);
        for _ in 0..steps * 16 / 14 {
            for c in &mut acc {
                *c = _mm256_fmadd_ps(a, *c, a);
            }
        }
        black_box(acc);
    }

    #[target_feature(enable = "avx512f,avx512bf16")]
    pub fn dot512(steps: usize) {
        let a = _mm512_cvtne2ps_pbh(_mm512_set1_ps(black_box(0.5)), _mm512_set1_ps(0.5));
        let mut acc = [_mm512_set1_ps(1.0); 16];
        for _ in 0..steps {
            for c in &mut acc {
                *c = _mm512_dpbf16_ps(*c, a, a);
            }
        }
        black_box(acc);
    }
}
