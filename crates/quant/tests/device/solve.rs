//! Factor and walk on the device against those of the host, at odd sizes and with hopeless input.
use super::numbers::{different, gram, load, noise, off};
use super::open;
use planish_cuda::Cuda;
use planish_quant::gptq::{self, DeviceFactor, GptqOptions, GptqResult};
use planish_quant::rtn;
use planish_tensor::{Backend, Q8};

fn on_device(cuda: &Cuda, kind: Q8, w: &[f32], n: usize, g: &[f32], options: &GptqOptions) -> GptqResult {
    let (k, solver) = (w.len() / n, cuda.solver().unwrap());
    let factor = DeviceFactor::new(solver, &load(cuda, k, k, g), options).unwrap();
    let (result, error) = gptq::solve_on(cuda, solver, Some(&factor), kind, &load(cuda, n, k, w), options).unwrap();
    let expected = result.weight.relative_error(w);
    assert!((error - expected).abs() <= 1e-6 * expected, "weight error {error}, expected {expected}");
    result
}

/// Codes equal but for a few, losses within 0.1 %, everything else equal.
fn compare(got: &GptqResult, expected: &GptqResult, what: &str) {
    compare_within(got, expected, 1e-3, what);
}

fn compare_within(got: &GptqResult, expected: &GptqResult, limit: f64, what: &str) {
    let (wrong, codes) = (different(&got.weight.codes, &expected.weight.codes), got.weight.codes.len());
    assert!(wrong * 200 <= codes, "{what}: {wrong} of {codes} codes differ");
    assert_eq!(got.weight.scales, expected.weight.scales, "{what}");
    assert_eq!(got.weight.zero_rows, expected.weight.zero_rows, "{what}");
    assert_eq!(got.dead_columns, expected.dead_columns, "{what}");
    assert_eq!(got.damping_used, expected.damping_used, "{what}");
    assert_eq!(got.fell_back_to_rtn, expected.fell_back_to_rtn, "{what}");
    assert!(got.rtn_rows.abs_diff(expected.rtn_rows) <= 1, "{what}: {} {}", got.rtn_rows, expected.rtn_rows);
    for (a, b) in [(got.proxy_loss, expected.proxy_loss), (got.rtn_proxy_loss, expected.rtn_proxy_loss)] {
        assert_eq!(a.is_some(), b.is_some(), "{what}");
        let (a, b) = (a.unwrap_or(1.0), b.unwrap_or(1.0));
        assert!(off(a, b) <= limit, "{what}: loss {a}, expected {b}");
    }
}

#[test]
fn equals_the_host_at_odd_sizes() {
    let Some(cuda) = open() else { return };
    for (n, k, t, dead) in [
        (1, 1, 3, &[][..]),
        (2, 31, 90, &[30]),
        (65, 127, 300, &[]),
        (130, 128, 300, &[0, 64]),
        (33, 129, 260, &[]),
        (7, 300, 900, &[5, 6, 299]),
        (257, 511, 1200, &[]),
    ] {
        let (mut w, g) = (noise(n * k, 11), gram(k, t, 12, dead));
        w[(n - 1) * k..].fill(0.0);
        for kind in Q8::ALL {
            for options in [
                GptqOptions::default(),
                GptqOptions { act_order: false, keep_better_rows: false, damping: 0.05, ..GptqOptions::default() },
            ] {
                let expected = gptq::quantize(kind, &w, n, &g, k, &options).unwrap();
                let got = on_device(&cuda, kind, &w, n, &g, &options);
                compare(&got, &expected, &format!("{kind:?} [{n}, {k}] act_order {}", options.act_order));
            }
        }
    }
}

/// Fewer tokens than channels: the damping alone makes the matrix positive, so that sums in another order show more.
#[test]
fn equals_the_host_where_the_gram_matrix_has_no_full_rank() {
    let Some(cuda) = open() else { return };
    for (n, k, t) in [(40, 200, 30), (64, 384, 100)] {
        let (w, g) = (noise(n * k, 13), gram(k, t, 14, &[]));
        for kind in Q8::ALL {
            let expected = gptq::quantize(kind, &w, n, &g, k, &GptqOptions::default()).unwrap();
            let got = on_device(&cuda, kind, &w, n, &g, &GptqOptions::default());
            compare_within(&got, &expected, 1e-2, &format!("{kind:?} [{n}, {k}] of {t} tokens"));
        }
    }
}

#[test]
fn dead_channels_and_rounding_to_nearest_are_exact() {
    let Some(cuda) = open() else { return };
    let (n, k) = (21, 133);
    let (mut w, g) = (noise(n * k, 15), gram(k, 400, 16, &[0, 11]));
    w[3 * k..4 * k].fill(-0.0);
    for kind in Q8::ALL {
        let nearest = rtn::quantize_rows(kind, &w, n, k).unwrap();
        let solver = cuda.solver().unwrap();
        let (plain, _) =
            gptq::solve_on(&cuda, solver, None, kind, &load(&cuda, n, k, &w), &GptqOptions::default()).unwrap();
        assert_eq!(plain.weight, nearest, "{kind:?}");
        let got = on_device(&cuda, kind, &w, n, &g, &GptqOptions::default());
        // Zeros lose their sign when errors of zero are added to them.
        for at in (0..n).filter(|row| *row != 3).flat_map(|row| [row * k, row * k + 11]) {
            assert_eq!(got.weight.codes[at], nearest.codes[at], "{kind:?}");
        }
    }
}

#[test]
fn falls_back_as_the_host_does() {
    let Some(cuda) = open() else { return };
    let (n, k) = (4, 8);
    let w = noise(n * k, 17);
    let square = |off: f32| -> Vec<f32> { (0..k * k).map(|i| if i % (k + 1) == 0 { 1.0 } else { off }).collect() };
    for gram in [vec![0.0; k * k], square(-9.0), square(f32::NAN), square(-0.2)] {
        let expected = gptq::quantize(Q8::Int8, &w, n, &gram, k, &GptqOptions::default()).unwrap();
        let got = on_device(&cuda, Q8::Int8, &w, n, &gram, &GptqOptions::default());
        compare(&got, &expected, "a Gram matrix that is none");
        if expected.fell_back_to_rtn {
            assert_eq!(got.weight, expected.weight);
        }
    }
}

#[test]
fn refuses_as_the_host_does() {
    let Some(cuda) = open() else { return };
    let (solver, options) = (cuda.solver().unwrap(), GptqOptions::default());
    let mut w = noise(3 * 5, 18);
    w[7] = f32::INFINITY;
    let expected = rtn::quantize_rows(Q8::Int8, &w, 3, 5).unwrap_err().to_string();
    let got = gptq::solve_on(&cuda, solver, None, Q8::Int8, &load(&cuda, 3, 5, &w), &options);
    assert_eq!(got.unwrap_err().to_string(), expected);
    let bad = [1.0, 0.0, 0.0, f32::INFINITY];
    let got = DeviceFactor::new(solver, &load(&cuda, 2, 2, &bad), &options).err().unwrap().to_string();
    assert!(got.contains("Gram diagonal of channel 1"), "{got}");
    let options = GptqOptions { damping: 0.0, ..options };
    let got = DeviceFactor::new(solver, &load(&cuda, 2, 2, &[1.0, 0.0, 0.0, 1.0]), &options).err().unwrap();
    assert!(got.to_string().starts_with("damping"));
}
