//! Operations on rows where the common suite does not look: every code, wide rows, large vocabularies, odd Gram matrices.
mod logits;

use planish_cpu::Scalar;
use planish_cuda::{Cuda, Options};
use planish_tensor::host::encode_f32;
use planish_tensor::{
    Activation, Backend, Batch, CHOSEN, DType, FloatMath, HostTensor, Q8, SampleRow, Tensor, float8, q8,
};

/// The first GPU with its own kernels and with those of older ones, or a line that says why there is none.
fn devices(archs: &[Option<u32>]) -> Vec<Cuda> {
    let open = |&kernels_of: &Option<u32>| Cuda::open(Options { kernels_of, ..Options::default() });
    match archs.iter().map(open).collect() {
        Ok(devices) => devices,
        Err(error) => {
            println!("skipped: no device ({error})");
            Vec::new()
        }
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// In (-1, 1), more often small.
    fn floats(&mut self, n: usize) -> Vec<f32> {
        let mut unit = || (self.next() >> 40) as f32 / (1u64 << 23) as f32 - 1.0;
        (0..n).map(|_| unit() * unit()).collect()
    }
}

fn put<B: Backend>(b: &B, cols: usize, values: &[f32]) -> Tensor<B> {
    let mut tensor = b.alloc(DType::F32, values.len() / cols, cols).unwrap();
    b.upload(bytemuck::cast_slice(values), &mut tensor).unwrap();
    tensor
}

/// A matrix that no operation has written to.
fn poisoned<B: Backend>(b: &B, rows: usize, cols: usize) -> Tensor<B> {
    put(b, cols, &vec![1e30; rows * cols])
}

fn floats<B: Backend>(b: &B, tensor: &Tensor<B>) -> Vec<f32> {
    let mut values = vec![0f32; tensor.rows * tensor.cols];
    b.download(tensor, bytemuck::cast_slice_mut(&mut values)).unwrap();
    values
}

fn bits(values: &[f32]) -> Vec<u32> {
    values.iter().map(|v| if v.is_nan() { u32::MAX } else { v.to_bits() }).collect()
}

/// Codes and scales of the rows of `x`.
fn quantized<B: Backend>(b: &B, kind: Q8, x: &[f32], cols: usize) -> (Vec<u8>, Vec<f32>) {
    codes_of(b, kind, &put(b, cols, x))
}

fn codes_of<B: Backend>(b: &B, kind: Q8, x: &Tensor<B>) -> (Vec<u8>, Vec<f32>) {
    let mut out = b.alloc_q8(kind, x.rows, x.cols).unwrap();
    b.quantize_rows(x, &mut out).unwrap();
    read_q8(b, &out)
}

fn read_q8<B: Backend>(b: &B, out: &planish_tensor::Q8Rows<B>) -> (Vec<u8>, Vec<f32>) {
    let mut codes = vec![0u8; out.codes.rows * out.codes.cols];
    b.download(&out.codes, &mut codes).unwrap();
    (codes, floats(b, &out.scales))
}

/// Compares with the definition, bit for bit: `x` itself, and rounded to bf16.
fn expect_definition(cuda: &Cuda, kind: Q8, x: &[f32], cols: usize) {
    expect_codes(cuda, kind, x, cols, quantized(cuda, kind, x, cols));
    let narrow = encode_f32(DType::BF16, x).unwrap();
    let mut rounded = cuda.alloc(DType::BF16, x.len() / cols, cols).unwrap();
    cuda.upload(&narrow, &mut rounded).unwrap();
    let wide = |pair: &[u8]| f32::from_bits(u32::from(u16::from_le_bytes([pair[0], pair[1]])) << 16);
    let x: Vec<f32> = narrow.chunks_exact(2).map(wide).collect();
    expect_codes(cuda, kind, &x, cols, codes_of(cuda, kind, &rounded));
}

fn expect_codes(cuda: &Cuda, kind: Q8, x: &[f32], cols: usize, (codes, scales): (Vec<u8>, Vec<f32>)) {
    for (r, row) in x.chunks(cols).enumerate() {
        let mut expected = vec![9u8; cols];
        let scale = q8::quantize_activation_row(kind, row, &mut expected);
        assert_eq!(bits(&[scale]), bits(&scales[r..=r]), "{} {kind:?} [{r}, {cols}]", cuda.describe());
        let found = &codes[r * cols..][..cols];
        if let Some(i) = (0..cols).find(|&i| found[i] != expected[i]) {
            let (x, units) = (row[i], row[i] / scale);
            panic!(
                "{} {kind:?} [{r}, {i}]: {x:e} = {units:e} units: {} for {}",
                cuda.describe(),
                found[i],
                expected[i]
            );
        }
    }
}

/// Borders between codes and their neighbours, and floats of every exponent, from 0 to the range.
fn units(kind: Q8) -> Vec<f32> {
    let range = kind.activation_range();
    let mut units: Vec<f32> = (0..range.to_bits()).step_by(487).map(f32::from_bits).collect();
    let values: Vec<f32> = match kind {
        Q8::Int8 => (0..=127).map(|i| i as f32).collect(),
        Q8::E4M3 => (0..=0x7E).map(float8::e4m3_to_f32).collect(),
        Q8::E5M2 => (0..=0x7B).map(float8::e5m2_to_f32).collect(),
    };
    for pair in values.windows(2) {
        for near in [pair[0], (pair[0] + pair[1]) / 2.0, pair[1]] {
            units.extend((0..=8u32).map(|i| f32::from_bits((near.to_bits() + i).saturating_sub(4))));
        }
    }
    units.retain(|&u| u <= range);
    let negative: Vec<f32> = units.iter().map(|u| -u).collect();
    units.extend(negative);
    units
}

#[test]
fn every_code_on_a_scale_of_one() {
    for cuda in devices(&[None, Some(89), Some(80)]) {
        for kind in Q8::ALL {
            let units = units(kind);
            for (i, some) in units.chunks(units.len().div_ceil(6)).enumerate() {
                let cols = [4096, 999, 14336, 32768, 65536, 5][i];
                let mut x = vec![0f32; some.len().div_ceil(cols - 1) * cols];
                for (row, some) in x.chunks_mut(cols).zip(some.chunks(cols - 1)) {
                    row[0] = kind.activation_range();
                    row[1..=some.len()].copy_from_slice(some);
                }
                expect_definition(&cuda, kind, &x, cols);
            }
        }
    }
}

#[test]
fn every_scale() {
    let mut random = Random(1);
    for cuda in devices(&[None, Some(80)]) {
        for kind in Q8::ALL {
            // Any bits: subnormals, infinities and NaN among them.
            let wild: Vec<f32> = (0..4096 * 64).map(|_| f32::from_bits(random.next() as u32)).collect();
            expect_definition(&cuda, kind, &wild[..4096 * 4], 4096);
            expect_definition(&cuda, kind, &wild, 16);
            expect_definition(&cuda, kind, &wild[..65537], 1);
            // Rows of every magnitude.
            let mut x = random.floats(300 * 67);
            for (i, row) in x.chunks_mut(67).enumerate() {
                row.iter_mut().for_each(|v| *v *= 2f32.powi((i as i32 - 151).clamp(-149, 127)));
            }
            expect_definition(&cuda, kind, &x, 67);
            for cols in [1, 2, 3, 6, 2048, 2052, 8192, 16388, 28672, 65536] {
                let x = random.floats(2 * cols);
                expect_definition(&cuda, kind, &x, cols);
            }
        }
    }
}

/// Sums of squares in f64 leave nothing of their order but very rarely: the norm is the definition's to the bit.
#[test]
fn norms_of_any_width() {
    let mut random = Random(2);
    for cuda in devices(&[None, Some(75)]) {
        let (mut all, mut differing, mut other_codes) = (0, 0, 0);
        for h in [1, 3, 100, 576, 2048, 4096, 4097, 5120, 8192, 16384, 20000, 65536] {
            let (x, delta, weight) = (random.floats(5 * h), random.floats(5 * h), random.floats(h));
            fn run<B: Backend>(b: &B, h: usize, x: &[f32], delta: &[f32], weight: &[f32]) -> (Vec<f32>, Vec<f32>) {
                let (mut x, weight, mut out) = (put(b, h, x), put(b, h, weight), poisoned(b, 5, h));
                b.add_rms_norm(&mut x, Some(&put(b, h, delta)), &weight, 1e-5, &mut out).unwrap();
                (floats(b, &x), floats(b, &out))
            }
            let expected = run(&Scalar, h, &x, &delta, &weight);
            let found = run(&cuda, h, &x, &delta, &weight);
            assert_eq!(bits(&expected.0), bits(&found.0), "x += delta, h = {h}");
            all += 5 * h;
            differing += expected.1.iter().zip(&found.1).filter(|(a, b)| a.to_bits() != b.to_bits()).count();
            for kind in Q8::ALL {
                let mut x = put(&cuda, h, &x);
                let (delta, weight, mut scratch) =
                    (put(&cuda, h, &delta), put(&cuda, h, &weight), poisoned(&cuda, 5, h));
                let mut out = cuda.alloc_q8(kind, 5, h).unwrap();
                cuda.add_rms_norm_quantize(&mut x, Some(&delta), &weight, 1e-5, &mut scratch, &mut out).unwrap();
                let codes = read_q8(&cuda, &out);
                assert_eq!(codes, quantized(&cuda, kind, &found.1, h), "fused, h = {h}");
                let reference = quantized(&Scalar, kind, &expected.1, h);
                other_codes += codes.0.iter().zip(&reference.0).filter(|(a, b)| a != b).count();
            }
        }
        println!("{}: norms: {differing} of {all} values and {other_codes} of their codes differ", cuda.describe());
        assert!(differing * 1000 <= all && other_codes * 10_000 <= all);
    }
}

/// Codes of many rows, by other kernels than those of a few: those of the norm itself; and of rows in f32 and in bf16.
#[test]
fn rows_by_the_thousand() {
    let mut random = Random(12);
    const ROWS: usize = 1100;
    for cuda in devices(&[None, Some(75)]) {
        for h in [512, 1024, 1040, 4096] {
            let (mut x, delta) = (random.floats(ROWS * h), random.floats(ROWS * h));
            let weight = random.floats(h);
            x[3 * h + 5] = f32::NAN;
            x[1030 * h + h - 1] = f32::INFINITY;
            x[1099 * h..].fill(0.0);
            for delta in [None, Some(&delta)] {
                let (delta, weight) = (delta.map(|d| put(&cuda, h, d)), put(&cuda, h, &weight));
                let (mut sums, mut normed) = (put(&cuda, h, &x), poisoned(&cuda, ROWS, h));
                cuda.add_rms_norm(&mut sums, delta.as_ref(), &weight, 1e-5, &mut normed).unwrap();
                let normed = floats(&cuda, &normed);
                for kind in Q8::ALL {
                    let (mut x, mut scratch) = (put(&cuda, h, &x), poisoned(&cuda, ROWS, h));
                    let mut out = cuda.alloc_q8(kind, ROWS, h).unwrap();
                    cuda.add_rms_norm_quantize(&mut x, delta.as_ref(), &weight, 1e-5, &mut scratch, &mut out).unwrap();
                    expect_codes(&cuda, kind, &normed, h, read_q8(&cuda, &out));
                    assert_eq!(bits(&floats(&cuda, &x)), bits(&floats(&cuda, &sums)), "{kind:?}, h = {h}");
                }
            }
            Q8::ALL.into_iter().for_each(|kind| expect_definition(&cuda, kind, &x, h));
        }
    }
}

#[test]
fn gates_of_any_width() {
    let mut random = Random(3);
    for cuda in devices(&[None, Some(80)]) {
        for act in [Activation::Silu, Activation::GeluTanh] {
            let (mut all, mut other, mut worst) = (0, 0, 0f64);
            for f in [1, 2, 6, 1536, 2050, 8192, 14336, 28672, 40000] {
                let x: Vec<f32> = random.floats(6 * f).iter().map(|v| v * 20.0).collect();
                fn run<B: Backend>(b: &B, f: usize, act: Activation, x: &[f32]) -> (Vec<f32>, (Vec<u8>, Vec<f32>)) {
                    let (x, mut out) = (put(b, 2 * f, x), poisoned(b, 3, f));
                    b.gated(&x, act, &mut out).unwrap();
                    let mut codes = b.alloc_q8(Q8::Int8, 3, f).unwrap();
                    b.gated_quantize(&x, act, &mut poisoned(b, 3, f), &mut codes).unwrap();
                    (floats(b, &out), read_q8(b, &codes))
                }
                let (expected, found) = (run(&Scalar, f, act, &x), run(&cuda, f, act, &x));
                for (a, b) in expected.0.iter().zip(&found.0) {
                    worst = worst.max((*a as f64 - *b as f64).abs() / (a.abs() as f64).max(1e-25));
                }
                assert_eq!(found.1, quantized(&cuda, Q8::Int8, &found.0, f), "fused, f = {f}");
                all += 3 * f;
                other += expected.1.0.iter().zip(&found.1.0).filter(|(a, b)| a != b).count();
            }
            println!("{}: {act:?}: worst {worst:.1e}, {other} of {all} codes differ", cuda.describe());
            assert!(worst < 1e-6 && other * 2000 <= all);
        }
    }
}

#[test]
fn gram_matrices_of_odd_sizes() {
    let mut random = Random(6);
    for cuda in devices(&[None, Some(80), Some(75)]) {
        for (t, k) in
            [(1, 1), (3, 50), (257, 47), (64, 96), (1000, 129), (33, 640), (130, 513), (2048, 256), (4500, 2500)]
        {
            let (x, before) = (random.floats(t * k), random.floats(k * k));
            for math in [FloatMath::F32, FloatMath::Bf16] {
                let mut gram = put(&cuda, k, &before);
                cuda.accumulate_gram(&put(&cuda, k, &x), math, &mut gram).unwrap();
                let found = floats(&cuda, &gram);
                let brain = |v: f32| f32::from_bits((v.to_bits() + 0x7fff + (v.to_bits() >> 16 & 1)) & 0xffff_0000);
                let of = |v: f32| f64::from(if math == FloatMath::Bf16 { brain(v) } else { v });
                // Some elements of large matrices.
                for at in (0..k * k).step_by(1 + t * k * k / 100_000_000 * 13) {
                    let (i, j, g, b) = (at / k, at % k, found[at], before[at]);
                    if j > i {
                        assert_eq!(
                            g.to_bits(),
                            b.to_bits(),
                            "the upper triangle is left alone: t={t} k={k} [{i}, {j}]"
                        );
                        continue;
                    }
                    let terms = x.chunks_exact(k).map(|row| of(row[i]) * of(row[j]));
                    let (sum, size) = terms.fold((b as f64, b.abs() as f64), |(s, m), v| (s + v, m + v.abs()));
                    let error = (g as f64 - sum).abs() / size;
                    assert!(
                        error <= if math == FloatMath::Bf16 { 3e-5 } else { 4e-6 },
                        "{math:?} t={t} k={k} [{i}, {j}]: {g} for {sum}, {error:.1e}"
                    );
                }
            }
        }
    }
}

#[test]
fn column_maxima_keep_nan() {
    let mut random = Random(7);
    for cuda in devices(&[None]) {
        let (t, k) = (777, 1003);
        let mut x = random.floats(t * k);
        (x[5 * k + 7], x[700 * k + 8], x[776 * k + 9]) = (-f32::NAN, f32::NEG_INFINITY, -2.0);
        let before = random.floats(k).iter().map(|v| v.abs()).collect::<Vec<_>>();
        fn run<B: Backend>(b: &B, k: usize, x: &[f32], before: &[f32]) -> Vec<f32> {
            let mut absmax = put(b, k, before);
            b.observe_columns(&put(b, k, x), &mut absmax).unwrap();
            floats(b, &absmax)
        }
        assert_eq!(bits(&run(&cuda, k, &x, &before)), bits(&run(&Scalar, k, &x, &before)));
    }
}

#[test]
fn tokens_beyond_the_table_are_not_read() {
    for cuda in devices(&[None]) {
        let table = cuda.load(&HostTensor::from_f32(vec![4, 6], &[0.5; 24]).unwrap()).unwrap();
        let mut batch = Batch::fresh(&[3], 16);
        batch.tokens = vec![3, 4, u32::MAX];
        let batch = cuda.upload_batch(&batch, 1).unwrap();
        let mut out = poisoned(&cuda, 3, 6);
        cuda.embed(&table, &batch, 2.0, &mut out).unwrap();
        let found = floats(&cuda, &out);
        assert_eq!(found[..6], [1.0; 6]);
        assert!(found[6..].iter().all(|v| v.is_nan()));
    }
}

/// Tokens chosen ahead are those that are chosen otherwise, the next batch reads them on the device, and they are told in
/// order, two steps late.
#[test]
fn tokens_chosen_ahead_are_read_by_the_next_batch() {
    let (rows, v) = (5, 5000);
    let mut random = Random(8);
    let sampled = |i: usize| SampleRow { temperature: 0.7, point: i as f64 / 5.0, top_k: 40, ..SampleRow::GREEDY };
    for cuda in devices(&[None, Some(80)]) {
        let ids: Vec<f32> = (0..v).map(|id| id as f32).collect();
        let table = cuda.load(&HostTensor::from_f32(vec![v, 1], &ids).unwrap()).unwrap();
        let mut expected = Vec::new();
        for turn in 0..4 {
            let logits = put(&cuda, v, &random.floats(rows * v).iter().map(|x| 20.0 * x).collect::<Vec<_>>());
            let rules: Vec<SampleRow> = (0..if turn % 2 == 0 { 0 } else { rows }).map(sampled).collect();
            let numbered: Vec<(u32, &SampleRow)> = (0..).zip(&rules).collect();
            let tokens: Vec<u32> = match rules.is_empty() {
                true => cuda.argmax(&logits).unwrap(),
                false => cuda.sample(&logits, &numbered).unwrap().into_iter().map(Option::unwrap).collect(),
            };
            assert!(cuda.choose_ahead(&logits, &rules.iter().collect::<Vec<_>>()).unwrap());
            let mut batch = Batch::fresh(&[4], 16);
            batch.tokens = vec![CHOSEN | 4, 7, CHOSEN, CHOSEN | 2];
            let batch = cuda.upload_batch(&batch, 1).unwrap();
            let mut out = poisoned(&cuda, 4, 1);
            cuda.embed(&table, &batch, 1.0, &mut out).unwrap();
            assert_eq!(floats(&cuda, &out), [tokens[4] as f32, 7.0, tokens[0] as f32, tokens[2] as f32]);
            expected.push(tokens);
            if turn > 0 {
                assert_eq!(cuda.chosen_ahead().unwrap(), expected[turn - 1]);
            }
        }
        assert_eq!(cuda.chosen_ahead().unwrap(), expected[3]);
        assert!(cuda.chosen_ahead().is_err());
        let long = SampleRow { top_k: 4000, top_p: 0.9, temperature: 1.0, ..SampleRow::GREEDY };
        let logits = put(&cuda, v, &random.floats(v));
        assert!(!cuda.choose_ahead(&logits, &[&long]).unwrap(), "left to the host");
    }
}
