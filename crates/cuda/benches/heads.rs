//! Queries, keys and values of the Llama-3-8B shape from their product to attention's codes: the product, rotation and
//! attention one after the other, beside the same where the product rotates and stores its heads itself.
//! `cargo bench -p planish-cuda --bench heads -- [int8|fp8] [BF16|I8|F8_E4M3] [SEQUENCESxTOKENS]`; the tokens are prompts,
//! or the next one of each sequence.
mod replay;

use planish_cuda::{Cuda, Options};
use planish_tensor::{
    Attended, AttentionShape, Backend, Batch, DType, HostTensor, KvLayer, LinearPart, Projected, Q8, Result, RopeTable,
};
use replay::time;

const SHAPE: AttentionShape = AttentionShape { nq: 32, nkv: 8, d: 128, scale: 0.088, window: None, softcap: None };
const INPUT: usize = 4096;
const PAGE: usize = 64;
/// Of a recording.
const RUNS: usize = 16;
const POSITIONS: usize = 8192;
/// Sequences, their tokens before, and their tokens now.
const STEPS: [[usize; 3]; 8] =
    [[64, 100, 1], [128, 100, 1], [256, 100, 1], [1, 0, 512], [2, 0, 512], [4, 0, 512], [16, 0, 512], [4, 0, 2048]];

fn main() -> Result<()> {
    let words: Vec<String> = std::env::args().skip(1).filter(|w| !w.starts_with("--")).collect();
    let cuda = match Cuda::open(Options::default()) {
        Ok(cuda) => cuda,
        Err(error) => {
            println!("skipped: no device ({error})");
            return Ok(());
        }
    };
    println!("{}", cuda.describe());
    let wanted = |of: &[String], word: &String| !words.iter().any(|w| of.contains(w)) || words.contains(word);
    let kinds = [("int8", Q8::Int8, DType::I8), ("fp8", Q8::E4M3, DType::F8E4M3)];
    let names = kinds.map(|(name, ..)| name.to_owned());
    for (name, kind, narrow) in kinds {
        let caches = [DType::BF16, narrow];
        for cache in caches.into_iter().filter(|c| wanted(&caches.map(|c| c.to_string()), &c.to_string())) {
            let sizes = STEPS.map(|[sequences, _, new]| format!("{sequences}x{new}"));
            for (size, label) in STEPS.into_iter().zip(&sizes) {
                if !wanted(&names, &name.to_owned()) || !wanted(&sizes, label) {
                    continue;
                }
                let Step { product, apart, together } = step(&cuda, kind, cache, size)?;
                println!(
                    "{name:<4} over {cache:<8} {label:<7} {product:>8.1} us the product, {apart:>8.1} us all apart, \
                     {together:>8.1} us together: {:>6.1} us less",
                    apart - together
                );
            }
        }
    }
    Ok(())
}

/// Microseconds.
struct Step {
    product: f64,
    apart: f64,
    together: f64,
}

fn step(cuda: &Cuda, kind: Q8, cache: DType, [sequences, past, new]: [usize; 3]) -> Result<Step> {
    let (n, t) = (SHAPE.qkv_width(), sequences * new);
    let codes = |n: usize, mut state: u32| -> Vec<u8> {
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            kind.encode(((state >> 8) as f32 / 8_388_608.0 - 1.0) * kind.activation_range())
        };
        (0..n).map(|_| next()).collect()
    };
    let weight = HostTensor::from_bytes(kind.dtype(), vec![n, INPUT], codes(n * INPUT, 1))?;
    let w = cuda.load_linear(&[LinearPart::channels(weight, vec![1e-4; n], None)])?;
    let mut x = cuda.alloc_q8(kind, t, INPUT)?;
    cuda.upload(&codes(t * INPUT, 2), &mut x.codes)?;
    cuda.upload(bytemuck::cast_slice(&vec![1e-4f32; t]), &mut x.scales)?;
    let mut cos_sin = cuda.alloc(DType::F32, POSITIONS, SHAPE.d)?;
    cuda.upload(bytemuck::cast_slice(&vec![0.7f32; POSITIONS * SHAPE.d]), &mut cos_sin)?;
    let rope = RopeTable { cos_sin, half: SHAPE.d / 2, interleaved: false };
    let keys = past + new;
    let pages = sequences * keys.div_ceil(PAGE);
    let mut kv = KvLayer::new(cuda, cache, pages, SHAPE.nkv * PAGE, SHAPE.d)?;
    let whole = Batch::fresh(&vec![keys; sequences], PAGE);
    let last =
        |all: &[u32]| -> Vec<u32> { all.chunks(keys).flat_map(|sequence| sequence[past..].iter().copied()).collect() };
    let batch = Batch {
        tokens: last(&whole.tokens),
        positions: last(&whole.positions),
        slots: last(&whole.slots),
        query_starts: (0..=sequences).map(|s| (s * new) as u32).collect(),
        ..whole
    };
    let batch = cuda.upload_batch(&batch, pages)?;
    let mut qkv = cuda.alloc(DType::F32, t, n)?;
    let mut scratch = cuda.alloc(DType::F32, t, SHAPE.nq * SHAPE.d)?;
    let mut out = cuda.alloc_q8(kind, t, SHAPE.nq * SHAPE.d)?;
    let product = time(cuda, RUNS, |_| cuda.gemm_w8a8(&x, &w, &mut qkv))?;
    let apart = time(cuda, RUNS, |_| {
        cuda.gemm_w8a8(&x, &w, &mut qkv)?;
        let to = Attended { scratch: &mut scratch, out: &mut out };
        cuda.rope_attention_quantize(&mut qkv, Some(&rope), &SHAPE, &batch, &mut kv, to)
    })?;
    let together = time(cuda, RUNS, |_| {
        let from = Projected { x: &x, w: &w, qkv: &mut qkv };
        let to = Attended { scratch: &mut scratch, out: &mut out };
        cuda.gemm_rope_attention_quantize(from, Some(&rope), &SHAPE, &batch, &mut kv, to)
    })?;
    Ok(Step { product, apart, together })
}
