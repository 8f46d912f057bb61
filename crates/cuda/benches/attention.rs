//! Attention of the Llama-3-8B shape (32 heads, 8 of keys, 128 wide) over each type of cache: decoding of 1, 32 and 256
//! sequences beside the rate at which the device reads, and causal prefill beside the matrix units' rate in bf16 (cuBLASLt has
//! no attention), with the error of some tokens beside the scalar reference over the same cache.
//! `cargo bench -p planish-cuda --bench attention -- [decode|prefill] [bf16|i8|e4m3] [SEQUENCESxKEYS]`; a step is recorded, so that
//! launching is not measured, and goes through layers of keys larger than the second-level cache.
mod replay;

use planish_cpu::Scalar;
use planish_cuda::{Cuda, Options};
use planish_tensor::{AttentionShape, Backend, Batch, DType, KvLayer, Result, Tensor};
use replay::time;

const SHAPE: AttentionShape = AttentionShape { nq: 32, nkv: 8, d: 128, scale: 0.088, window: None, softcap: None };
const PAGE: usize = 64;
/// Sequences and their keys.
const DECODED: [(usize, usize); 5] = [(1, 640), (1, 8192), (32, 640), (256, 640), (256, 2048)];
const PREFILLED: [(usize, usize); 3] = [(4, 2048), (16, 512), (1, 8192)];
/// Bytes that decoding goes through before it comes back to a layer.
const ROTATION: usize = 200 << 20;
/// GB/s that an H200 reads, and TFLOP/s in bf16 of its data sheet.
const READ: f64 = 4100.0;
const BF16: f64 = 989.0;

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let wanted =
        |all: &[&str], word: &str| !all.iter().any(|w| words.iter().any(|a| a == w)) || words.iter().any(|a| a == word);
    let cuda = match Cuda::open(Options::default()) {
        Ok(cuda) => cuda,
        Err(error) => {
            println!("skipped: no device ({error})");
            return Ok(());
        }
    };
    println!("{}", cuda.describe());
    for (name, dtype) in [("bf16", DType::BF16), ("i8", DType::I8), ("e4m3", DType::F8E4M3)] {
        if !wanted(&["bf16", "i8", "e4m3"], name) {
            continue;
        }
        if wanted(&["decode", "prefill"], "decode") {
            for (s, keys) in DECODED.into_iter().filter(|&size| wanted_size(&words, &DECODED, size)) {
                decode(&cuda, name, dtype, s, keys)?;
            }
        }
        if wanted(&["decode", "prefill"], "prefill") {
            for (s, keys) in PREFILLED.into_iter().filter(|&size| wanted_size(&words, &PREFILLED, size)) {
                prefill(&cuda, name, dtype, s, keys)?;
            }
        }
    }
    Ok(())
}

/// Whether no size of these is asked for, or this one is.
fn wanted_size(words: &[String], sizes: &[(usize, usize)], (s, keys): (usize, usize)) -> bool {
    let asked = |s: usize, keys: usize| words.contains(&format!("{s}x{keys}"));
    asked(s, keys) || !sizes.iter().any(|&(s, keys)| asked(s, keys))
}

fn random(cuda: &Cuda, rows: usize, cols: usize) -> Result<Tensor<Cuda>> {
    let mut state = 1u64;
    let mut float = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    let values: Vec<f32> = (0..rows * cols).map(|_| float()).collect();
    let mut tensor = cuda.alloc(DType::F32, rows, cols)?;
    cuda.upload(bytemuck::cast_slice(&values), &mut tensor)?;
    Ok(tensor)
}

/// Layers whose pages hold random keys and values of `s` sequences.
fn layers(cuda: &Cuda, dtype: DType, s: usize, keys: usize, count: usize) -> Result<Vec<KvLayer<Cuda>>> {
    let pages = s * keys.div_ceil(PAGE);
    let batch = Batch::fresh(&vec![keys; s.min(4)], PAGE);
    (0..count)
        .map(|_| {
            let mut kv = KvLayer::new(cuda, dtype, pages, SHAPE.nkv * PAGE, SHAPE.d)?;
            // A few sequences at a time, at the others' pages too.
            for first in (0..s).step_by(4) {
                let mut part = batch.clone();
                let offset = (first.min(s - s.min(4)) * keys.div_ceil(PAGE) * PAGE) as u32;
                part.slots.iter_mut().for_each(|slot| *slot += offset);
                let mut qkv = random(cuda, part.t(), SHAPE.qkv_width())?;
                let on_device = cuda.upload_batch(&part, pages)?;
                cuda.rope_store_kv(&mut qkv, None, &SHAPE, &on_device, &mut kv)?;
                if count > 1 && first > 8 {
                    break; // enough that codes and scales are not all zero
                }
            }
            Ok(kv)
        })
        .collect()
}

fn decode(cuda: &Cuda, name: &str, dtype: DType, s: usize, keys: usize) -> Result<()> {
    let scales = if dtype == DType::BF16 { 0 } else { 4 };
    let bytes = s * keys * SHAPE.nkv * 2 * (SHAPE.d * dtype.size() + scales);
    let count = (ROTATION / bytes).clamp(1, 31) + 1;
    let mut kv = layers(cuda, dtype, s, keys, count)?;
    let mut batch = Batch::fresh(&vec![keys; s], PAGE);
    batch.positions = vec![keys as u32 - 1; s];
    batch.slots = (0..s).map(|i| batch.slots[(i + 1) * keys - 1]).collect();
    batch.query_starts = (0..=s as u32).collect();
    let batch = cuda.upload_batch(&batch, s * keys.div_ceil(PAGE))?;
    let qkv = random(cuda, s, SHAPE.qkv_width())?;
    let mut out = cuda.alloc(DType::F32, s, SHAPE.nq * SHAPE.d)?;
    cuda.paged_attention(&qkv, &SHAPE, &batch, &kv[0], &mut out)?;
    let error = error(cuda, &qkv, &mut kv[0], &out, &[(0, keys)])?;
    let runs = (20_000_000_000 / bytes).clamp(count, 64).next_multiple_of(count);
    let us = time(cuda, runs, |i| cuda.paged_attention(&qkv, &SHAPE, &batch, &kv[i % count], &mut out))?;
    let rate = bytes as f64 / us / 1e3;
    println!(
        "decode  {name:<5} {s:>4} x {keys:<6} {us:>9.2} us {rate:>6.0} GB/s {:>4.0} % of {READ}  error {error:.1e}",
        100.0 * rate / READ
    );
    Ok(())
}

fn prefill(cuda: &Cuda, name: &str, dtype: DType, s: usize, keys: usize) -> Result<()> {
    let mut kv = layers(cuda, dtype, s, keys, 1)?;
    let batch = cuda.upload_batch(&Batch::fresh(&vec![keys; s], PAGE), s * keys.div_ceil(PAGE))?;
    let qkv = random(cuda, s * keys, SHAPE.qkv_width())?;
    let mut out = cuda.alloc(DType::F32, s * keys, SHAPE.nq * SHAPE.d)?;
    cuda.paged_attention(&qkv, &SHAPE, &batch, &kv[0], &mut out)?;
    let error = error(cuda, &qkv, &mut kv[0], &out, &[(0, 1), (keys / 2, keys / 2 + 1), (keys - 1, keys)])?;
    let us = time(cuda, 8, |_| cuda.paged_attention(&qkv, &SHAPE, &batch, &kv[0], &mut out))?;
    let pairs = s as f64 * keys as f64 * (keys as f64 + 1.0) / 2.0;
    let rate = 4.0 * pairs * (SHAPE.nq * SHAPE.d) as f64 / us / 1e6;
    println!(
        "prefill {name:<5} {s:>4} x {keys:<6} {us:>9.2} us {rate:>6.0} TFLOP/s {:>4.0} % of {BF16}  error {error:.1e}",
        100.0 * rate / BF16
    );
    Ok(())
}

/// The largest error of some tokens of the first sequence, each a row of `qkv` with the number of keys that it attends to; in
/// parts of the token's largest result.
fn error(
    cuda: &Cuda,
    qkv: &Tensor<Cuda>,
    kv: &mut KvLayer<Cuda>,
    out: &Tensor<Cuda>,
    tokens: &[(usize, usize)],
) -> Result<f64> {
    let longest = tokens.iter().map(|token| token.1).max().unwrap_or(1);
    let cache = copied(cuda, kv, longest.div_ceil(PAGE))?;
    let (queries, found) = (floats(cuda, qkv)?, floats(cuda, out)?);
    let mut worst = 0.0f64;
    for &(row, keys) in tokens {
        let all = Batch::fresh(&[keys], PAGE);
        let slots = all.slots[keys - 1..].to_vec();
        let batch = Batch { positions: vec![keys as u32 - 1], slots, query_starts: vec![0, 1], ..all };
        let mut query = Scalar.alloc(DType::F32, 1, qkv.cols)?;
        Scalar.upload(bytemuck::cast_slice(&queries[row * qkv.cols..][..qkv.cols]), &mut query)?;
        let mut expected = Scalar.alloc(DType::F32, 1, out.cols)?;
        let batch = Scalar.upload_batch(&batch, keys.div_ceil(PAGE))?;
        Scalar.paged_attention(&query, &SHAPE, &batch, &cache, &mut expected)?;
        let expected = floats(&Scalar, &expected)?;
        let largest = expected.iter().fold(0.0f32, |m, v| m.max(v.abs()));
        let both = expected.iter().zip(&found[row * out.cols..][..out.cols]);
        let apart = both.map(|(e, f)| if (e - f).is_nan() { f32::INFINITY } else { (e - f).abs() });
        worst = worst.max(f64::from(apart.fold(0.0, f32::max) / largest));
    }
    Ok(worst)
}

fn floats<B: Backend>(b: &B, x: &Tensor<B>) -> Result<Vec<f32>> {
    let mut values = vec![0.0f32; x.rows * x.cols];
    b.download(x, bytemuck::cast_slice_mut(&mut values))?;
    Ok(values)
}

/// The first pages of a cache, for the reference.
fn copied(cuda: &Cuda, kv: &mut KvLayer<Cuda>, pages: usize) -> Result<KvLayer<Scalar>> {
    let mut copy = KvLayer::new(&Scalar, kv.k.dtype, pages, SHAPE.nkv * PAGE, SHAPE.d)?;
    for (from, to) in kv.tensors_mut().zip(copy.tensors_mut()) {
        let all = from.rows;
        from.set_rows(pages);
        let mut bytes = vec![0; pages * from.cols * from.dtype.size()];
        let read = cuda.download(from, &mut bytes);
        from.set_rows(all);
        read?;
        Scalar.upload(&bytes, to)?;
    }
    Ok(copy)
}
