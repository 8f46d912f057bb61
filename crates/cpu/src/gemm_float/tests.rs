//! Every family against the plain loops, and against f64.
use super::*;
use crate::isa::Isa;
use half::bf16;
use planish_tensor::{DType, HostTensor};

/// A repeatable stream of floats in (-1, 1).
pub(crate) fn floats(seed: u64, n: usize) -> Vec<f32> {
    let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        (s >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn shapes() -> Vec<(usize, usize, usize)> {
    let mut shapes =
        vec![(1, 1, 1), (1, 129, 129), (65, 129, 129), (2, 96, 64), (8, 48, 513), (1, 400, 31), (9, 17, 600)];
    // Rows that threads share out: few panels, and work enough.
    shapes.extend([(64, 40, 129), (130, 96, 65)]);
    for i in 0..10 {
        let r = floats(i + 1, 3).iter().map(|f| 1 + (f.abs() * 128.0) as usize).collect::<Vec<_>>();
        shapes.push((r[0], r[1], r[2]));
    }
    shapes.extend((1..=12).map(|t| (t, 211, 37)));
    shapes
}

fn bits(x: &[f32]) -> Vec<u32> {
    x.iter().map(|v| v.to_bits()).collect()
}

#[test]
fn every_family_gives_the_bits_of_the_definition() {
    let pools: Vec<Threads> = [1, 2, 3].map(Threads::new).into();
    for (i, (t, n, k)) in shapes().into_iter().enumerate() {
        let (x, w) = (floats(7 + i as u64, t * k), floats(99 + i as u64, n * k));
        for dtype in [DType::F32, DType::F16, DType::BF16] {
            let host = HostTensor::from_f32_as(dtype, vec![n, k], &w).unwrap();
            let wide = host.to_f32();
            let bias = (i % 2 == 0).then(|| floats(5, n));
            let expected: Vec<f32> = (0..t * n)
                .map(|at| {
                    let (row, c) = (at / n, at % n);
                    let y = (0..k).fold(0.0f32, |y, j| x[row * k + j].mul_add(wide[c * k + j], y));
                    bias.as_ref().map_or(y, |b| y + b[c])
                })
                .collect();
            for isa in Isa::available() {
                for pool in &pools {
                    let (a, b) = (n / 3, n);
                    let parts = [host.slice_rows(0..a).unwrap(), host.slice_rows(a..b).unwrap()];
                    let packed = PackedFloat::pack(&[&parts[0], &parts[1]], bias.clone(), isa, pool).unwrap();
                    let mut out = vec![f32::NAN; t * n];
                    gemm_float(pool, &x, &packed, FloatMath::F32, &mut out);
                    assert_eq!(bits(&out), bits(&expected), "{isa:?} {dtype} t={t} n={n} k={k}");
                }
            }
        }
    }
}

#[test]
fn bf16_is_near_the_exact_sum_of_rounded_inputs_for_any_rows_and_threads() {
    let pools: Vec<Threads> = [1, 2, 3].map(Threads::new).into();
    for (i, (t, n, k)) in shapes().into_iter().enumerate() {
        let (x, w) = (floats(7 + i as u64, t * k), floats(99 + i as u64, n * k));
        let host = HostTensor::from_f32_as(DType::BF16, vec![n, k], &w).unwrap();
        let (wide, rounded) = (host.to_f32(), x.iter().map(|&v| bf16::from_f32(v).to_f64()).collect::<Vec<_>>());
        for isa in Isa::available() {
            let packed = PackedFloat::pack(&[&host], None, isa, &pools[0]).unwrap();
            let x = if isa.has_fast_bf16_dots() { x.clone() } else { rounded.iter().map(|&v| v as f32).collect() };
            let mut first = vec![f32::NAN; t * n];
            gemm_float(&pools[0], &x, &packed, FloatMath::Bf16, &mut first);
            for (at, &y) in first.iter().enumerate() {
                let terms = (0..k).map(|j| rounded[at / n * k + j] * wide[at % n * k + j] as f64);
                let (sum, size) = terms.fold((0.0, 0.0), |(s, m), v| (s + v, m + v.abs()));
                assert!((y as f64 - sum).abs() <= 1e-6 * size, "{isa:?} t={t} n={n} k={k}: {y} is not {sum}");
            }
            for pool in &pools {
                let mut out = vec![f32::NAN; t * n];
                gemm_float(pool, &x, &packed, FloatMath::Bf16, &mut out);
                assert_eq!(bits(&out), bits(&first));
            }
            let mut one = vec![f32::NAN; n];
            gemm_float(&pools[1], &x[(t - 1) * k..], &packed, FloatMath::Bf16, &mut one);
            assert_eq!(bits(&one), bits(&first[(t - 1) * n..]), "a row alone, {isa:?}");
        }
    }
}

#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[test]
fn every_thread_gets_rows_or_panels_and_every_output_one_task() {
    use engine::Plan;
    // Routers of 8 to 192 experts, a projection, a head.
    for (t, panels) in
        [1, 7, 8, 64, 65, 128, 300, 2000].into_iter().flat_map(|t| [1, 3, 4, 9, 86, 1000].map(|p| (t, p)))
    {
        for threads in [1, 2, 3, 16, 64] {
            let plan = Plan::new(t, panels, threads);
            assert!(plan.tasks() >= threads.min(t / 8), "{} tasks: {t} {panels} {threads}", plan.tasks());
            let mut seen = vec![0; t * panels];
            for (rows, panels_of) in (0..plan.tasks()).map(|i| plan.task(i)) {
                assert!(!rows.is_empty() && rows.len() <= 128 && !panels_of.is_empty());
                rows.for_each(|r| panels_of.clone().for_each(|p| seen[r * panels + p] += 1));
            }
            assert!(seen.iter().all(|&count| count == 1), "{t} {panels} {threads}");
        }
    }
    assert_eq!((Plan::new(64, 4, 16).tasks(), Plan::new(64, 4, 1).tasks()), (8, 1));
    assert_eq!(Plan::new(0, 4, 2).tasks(), 0);
}

#[test]
fn rows_do_not_touch_each_other() {
    let (t, n, k, pool) = (9, 50, 7, Threads::new(1));
    let mut x = floats(1, t * k);
    x[4 * k] = f32::INFINITY;
    for (isa, dtype) in Isa::available().into_iter().flat_map(|i| [(i, DType::F32), (i, DType::BF16)]) {
        let host = HostTensor::from_f32_as(dtype, vec![n, k], &floats(2, n * k)).unwrap();
        let packed = PackedFloat::pack(&[&host], None, isa, &pool).unwrap();
        for math in [FloatMath::F32, FloatMath::Bf16] {
            let mut out = vec![0.0; t * n];
            gemm_float(&pool, &x, &packed, math, &mut out);
            let finite = |r: usize| out[r * n..][..n].iter().all(|y| y.is_finite());
            assert!((0..t).all(|r| finite(r) == (r != 4)), "{isa:?} {dtype} {math:?}");
        }
    }
}

#[test]
fn wrong_parts_are_refused() {
    let pool = Threads::new(1);
    let pack = |parts: &[&HostTensor], bias| PackedFloat::pack(parts, bias, Isa::Scalar, &pool);
    let a = HostTensor::from_f32(vec![2, 3], &[0.0; 6]).unwrap();
    let b = HostTensor::from_f32(vec![3, 2], &[0.0; 6]).unwrap();
    let i = HostTensor::from_bytes(DType::I8, vec![2, 3], vec![0; 6]).unwrap();
    assert!(pack(&[&a], None).is_ok());
    assert!(pack(&[&a, &b], None).is_err());
    assert!(pack(&[&i], None).is_err());
    assert!(pack(&[], None).is_err());
    assert!(pack(&[&a], Some(vec![0.0; 3])).is_err());
}
