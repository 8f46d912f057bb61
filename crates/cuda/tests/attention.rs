//! Attention of many sequences at once gives the bits that each has in small company, by whichever kernel.
use planish_cuda::{Cuda, Options};
use planish_tensor::{AttentionShape, Backend, Batch, DType, KvLayer, Result, Tensor};

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

fn uploaded(cuda: &Cuda, rows: usize, cols: usize, values: &[f32]) -> Result<Tensor<Cuda>> {
    let mut tensor = cuda.alloc(DType::F32, rows, cols)?;
    cuda.upload(bytemuck::cast_slice(values), &mut tensor)?;
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
