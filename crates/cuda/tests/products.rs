//! Products beyond the conformance suite: gate and up joined in the epilogue, and a token's result in any company.
use planish_cpu::Scalar;
use planish_cuda::{Cuda, Options};
use planish_tensor::host::encode_f32;
use planish_tensor::{
    Activation, Attended, AttentionShape, Backend, Batch, DType, FloatMath, HostTensor, KvLayer, LinearPart, Projected,
    Q8, Q8Rows, Result, RopeTable, Tensor,
};

/// Pseudorandom numbers in -1..1, of a linear congruential generator.
fn floats(seed: u32, n: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// The first GPU with its own kernels and with those of older ones, one after the other, or a line that says why there is none.
fn devices(archs: &[Option<u32>], batch_invariant: bool) -> impl Iterator<Item = Cuda> {
    archs.iter().map_while(move |&kernels_of| {
        let opened = Cuda::open(Options { kernels_of, batch_invariant, ..Options::default() });
        opened.inspect_err(|error| println!("skipped: no device ({error})")).ok()
    })
}

/// The 8-bit types that a device multiplies.
fn kinds(cuda: &Cuda) -> impl Iterator<Item = Q8> {
    let fp8 = cuda.arch() >= 89;
    Q8::ALL.into_iter().filter(move |&kind| kind == Q8::Int8 || fp8)
}

fn bytes(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

fn part(kind: Q8, f: usize, k: usize, seed: u32) -> Result<LinearPart> {
    let weight = HostTensor::from_f32(vec![f, k], &floats(seed, f * k))?;
    LinearPart::float(weight, Some(floats(seed + 1, f))).quantized(kind)
}

/// Quantized tokens `[t, k]`.
fn tokens<B: Backend>(b: &B, kind: Q8, t: usize, k: usize) -> Result<Q8Rows<B>> {
    let mut x = b.alloc(b.activation_dtype(), t, k)?;
    b.upload(&bytes(&floats(7, t * k)), &mut x)?;
    let mut rows = b.alloc_q8(kind, t, k)?;
    let codes: Vec<u8> = floats(7, t * k).iter().map(|v| kind.encode(v * kind.activation_range())).collect();
    b.upload(&codes, &mut rows.codes)?;
    b.upload(&bytes(&floats(9, t)), &mut rows.scales)?;
    Ok(rows)
}

fn downloaded<B: Backend>(b: &B, x: &Tensor<B>) -> Result<Vec<f32>> {
    let mut bytes = vec![0; 4 * x.rows * x.cols];
    b.download(x, &mut bytes)?;
    Ok(bytes.chunks_exact(4).map(|c| f32::from_le_bytes([c[0], c[1], c[2], c[3]])).collect())
}

fn check(cuda: &Cuda, kind: Q8, act: Activation, [t, f, k]: [usize; 3]) -> Result<()> {
    let parts = [part(kind, f, k, 1)?, part(kind, f, k, 2)?];
    let (plain, joined) = (Scalar.load_linear(&parts)?, cuda.load_gated(&parts)?);
    let mut wide = Scalar.alloc(DType::F32, t, 2 * f)?;
    Scalar.gemm_w8a8(&tokens(&Scalar, kind, t, k)?, &plain, &mut wide)?;
    let mut expected = Scalar.alloc(DType::F32, t, f)?;
    Scalar.gated(&wide, act, &mut expected)?;

    let x = tokens(cuda, kind, t, k)?;
    let mut found_wide = cuda.alloc(DType::F32, t, 2 * f)?;
    cuda.gemm_w8a8(&x, &joined, &mut found_wide)?;
    let mut found = cuda.alloc(DType::F32, t, f)?;
    cuda.gemm_w8a8_gated(&x, &joined, act, &mut found)?;

    let tolerance = if kind == Q8::Int8 { 1e-6 } else { 2e-3 };
    for (expected, found) in [
        (downloaded(&Scalar, &wide)?, downloaded(cuda, &found_wide)?),
        (downloaded(&Scalar, &expected)?, downloaded(cuda, &found)?),
    ] {
        let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        for (i, (e, g)) in expected.iter().zip(&found).enumerate() {
            let place = format!("{kind:?} {act:?} [{t}, {f}, {k}] at {i}: {g} instead of {e}, {}", cuda.describe());
            assert!((e - g).abs() <= tolerance * largest, "{place}");
        }
    }
    Ok(())
}

#[test]
fn gate_and_up_meet_in_the_epilogue() {
    for cuda in devices(&[None, Some(89), Some(80), Some(75), Some(70)], false) {
        for [t, f, k] in
            [[1, 8, 64], [2, 40, 48], [3, 136, 4096], [9, 64, 130], [17, 24, 1040], [70, 200, 512], [300, 72, 96]]
        {
            for act in [Activation::Silu, Activation::GeluTanh] {
                kinds(&cuda).try_for_each(|kind| check(&cuda, kind, act, [t, f, k])).unwrap();
            }
        }
    }
}

type Product<'a> = &'a dyn Fn(&mut Tensor<Cuda>) -> Result<()>;

/// Results `[t, n]` of 16 bits are those of 32 bits, rounded to the nearest.
fn check_narrow(cuda: &Cuda, what: &str, [t, n]: [usize; 2], product: Product<'_>) -> Result<()> {
    let mut wide = cuda.alloc(DType::F32, t, n)?;
    product(&mut wide)?;
    let wide = downloaded(cuda, &wide)?;
    for dtype in [DType::BF16, DType::F16] {
        let mut narrow = cuda.alloc(dtype, t, n)?;
        cuda.upload(&vec![0xff; 2 * t * n], &mut narrow)?;
        product(&mut narrow)?;
        let mut found = vec![0; 2 * t * n];
        cuda.download(&narrow, &mut found)?;
        let expected = encode_f32(dtype, &wide)?;
        let differing = expected.chunks(2).zip(found.chunks(2)).position(|(e, f)| e != f);
        assert_eq!(differing.map(|i| [i / n, i % n]), None, "{what} to {dtype} [{t}, {n}] on {}", cuda.describe());
    }
    Ok(())
}

#[test]
fn results_of_sixteen_bits_are_rounded_ones() {
    for cuda in devices(&[None, Some(89), Some(80), Some(75), Some(70)], true) {
        for [t, n, k] in
            [[1, 64, 64], [3, 130, 4096], [17, 136, 130], [64, 1000, 1104], [129, 333, 512], [700, 1024, 528]]
        {
            for kind in kinds(&cuda).filter(|&kind| kind != Q8::E5M2) {
                let (w, x) = (cuda.load_linear(&[part(kind, n, k, 3).unwrap()]), tokens(&cuda, kind, t, k));
                let (w, x) = (w.unwrap(), x.unwrap());
                let product: Product<'_> = &|out| cuda.gemm_w8a8(&x, &w, out);
                check_narrow(&cuda, &format!("{kind:?} of {k}"), [t, n], product).unwrap();
            }
        }
    }
}

/// Sizes of gates, those of the tiles that store them together among them.
const GATES: [[usize; 3]; 7] = [
    [1, 64, 64],
    [17, 136, 144],
    [64, 328, 1104],
    [130, 512, 528],
    [256, 1000, 256],
    [700, 1024, 528],
    [2100, 2064, 272],
];

#[test]
fn gates_of_sixteen_bits_are_rounded_ones() {
    for cuda in devices(&[None, Some(89), Some(80)], true) {
        for (i, [t, f, k]) in GATES.into_iter().enumerate() {
            let act = [Activation::Silu, Activation::GeluTanh][i % 2];
            for kind in kinds(&cuda) {
                let w = cuda.load_gated(&[part(kind, f, k, 1).unwrap(), part(kind, f, k, 2).unwrap()]).unwrap();
                let x = tokens(&cuda, kind, t, k).unwrap();
                let product: Product<'_> = &|out| cuda.gemm_w8a8_gated(&x, &w, act, out);
                check_narrow(&cuda, &format!("{kind:?} {act:?} of {k}"), [t, f], product).unwrap();
            }
        }
    }
}

/// The codes of gates are those of what the product joins; in FP8 on sm_90 of that rounded to bf16, for any number of tokens.
fn check_codes_of_gates(cuda: &Cuda, kind: Q8, [t, f, k]: [usize; 3]) -> Result<()> {
    let w = cuda.load_gated(&[part(kind, f, k, 1)?, part(kind, f, k, 2)?])?;
    let x = tokens(cuda, kind, t, k)?;
    let rounded = cuda.arch() == 90 && kind != Q8::Int8;
    let mut joined = cuda.alloc(if rounded { DType::BF16 } else { DType::F32 }, t, f)?;
    cuda.gemm_w8a8_gated(&x, &w, Activation::Silu, &mut joined)?;
    let (mut expected, mut found) = (cuda.alloc_q8(kind, t, f)?, cuda.alloc_q8(kind, t, f)?);
    cuda.quantize_rows(&joined, &mut expected)?;
    let (mut gate_up, mut inner) = (cuda.alloc(DType::F32, t, 2 * f)?, cuda.alloc(DType::F32, t, f)?);
    cuda.gemm_gated_quantize(&x, &w, Activation::Silu, &mut gate_up, &mut inner, &mut found)?;
    assert_eq!(inner.dtype, DType::F32);
    let what = format!("{kind:?} [{t}, {f}, {k}] on {}", cuda.describe());
    let codes = |q: &Q8Rows<Cuda>| -> Result<Vec<u8>> {
        let mut codes = vec![0; t * f];
        cuda.download(&q.codes, &mut codes)?;
        Ok(codes)
    };
    assert!(codes(&expected)? == codes(&found)?, "{what}");
    assert_eq!(downloaded(cuda, &expected.scales)?, downloaded(cuda, &found.scales)?, "{what}");
    Ok(())
}

#[test]
fn codes_of_gates_have_one_rounding_for_any_number_of_tokens() {
    for cuda in devices(&[None, Some(89)], true) {
        for size in GATES {
            kinds(&cuda).try_for_each(|kind| check_codes_of_gates(&cuda, kind, size)).unwrap();
        }
    }
}

/// The rows of a product of `t` tokens equal those of products of fewer, bit for bit.
fn same(cuda: &Cuda, product: &dyn Fn(usize) -> Result<Vec<f32>>, n: usize, what: &str) -> Result<()> {
    let all = product(300)?;
    for t in [1, 3, 8, 14, 32, 60, 129] {
        let some = product(t)?;
        let equal = some.iter().zip(&all[..t * n]).all(|(a, b)| a.to_bits() == b.to_bits());
        assert!(equal, "{what}: {t} tokens of 300 on {}", cuda.describe());
    }
    Ok(())
}

#[test]
fn a_token_is_the_same_in_any_company() {
    for cuda in devices(&[Some(89), Some(80), Some(75), Some(70)], true) {
        let (n, k) = (1000, 1104);
        for kind in kinds(&cuda) {
            let w = cuda.load_linear(&[part(kind, n, k, 3).unwrap()]).unwrap();
            let product = |t| {
                let mut out = cuda.alloc(DType::F32, t, n)?;
                cuda.gemm_w8a8(&tokens(&cuda, kind, t, k)?, &w, &mut out)?;
                downloaded(&cuda, &out)
            };
            same(&cuda, &product, n, &format!("{kind:?}")).unwrap();
        }
        for (dtype, math) in [
            (DType::F32, FloatMath::F32),
            (DType::BF16, FloatMath::F32),
            (DType::BF16, FloatMath::Bf16),
            (DType::F32, FloatMath::Bf16),
        ] {
            let values = floats(5, n * k);
            let bytes = match dtype {
                DType::F32 => bytes(&values),
                _ => values.iter().flat_map(|v| ((v.to_bits() >> 16) as u16).to_le_bytes()).collect(),
            };
            let weight = HostTensor::from_bytes(dtype, vec![n, k], bytes).unwrap();
            let w = cuda.load_linear(&[LinearPart::float(weight, None)]).unwrap();
            let product = |t| {
                let mut x = cuda.alloc(DType::F32, t, k)?;
                cuda.upload(&self::bytes(&floats(11, t * k)), &mut x)?;
                let mut out = cuda.alloc(DType::F32, t, n)?;
                cuda.gemm_float(&x, &w, math, &mut out)?;
                downloaded(&cuda, &out)
            };
            same(&cuda, &product, n, &format!("{dtype} {math:?}")).unwrap();
        }
    }
}

/// A product that is added as it is stored equals, bit for bit, the product that is added afterwards; whether the device
/// did so.
fn check_added(cuda: &Cuda, kind: Q8, [t, n, k]: [usize; 3]) -> Result<bool> {
    let w = cuda.load_linear(&[part(kind, n, k, 3)?])?;
    let x = tokens(cuda, kind, t, k)?;
    let before = floats(13, t * n);
    let sum = || -> Result<_> {
        let mut sum = cuda.alloc(DType::F32, t, n)?;
        cuda.upload(&bytes(&before), &mut sum)?;
        Ok(sum)
    };
    let (mut expected, mut found) = (sum()?, sum()?);
    let mut product = cuda.alloc(DType::F32, t, n)?;
    cuda.gemm_w8a8(&x, &w, &mut product)?;
    cuda.add(&mut expected, &product)?;
    let mut left = cuda.alloc(DType::F32, t, n)?;
    let added = cuda.gemm_w8a8_add(&x, &w, &mut found, &mut left)?;
    if !added {
        assert!(downloaded(cuda, &found)? == before, "{kind:?} [{t}, {n}, {k}]: not added, and yet changed");
        cuda.add(&mut found, &left)?;
    }
    let (expected, found) = (downloaded(cuda, &expected)?, downloaded(cuda, &found)?);
    let equal = expected.iter().zip(&found).all(|(e, f)| e.to_bits() == f.to_bits());
    assert!(equal, "{kind:?} [{t}, {n}, {k}] on {}, added: {added}", cuda.describe());
    Ok(added)
}

#[test]
fn products_are_added_as_they_are_stored() {
    for cuda in devices(&[None, Some(80)], false) {
        for [t, n, k] in [
            [1, 64, 64],
            [17, 1000, 1104],
            [33, 4096, 512],
            [64, 130, 4096],
            [129, 136, 8192],
            [300, 513, 96],
            [700, 1024, 528],
        ] {
            for kind in kinds(&cuda) {
                let added = check_added(&cuda, kind, [t, n, k]).unwrap();
                assert!(added == (cuda.arch() == 90) || t <= 16, "{kind:?} {t}");
            }
        }
    }
}

/// A batch of one prompt, on pages of 64 in the reverse order.
fn prompt(t: usize) -> (Batch, usize) {
    const PAGE: usize = 64;
    let pages = t.div_ceil(PAGE);
    let page = |position: usize| (pages - 1 - position / PAGE) as u32;
    let batch = Batch {
        tokens: vec![0; t],
        positions: (0..t as u32).collect(),
        slots: (0..t).map(|i| page(i) * PAGE as u32 + (i % PAGE) as u32).collect(),
        query_starts: vec![0, t as u32],
        kv_lens: vec![t as u32],
        page_tables: (0..pages).map(|i| page(i * PAGE)).collect(),
        pages_per_seq: pages,
        page_size: PAGE,
        ..Batch::default()
    };
    (batch, pages)
}

/// A batch of prompts of seven tokens, the last of which may be shorter.
fn prompts_of_seven(t: usize) -> (Batch, usize) {
    let lengths: Vec<usize> = (0..t).step_by(7).map(|first| (t - first).min(7)).collect();
    (Batch::fresh(&lengths, 64), lengths.len())
}

/// Heads that are rotated and stored as their product ends equal, bit for bit, those that are rotated and stored
/// afterwards; whether the device did so.
fn check_heads(cuda: &Cuda, kind: Q8, kv: DType, shape: &AttentionShape, [t, k]: [usize; 2]) -> Result<bool> {
    let half = shape.d / 2;
    let angles: Vec<f32> = floats(15, t * half).iter().flat_map(|a| [(9.0 * a).cos(), (9.0 * a).sin()]).collect();
    let mut cos_sin = cuda.alloc(DType::F32, t, 2 * half)?;
    cuda.upload(&bytes(&angles), &mut cos_sin)?;
    let rope = RopeTable { cos_sin, half, interleaved: false };
    let (w, x) = (cuda.load_linear(&[part(kind, shape.qkv_width(), k, 3)?])?, tokens(cuda, kind, t, k)?);
    // One prompt, or many whose positions begin anew within the tokens of a warp.
    let (batch, pages) = if t % 3 == 0 { prompts_of_seven(t) } else { prompt(t) };
    let batch = cuda.upload_batch(&batch, pages)?;
    let untouched = vec![7.5f32; t * shape.qkv_width()];
    let mut found = Vec::new();
    for together in [true, false] {
        let mut layer = KvLayer::new(cuda, kv, pages, 64 * shape.nkv, shape.d)?;
        let mut qkv = cuda.alloc(DType::F32, t, shape.qkv_width())?;
        cuda.upload(&bytes(&untouched), &mut qkv)?;
        let mut scratch = cuda.alloc(DType::F32, t, shape.nq * shape.d)?;
        let mut codes = cuda.alloc_q8(kind, t, shape.nq * shape.d)?;
        let to = Attended { scratch: &mut scratch, out: &mut codes };
        if together {
            let from = Projected { x: &x, w: &w, qkv: &mut qkv };
            cuda.gemm_rope_attention_quantize(from, Some(&rope), shape, &batch, &mut layer, to)?;
        } else {
            cuda.gemm_w8a8(&x, &w, &mut qkv)?;
            cuda.rope_attention_quantize(&mut qkv, Some(&rope), shape, &batch, &mut layer, to)?;
        }
        let mut all = vec![0; t * shape.nq * shape.d];
        cuda.download(&codes.codes, &mut all)?;
        for tensor in layer.tensors_mut().map(|t| &*t).chain([&codes.scales, &scratch]) {
            let start = all.len();
            all.resize(start + tensor.rows * tensor.cols * tensor.dtype.size(), 0);
            cuda.download(tensor, &mut all[start..])?;
        }
        let keys = downloaded(cuda, &qkv)?;
        found.push((all, keys[shape.nq * shape.d] == 7.5));
    }
    let what = format!("{kind:?} over {kv}, {shape:?} [{t}, {k}] on {}", cuda.describe());
    let differing = found[0].0.iter().zip(&found[1].0).filter(|(a, b)| a != b).count();
    assert_eq!(differing, 0, "{what}: of {} bytes", found[0].0.len());
    assert!(!found[1].1, "{what}: without keys");
    Ok(found[0].1)
}

#[test]
fn heads_are_rotated_and_stored_as_products_end() {
    let shape = |nq, nkv, d: usize| AttentionShape { nq, nkv, d, scale: 0.1, window: None, softcap: None };
    for cuda in devices(&[None, Some(89)], false) {
        for kind in [Q8::Int8, Q8::E4M3, Q8::E5M2] {
            for (i, t) in [40, 65, 128, 200, 256, 300, 512, 777, 1000, 1100, 2100].into_iter().enumerate() {
                let kv = [DType::BF16, DType::I8, DType::F8E4M3, DType::F32][(i + i / 4) % 4];
                for (shape, rows_of_heads) in
                    [(shape(32, 8, 128), true), (shape(10, 2, 64), true), (shape(9, 3, 64), false)]
                {
                    let stored = check_heads(&cuda, kind, kv, &shape, [t, 528]).unwrap();
                    let may = cuda.arch() == 90 && kind != Q8::E5M2 && rows_of_heads;
                    assert!(may || !stored, "{kind:?} {shape:?} {t}");
                    assert!(!may || stored == (t >= 256), "{kind:?} {shape:?} {t}");
                }
            }
        }
    }
}
