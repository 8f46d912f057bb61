//! The likeliest tokens and log-probabilities of large vocabularies.
use super::{Random, devices, floats, put};
use planish_cpu::Scalar;
use planish_tensor::Backend;

#[test]
fn argmax_of_large_vocabularies() {
    let mut random = Random(4);
    for cuda in devices(&[None, Some(75)]) {
        for v in [128_256, 262_144, 32_003, 4096, 4097, 1] {
            let mut x: Vec<f32> = random.floats(12 * v).iter().map(|l| (l * 100.0).round() / 4.0).collect();
            let last = v - 1;
            x[v + last] = f32::NAN;
            x[2 * v + v / 2] = -f32::NAN;
            x[3 * v..4 * v].fill(f32::NEG_INFINITY);
            x[4 * v + last] = f32::INFINITY;
            x[5 * v..6 * v].fill(-0.0);
            x[5 * v + v / 3] = 0.0;
            x[6 * v..7 * v].fill(-3.5);
            let expected = Scalar.argmax(&put(&Scalar, v, &x)).unwrap();
            assert_eq!(cuda.argmax(&put(&cuda, v, &x)).unwrap(), expected, "v = {v}");
            assert_eq!(cuda.argmax(&put(&cuda, v, &x[..v])).unwrap(), expected[..1], "v = {v}, one row");
        }
    }
}

#[test]
fn log_softmax_of_large_vocabularies() {
    let mut random = Random(5);
    for cuda in devices(&[None, Some(75)]) {
        let mut worst = 0f32;
        for v in [128_256, 262_144, 32_003, 4096, 4097, 1] {
            let mut x: Vec<f32> = random.floats(7 * v).iter().map(|l| l * 60.0).collect();
            x[v..v + v / 2].fill(f32::NEG_INFINITY);
            x[2 * v + v / 2] = f32::NAN;
            x[3 * v..4 * v].fill(f32::NEG_INFINITY);
            x[4 * v + v - 1] = f32::INFINITY;
            x[5 * v] = 3e38;
            fn run<B: Backend>(b: &B, v: usize, x: &[f32]) -> Vec<f32> {
                let mut x = put(b, v, x);
                b.log_softmax(&mut x).unwrap();
                floats(b, &x)
            }
            for (i, (want, got)) in run(&Scalar, v, &x).iter().zip(run(&cuda, v, &x)).enumerate() {
                assert_eq!(
                    (want.is_nan(), want.is_finite()),
                    (got.is_nan(), got.is_finite()),
                    "v = {v}, row {}",
                    i / v
                );
                if want.is_finite() {
                    worst = worst.max((want - got).abs() / want.abs().max(1.0));
                }
            }
        }
        println!("{}: log_softmax: worst {worst:.1e}", cuda.describe());
        assert!(worst < 1e-6);
    }
}
