//! Every kernel family against f64 arithmetic, and codes against the definition in `planish_tensor::q8`.
use super::*;
use crate::isa::Isa;
use planish_tensor::Activation;
use planish_tensor::{DType, HostTensor, LinearPart, Q8, q8};

struct Random(u64);
impl Random {
    fn next(&mut self) -> u32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 33) as u32
    }
    fn float(&mut self) -> f32 {
        self.next() as f32 / (1u64 << 30) as f32 - 1.0
    }
    fn floats(&mut self, n: usize, scale: f32) -> Vec<f32> {
        (0..n).map(|_| self.float() * scale).collect()
    }
}

const WIDTHS: [usize; 12] = [1, 2, 5, 8, 15, 16, 17, 63, 64, 100, 131, 576];

fn close(got: &[f32], want: &[f64], relative: f64, what: &str) {
    assert_eq!(got.len(), want.len());
    for (i, (&g, &w)) in got.iter().zip(want).enumerate() {
        assert!((g as f64 - w).abs() <= relative * w.abs() + 1e-35, "{what} at {i}: {g} for {w}");
    }
}

fn norm64(x: &[f32], weight: &[f32], eps: f32) -> Vec<f64> {
    let mean = x.iter().map(|&x| x as f64 * x as f64).sum::<f64>() / x.len() as f64;
    x.iter().zip(weight).map(|(&x, &w)| x as f64 / (mean + eps as f64).sqrt() * w as f64).collect()
}

#[test]
fn norms_and_sums() {
    let mut random = Random(1);
    for pool in [1, 3].map(Threads::new) {
        for h in WIDTHS {
            for t in [0, 1, 3, 200] {
                let (x, delta) = (random.floats(t * h, 3.0), random.floats(t * h, 1.0));
                let weight = random.floats(h, 2.0);
                let sum: Vec<f32> = x.iter().zip(&delta).map(|(a, b)| a + b).collect();
                for isa in Isa::available() {
                    let norms =
                        |x: &[f32]| -> Vec<f64> { x.chunks(h).flat_map(|r| norm64(r, &weight, 1e-5)).collect() };
                    let mut out = vec![0.0; t * h];
                    rms_norm(&pool, isa, &x, &weight, 1e-5, &mut out);
                    close(&out, &norms(&x), 2e-6, "norm");
                    let mut y = x.clone();
                    add_rms_norm(&pool, isa, &mut y, Some(&delta), &weight, 1e-5, &mut out);
                    assert_eq!(y, sum);
                    close(&out, &norms(&sum), 2e-6, "add and norm");
                    let (mut codes, mut xs) = (vec![7u8; t * h], vec![7f32; t]);
                    let mut z = x.clone();
                    let target = Q8SliceMut { codes: &mut codes, xs: &mut xs };
                    add_rms_norm_quantize(&pool, isa, Q8::Int8, &mut z, Some(&delta), &weight, 1e-5, target);
                    assert_eq!(z, sum);
                    check_codes(Q8::Int8, &out, h, &codes, &xs);
                    y.copy_from_slice(&x);
                    add(&pool, isa, &mut y, &delta);
                    assert_eq!(y, sum);
                }
            }
        }
        let mut long = random.floats(100_001, 1.0);
        let (terms, want) = (long.clone(), long.iter().map(|x| x + x).collect::<Vec<_>>());
        add(&pool, Isa::best(), &mut long, &terms);
        assert_eq!(long, want);
    }
}

fn check_codes(kind: Q8, x: &[f32], k: usize, codes: &[u8], xs: &[f32]) {
    let mut want = vec![0; k];
    for (r, row) in x.chunks(k).enumerate() {
        let scale = q8::quantize_activation_row(kind, row, &mut want);
        assert!(scale.to_bits() == xs[r].to_bits() || (scale.is_nan() && xs[r].is_nan()), "{kind:?} {scale} {}", xs[r]);
        assert_eq!(&codes[r * k..][..k], want, "{kind:?} row {r}");
    }
}

#[test]
fn codes_equal_the_definition() {
    let mut random = Random(2);
    let odd = [
        0.0,
        -0.0,
        1e-45,
        -1e-45,
        3e-44,
        1e-40,
        1e-38,
        f32::MIN_POSITIVE,
        f32::MAX,
        -f32::MAX,
        f32::INFINITY,
        f32::NEG_INFINITY,
        f32::NAN,
    ];
    for pool in [1, 2].map(Threads::new) {
        for k in WIDTHS {
            let mut x = random.floats(60 * k, 1.0);
            for (r, row) in x.chunks_mut(k).enumerate() {
                match r {
                    0..13 => row.fill(odd[r]),
                    13..26 => row[r % k] = odd[r - 13],
                    // Subnormal rows, ties, powers of two around the grids of the small types.
                    26..30 => row.iter_mut().for_each(|x| *x *= 1e-42),
                    30..34 => row.iter_mut().enumerate().for_each(|(i, x)| *x = i as f32 / 2.0 - 63.5),
                    34..40 => row.iter_mut().for_each(|x| *x = (*x * 40.0).exp2()),
                    40 => row.iter_mut().enumerate().for_each(|(i, x)| *x = (i % 897) as f32 / 2.0),
                    _ => {}
                }
            }
            for kind in Q8::ALL {
                for isa in Isa::available() {
                    let (mut codes, mut xs) = (vec![7u8; x.len()], vec![7f32; 60]);
                    quantize_rows(&pool, isa, kind, &x, k, Q8SliceMut { codes: &mut codes, xs: &mut xs });
                    check_codes(kind, &x, k, &codes, &xs);
                }
            }
        }
    }
}

#[test]
fn zero_points_equal_the_definition() {
    use planish_tensor::Grid;
    let mut random = Random(9);
    for (i, k) in WIDTHS.into_iter().enumerate() {
        let t = 1 + i % 4 * 20;
        let mut x = random.floats(t * k, [1e-3, 1.0, 300.0][i % 3]);
        // Of one sign, zeros, ends of the range, halves, no numbers.
        for (r, row) in x.chunks_mut(k).enumerate() {
            match r % 9 {
                0 if k > 2 => row[..3].copy_from_slice(&[-55.0, 200.0, 72.5]),
                1 => row.iter_mut().for_each(|x| *x = x.abs()),
                2 => row.iter_mut().for_each(|x| *x = -x.abs()),
                3 => row.fill([0.0, -0.0][r % 2]),
                4 => row.fill(f32::MIN_POSITIVE / 64.0),
                5 => (row[0], row[k - 1]) = (f32::MAX, f32::MIN),
                6 => row[k / 2] = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY][r % 3],
                _ => {}
            }
        }
        for grid in [Grid::Asymmetric, Grid::Static { scale: 0.25, zero: -77 }, Grid::Static { scale: 1e-40, zero: 5 }]
        {
            let mut want = (vec![9; t * k], vec![9.0; t], vec![9; t]);
            for (r, row) in x.chunks(k).enumerate() {
                let (codes, xs) = (&mut want.0[r * k..][..k], &mut want.1[r..r + 1]);
                want.2[r] = grid.quantize_row(Q8::Int8, row, codes, xs).into();
            }
            for (isa, pool) in Isa::available().into_iter().flat_map(|isa| [1, 3].map(|n| (isa, Threads::new(n)))) {
                let mut got = (vec![7; t * k], vec![7.0; t], vec![7; t]);
                let to = Q8SliceMut { codes: &mut got.0, xs: &mut got.1 };
                quantize_on(&pool, isa, Q8::Int8, grid, &x, k, to, Some(&mut got.2));
                let bits = |xs: &[f32]| xs.iter().map(|x| x.to_bits()).collect::<Vec<_>>();
                assert_eq!((&got.0, bits(&got.1), &got.2), (&want.0, bits(&want.1), &want.2), "{isa:?} {grid:?} k={k}");
            }
        }
    }
}

#[test]
fn weights_are_rounded_as_the_definition_says() {
    let mut random = Random(9);
    for (n, k) in [(1, 1), (7, 33), (130, 576)] {
        let mut w = random.floats(n * k, 0.1);
        w[..k].fill(0.0);
        w[(n - 1) * k] = if n == 7 { f32::NAN } else { 1e-45 };
        for dtype in [DType::F32, DType::BF16] {
            let weight = HostTensor::from_f32_as(dtype, vec![n, k], &w).unwrap();
            let part = LinearPart::float(weight.clone(), None);
            for kind in Q8::ALL {
                let want = part.quantized(kind).unwrap();
                for isa in Isa::available() {
                    let (codes, ws) = quantize_weight(&Threads::new(2), isa, kind, &weight).unwrap();
                    assert_eq!(codes, want.weight.bytes(), "{isa:?} {kind:?}");
                    let same =
                        ws.iter().zip(want.scales.as_ref().unwrap()).all(|(a, b)| a == b || a.is_nan() && b.is_nan());
                    assert!(same, "{isa:?} {kind:?} {ws:?}");
                }
            }
        }
    }
    let codes = HostTensor::from_bytes(DType::I8, vec![1, 2], vec![1, 2]).unwrap();
    assert!(quantize_weight(&Threads::new(1), Isa::best(), Q8::Int8, &codes).is_err());
}

/// Every midpoint of the FP8 grids and its neighbours, on a scale of exactly one.
#[test]
fn float8_midpoints() {
    let pool = Threads::new(1);
    for kind in [Q8::E4M3, Q8::E5M2] {
        let mut x = vec![kind.activation_range()];
        for code in 0..0x7Eu8 {
            let (a, b) = (kind.decode(code), kind.decode(code + 1));
            if b.is_finite() {
                let middle = (a + b) / 2.0;
                x.extend([middle, -middle, middle.next_up(), middle.next_down(), a, -b]);
            }
        }
        for isa in Isa::available() {
            let (mut codes, mut xs) = (vec![0; x.len()], vec![0.0]);
            quantize_rows(&pool, isa, kind, &x, x.len(), Q8SliceMut { codes: &mut codes, xs: &mut xs });
            assert_eq!(xs, [1.0]);
            check_codes(kind, &x, x.len(), &codes, &xs);
        }
    }
}

#[test]
fn gates() {
    let mut random = Random(3);
    for pool in [1, 2].map(Threads::new) {
        for f in WIDTHS {
            for (t, scale) in [(1, 3.0), (2, 30.0), (70, 1.0)] {
                let gate_up = random.floats(t * 2 * f, scale);
                for isa in Isa::available() {
                    for act in [Activation::Silu, Activation::GeluTanh] {
                        let mut out = vec![0.0; t * f];
                        gated(&pool, isa, &gate_up, f, act, &mut out);
                        let one = |x: f64| match act {
                            Activation::Silu => x / (1.0 + (-x).exp()),
                            Activation::GeluTanh => {
                                let u = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
                                x / (1.0 + (-2.0 * u).exp())
                            }
                            other => unreachable!("{other:?}"),
                        };
                        let want =
                            gate_up.chunks(2 * f).flat_map(|r| (0..f).map(|i| one(r[i] as f64) * r[f + i] as f64));
                        // Where the gate is all but shut, rounding u is an error of u's size in the exponent.
                        let tolerance = if act == Activation::Silu { 3.6e-7 } else { 3e-5 };
                        close(&out, &want.collect::<Vec<_>>(), tolerance, "gated");
                        let (mut codes, mut xs) = (vec![7u8; t * f], vec![7f32; t]);
                        let target = Q8SliceMut { codes: &mut codes, xs: &mut xs };
                        gated_quantize(&pool, isa, Q8::E4M3, &gate_up, f, act, target);
                        check_codes(Q8::E4M3, &out, f, &codes, &xs);
                    }
                }
            }
        }
    }
}

/// Near the value, as far as the argument's size goes: the tails of the error function are small differences.
#[test]
fn nonlinearities_and_caps() {
    let mut random = Random(8);
    for (f, scale) in [(1, 1.0), (17, 4.0), (1000, 0.01), (1000, 1.0), (1000, 12.0)] {
        let x = random.floats(3 * f, scale);
        for isa in Isa::available() {
            for act in Activation::ALL {
                let mut out = vec![7.0; 3 * f];
                activate(&Threads::new(2), isa, &x, f, act, &mut out);
                for (x, y) in x.iter().zip(&out) {
                    let want = crate::scalar::activate(act, *x);
                    assert!((want - y).abs() <= 5e-7 * x.abs(), "{isa:?} {act:?} of {x}: {y} for {want}");
                }
            }
            let mut capped = x.clone();
            softcap(&Threads::new(2), isa, &mut capped, f, 3.0);
            let want: Vec<f64> = x.iter().map(|&x| 3.0 * (x as f64 / 3.0).tanh()).collect();
            close(&capped, &want, 5e-7, "softcap");
        }
    }
}

#[test]
fn extreme_gates() {
    let pool = Threads::new(1);
    let x = [0.0f32, -0.0, 1e30, -1e30, f32::INFINITY, 100.0, -100.0, f32::NAN];
    let gate_up: Vec<f32> = x.iter().copied().chain([1.0; 8]).collect();
    for isa in Isa::available() {
        for act in [Activation::Silu, Activation::GeluTanh] {
            let mut out = [7f32; 8];
            gated(&pool, isa, &gate_up, 8, act, &mut out);
            assert_eq!(out[..6], [0.0, 0.0, 1e30, 0.0, f32::INFINITY, 100.0], "{isa:?} {act:?}");
            assert!(out[6].abs() < 1e-37 && out[7].is_nan());
        }
    }
}

#[test]
fn log_probabilities() {
    let mut random = Random(4);
    for pool in [1, 2].map(Threads::new) {
        for v in [1, 3, 16, 33, 1000, 20_011] {
            let mut x = random.floats(3 * v, 10.0);
            x[0] = f32::NEG_INFINITY;
            if v == 1 {
                x[0] = 5.0;
            }
            let want: Vec<f64> = x
                .chunks(v)
                .flat_map(|row| {
                    let top = row.iter().copied().fold(f32::NEG_INFINITY, f32::max) as f64;
                    let sum: f64 = row.iter().map(|&x| (x as f64 - top).exp()).sum();
                    row.iter().map(move |&x| x as f64 - top - sum.ln())
                })
                .collect();
            for isa in Isa::available() {
                let mut y = x.clone();
                log_softmax(&pool, isa, &mut y, v);
                for (g, w) in y.iter().zip(&want) {
                    assert!((*g as f64 - w).abs() <= 4e-6 || *g as f64 == *w, "{isa:?} {v}: {g} for {w}");
                }
                y[v / 2] = f32::NAN;
                log_softmax(&pool, isa, &mut y, v);
                assert!(y[..v].iter().all(|x| x.is_nan()) && y[v..].iter().all(|x| !x.is_nan()));
            }
        }
    }
}

#[test]
fn argmax_takes_the_first_of_equals() {
    let mut random = Random(5);
    for pool in [1, 2].map(Threads::new) {
        for isa in Isa::available() {
            for v in [1, 2, 15, 16, 17, 70, 5000, 40_000] {
                let rows = 4;
                let mut x: Vec<f32> = (0..rows * v).map(|_| (random.next() % 50) as f32 - 60.0).collect();
                x[3 * v + v / 2] = f32::NAN;
                let want: Vec<u32> = x
                    .chunks(v)
                    .map(|row| {
                        let mut best = 0;
                        for i in 0..v {
                            if row[i].is_nan() {
                                return u32::MAX;
                            }
                            if row[i] > row[best] {
                                best = i;
                            }
                        }
                        best as u32
                    })
                    .collect();
                assert_eq!(argmax(&pool, isa, &x, v), want, "{isa:?} {v}");
            }
            let infinite = [f32::NEG_INFINITY, f32::NEG_INFINITY, f32::NEG_INFINITY, 1.0, f32::INFINITY, f32::INFINITY];
            assert_eq!(argmax(&pool, isa, &infinite, 3), [0, 1]);
            assert_eq!(argmax(&pool, isa, &[-0.0, 0.0], 2), [0]);
        }
    }
}

#[test]
fn each_row_is_called_once() {
    for (threads, r, v) in [(1, 3, 5), (3, 0, 4), (3, 1, 7), (4, 33, 2)] {
        let mut x = vec![1.0; r * v];
        each_row(&Threads::new(threads), &mut x, v, &|row, x| x.iter_mut().for_each(|x| *x += row as f32));
        let expected: Vec<f32> = (0..r * v).map(|i| 1.0 + (i / v) as f32).collect();
        assert_eq!(x, expected, "{threads} threads, {r} rows");
    }
}
