//! Attention of many sequences at once gives the bits that each has in small company, by whichever kernel; and what its codes
//! are made of.
use planish_cpu::Scalar;
use planish_cuda::{Cuda, Options};
use planish_tensor::{
    AttentionShape, Backend, Batch, DType, KvLayer, Q8, Q8Rows, Result, RopeTable, Tensor, host::encode_f32,
};

const PAGE: usize = 64;

/// Pseudorandom numbers in -1..1, of a linear congruential generator.
fn floats(seed: u32, n: usize) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / 8_388_608.0 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

fn uploaded<B: Backend>(b: &B, rows: usize, cols: usize, values: &[f32]) -> Result<Tensor<B>> {
    let mut tensor = b.alloc(DType::F32, rows, cols)?;
    b.upload(bytemuck::cast_slice(values), &mut tensor)?;
    Ok(tensor)
}

/// The last token of each of these sequences, whose earlier ones are in the cache.
fn last_tokens(all: &Batch, sequences: std::ops::Range<usize>) -> Batch {
    let (s, lens) = (sequences.len(), &all.kv_lens[sequences.clone()]);
    let ends = &all.query_starts[sequences.start + 1..=sequences.end];
    let tables = sequences.start * all.pages_per_seq..sequences.end * all.pages_per_seq;
    Batch {
        positions: lens.iter().map(|n| n - 1).collect(),
        slots: ends.iter().map(|&end| all.slots[end as usize - 1]).collect(),
        query_starts: (0..=s as u32).collect(),
        kv_lens: lens.to_vec(),
        page_tables: all.page_tables[tables].to_vec(),
        ..all.clone()
    }
}

fn attended(cuda: &Cuda, shape: &AttentionShape, batch: &Batch, q: &[f32], kv: &KvLayer<Cuda>) -> Result<Vec<u32>> {
    let (s, width) = (batch.kv_lens.len(), shape.nq * shape.d);
    let qkv = uploaded(cuda, s, shape.qkv_width(), q)?;
    let mut out = cuda.alloc(DType::F32, s, width)?;
    cuda.paged_attention(&qkv, shape, &cuda.upload_batch(batch, kv.k.rows)?, kv, &mut out)?;
    let mut bytes = vec![0u8; 4 * s * width];
    cuda.download(&out, &mut bytes)?;
    Ok(bytes.chunks_exact(4).map(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect())
}

fn check(cuda: &Cuda, dtype: DType, shape: &AttentionShape) -> Result<()> {
    // Every length of a piece and a segment and their neighbours, and some long ones.
    let lengths: Vec<usize> = (1..=260).step_by(3).chain(120..=136).chain((500..1500).step_by(30)).collect();
    let all = Batch::fresh(&lengths, PAGE);
    let pages = lengths.iter().map(|n| n.div_ceil(PAGE)).sum::<usize>();
    let mut kv = KvLayer::new(cuda, dtype, pages, shape.nkv * PAGE, shape.d)?;
    let width = shape.qkv_width();
    let mut qkv = uploaded(cuda, all.t(), width, &floats(5, all.t() * width))?;
    cuda.rope_store_kv(&mut qkv, None, shape, &cuda.upload_batch(&all, pages)?, &mut kv)?;
    let q = floats(9, lengths.len() * width);
    let together = attended(cuda, shape, &last_tokens(&all, 0..lengths.len()), &q, &kv)?;
    let row = shape.nq * shape.d;
    for first in (0..lengths.len()).step_by(16) {
        let some = first..(first + 16).min(lengths.len());
        let few = last_tokens(&all, some.clone());
        let expected = attended(cuda, shape, &few, &q[some.start * width..some.end * width], &kv)?;
        for (i, (e, f)) in expected.iter().zip(&together[some.start * row..some.end * row]).enumerate() {
            let place = format!("{dtype} {shape:?}, {} keys, channel {}", lengths[first + i / row], i % row);
            assert_eq!(e, f, "{place}: {} instead of {}", f32::from_bits(*f), f32::from_bits(*e));
        }
    }
    Ok(())
}

fn check_all(dtype: DType) {
    let cuda = match Cuda::open(Options::default()) {
        Ok(cuda) => cuda,
        Err(error) => return println!("skipped: no device ({error})"),
    };
    let plain = AttentionShape { nq: 32, nkv: 8, d: 128, scale: 0.088, window: None, softcap: None };
    for shape in [
        plain,
        AttentionShape { nq: 8, ..plain },
        AttentionShape { nq: 56, ..plain },
        AttentionShape { nq: 16, window: Some(200), ..plain },
        AttentionShape { softcap: Some(3.0), ..plain },
    ] {
        check(&cuda, dtype, &shape).unwrap_or_else(|e| panic!("{dtype} {shape:?}: {e}"));
    }
}

#[test]
fn many_sequences_attend_as_few_do_over_int8() {
    check_all(DType::I8);
}

#[test]
fn many_sequences_attend_as_few_do_over_fp8() {
    check_all(DType::F8E4M3);
}

#[test]
fn many_sequences_attend_as_few_do_over_bf16() {
    check_all(DType::BF16);
}

fn read(cuda: &Cuda, rows: &Q8Rows<Cuda>) -> Result<Vec<u8>> {
    let mut bytes = vec![0u8; rows.codes.rows * (rows.codes.cols + 4)];
    let (codes, scales) = bytes.split_at_mut(rows.codes.rows * rows.codes.cols);
    cuda.download(&rows.codes, codes)?;
    cuda.download(&rows.scales, scales)?;
    Ok(bytes)
}

/// Codes are those of the sums in f32 or, where tensor cores of sm_90 attend for FP8, of these rounded to bf16; which differ.
fn check_codes(
    cuda: &Cuda,
    kind: Q8,
    shape: &AttentionShape,
    batch: &Batch,
    q: &[f32],
    kv: &KvLayer<Cuda>,
) -> Result<()> {
    let (t, width) = (batch.t(), shape.nq * shape.d);
    let qkv = uploaded(cuda, t, shape.qkv_width(), &q[..t * shape.qkv_width()])?;
    let batch = cuda.upload_batch(batch, kv.k.rows)?;
    let (mut sums, mut scratch) = (cuda.alloc(DType::F32, t, width)?, cuda.alloc(DType::F32, t, width)?);
    let mut found = cuda.alloc_q8(kind, t, width)?;
    cuda.paged_attention_quantize(&qkv, shape, &batch, kv, &mut scratch, &mut found)?;
    cuda.paged_attention(&qkv, shape, &batch, kv, &mut sums)?;
    let mut of_sums = cuda.alloc_q8(kind, t, width)?;
    cuda.quantize_rows(&sums, &mut of_sums)?;
    let mut expected = read(cuda, &of_sums)?;
    if cuda.arch() == 90 && kind != Q8::Int8 && kv.k.dtype != DType::F32 {
        let mut bytes = vec![0u8; 4 * t * width];
        cuda.download(&sums, &mut bytes)?;
        let sums: Vec<f32> = bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect();
        let mut rounded = cuda.alloc(DType::BF16, t, width)?;
        cuda.upload(&encode_f32(DType::BF16, &sums)?, &mut rounded)?;
        cuda.quantize_rows(&rounded, &mut of_sums)?;
        let of_rounded = read(cuda, &of_sums)?;
        assert_ne!(expected, of_rounded, "the sizes are too small to tell");
        expected = of_rounded;
    }
    assert!(read(cuda, &found)? == expected, "{} {kind:?} over {} {shape:?}, {t} tokens", cuda.describe(), kv.k.dtype);
    Ok(())
}

#[test]
fn codes_are_of_sums_in_f32_or_in_bf16() {
    for kernels_of in [None, Some(89)] {
        let cuda = match Cuda::open(Options { kernels_of, ..Options::default() }) {
            Ok(cuda) => cuda,
            Err(error) => return println!("skipped: no device ({error})"),
        };
        for (dtype, d) in
            [(DType::BF16, 128), (DType::I8, 128), (DType::F8E4M3, 64), (DType::BF16, 80), (DType::F32, 64)]
        {
            let shape = AttentionShape { nq: 32, nkv: 8, d, scale: 0.088, window: None, softcap: None };
            // Prompts, some of few tokens; then one more token of each of many.
            let lengths: Vec<usize> = [300, 2, 130, 1].into_iter().chain((20..160).map(|n| n % 23 + 1)).collect();
            let all = Batch::fresh(&lengths, PAGE);
            let pages = lengths.iter().map(|n| n.div_ceil(PAGE)).sum::<usize>();
            let mut kv = KvLayer::new(&cuda, dtype, pages, shape.nkv * PAGE, d).unwrap();
            let q = floats(5, all.t() * shape.qkv_width());
            let mut qkv = uploaded(&cuda, all.t(), shape.qkv_width(), &q).unwrap();
            let batch = cuda.upload_batch(&all, pages).unwrap();
            cuda.rope_store_kv(&mut qkv, None, &shape, &batch, &mut kv).unwrap();
            for batch in [&all, &last_tokens(&all, 0..4), &last_tokens(&all, 0..lengths.len())] {
                for kind in Q8::ALL.into_iter().filter(|&kind| kind != Q8::E5M2) {
                    check_codes(&cuda, kind, &shape, batch, &q, &kv).unwrap();
                }
            }
        }
    }
}

/// What a tensor holds, any NaN as the same number.
fn numbers<B: Backend>(b: &B, tensor: &Tensor<B>) -> Result<Vec<u32>> {
    let mut bytes = vec![0u8; tensor.rows * tensor.cols * tensor.dtype.size()];
    b.download(tensor, &mut bytes)?;
    let float = |v: u32| if f32::from_bits(v).is_nan() { u32::MAX } else { v };
    Ok(match tensor.dtype {
        DType::F32 => bytes.chunks_exact(4).map(|b| float(u32::from_le_bytes([b[0], b[1], b[2], b[3]]))).collect(),
        DType::BF16 => bytes.chunks_exact(2).map(|b| float(u32::from_le_bytes([0, 0, b[0], b[1]]))).collect(),
        _ => bytes.into_iter().map(u32::from).collect(),
    })
}

/// Rotates and stores; q, k and v as they are left, then the tensors of the cache.
fn rotated<B: Backend>(
    b: &B,
    dtype: DType,
    fixed: Option<[f32; 2]>,
    shape: &AttentionShape,
    qkv: &[f32],
    angles: &[f32],
) -> Result<Vec<Vec<u32>>> {
    let (t, width) = (qkv.len() / shape.qkv_width(), shape.qkv_width());
    let pages = t.div_ceil(PAGE);
    let mut qkv = uploaded(b, t, width, qkv)?;
    let cos_sin = uploaded(b, t, shape.d, angles)?;
    let mut kv = KvLayer::new(b, dtype, pages, shape.nkv * PAGE, shape.d)?;
    kv.fixed = fixed;
    let batch = b.upload_batch(&Batch::fresh(&[t], PAGE), pages)?;
    let rope = RopeTable { cos_sin, half: shape.d / 2, interleaved: false };
    b.rope_store_kv(&mut qkv, Some(&rope), shape, &batch, &mut kv)?;
    let mut all = vec![numbers(b, &qkv)?];
    for tensor in kv.tensors_mut() {
        all.push(numbers(b, tensor)?);
    }
    Ok(all)
}

/// Numbers beyond every range, vectors of zeros and of the least numbers, and negative zeros among usual ones.
fn heads_with_extremes(t: usize, shape: &AttentionShape) -> Vec<f32> {
    let (width, d) = (shape.qkv_width(), shape.d);
    let mut qkv = floats(21, t * width);
    for (row, values) in qkv.chunks_exact_mut(width).enumerate() {
        let head = |h: usize| h * d..(h + 1) * d;
        let (key, value) = (shape.nq + row % shape.nkv, shape.nq + shape.nkv + row % shape.nkv);
        match row % 9 {
            0 => values[head(key)].fill(0.0),
            1 => values[head(value)].iter_mut().for_each(|v| *v *= 1e-43),
            2 => values[key * d + row % d] = f32::NAN,
            3 => values[value * d + row % d] = f32::INFINITY,
            4 => values[(row % shape.nq) * d + row % d] = 1e6,
            5 => values[head(value)].fill(-0.0),
            6 => values[head(key)].iter_mut().for_each(|v| *v *= 1e30),
            _ => {}
        }
    }
    qkv
}

#[test]
fn heads_that_rotate_whole_follow_the_definition() {
    for kernels_of in [None, Some(89), Some(75)] {
        let cuda = match Cuda::open(Options { kernels_of, ..Options::default() }) {
            Ok(cuda) => cuda,
            Err(error) => return println!("skipped: no device ({error})"),
        };
        for (nq, nkv, d) in [(8, 4, 64), (6, 2, 128), (3, 1, 128), (32, 8, 128), (2, 1, 256)] {
            let shape = AttentionShape { nq, nkv, d, scale: 0.1, window: None, softcap: None };
            for t in [1, 37, 1030] {
                let qkv = heads_with_extremes(t, &shape);
                let angles: Vec<f32> = floats(8, t * d).iter().map(|a| (3.0 * a).sin()).collect();
                for (dtype, fixed) in [
                    (DType::F32, None),
                    (DType::BF16, None),
                    (DType::I8, None),
                    (DType::F8E4M3, None),
                    (DType::I8, Some([0.004, 0.5])),
                    (DType::F8E4M3, Some([0.001, 0.25])),
                ] {
                    let expected = rotated(&Scalar, dtype, fixed, &shape, &qkv, &angles).unwrap();
                    let found = rotated(&cuda, dtype, fixed, &shape, &qkv, &angles).unwrap();
                    for (part, (e, f)) in expected.iter().zip(&found).enumerate() {
                        let differing = e.iter().zip(f).filter(|(e, f)| e != f).count();
                        let what = format!("{dtype} {fixed:?} {nq}/{nkv} heads of {d}, {t} tokens, part {part}");
                        assert!(differing == 0 && e.len() == f.len(), "{}: {what}: {differing}", cuda.describe());
                    }
                }
            }
        }
    }
}
