//! Attention and the storing of keys and values, over caches of every type: time, GFLOP/s and GB/s; error against the
//! plain loops. `cargo bench -p planish-cpu --bench attention [-- SECTION [TYPE]]`, with `BENCH_ISA=avx2` or `BENCH_THREADS=1`
//! if wanted. Shapes are those of SmolLM2-135M unless said. The best of many repetitions counts.
use half::bf16;
use planish_cpu::Isa;
use planish_cpu::attention::{Attention, KvSlice, KvSliceMut, Operands};
use planish_cpu::buffer::{Aligned, cast};
use planish_cpu::rope::{RopeSlice, rope_store_kv};
use planish_cpu::rowwise::Q8SliceMut;
use planish_cpu::threads::Threads;
use planish_tensor::{AttentionShape, Batch, DType, Q8};
use std::time::{Duration, Instant};

const PAGE: usize = 16;
const KINDS: [DType; 4] = [DType::F32, DType::BF16, DType::I8, DType::F8E4M3];
/// Layers with memory of their own, so that a decode step reads what is in no cache near by.
const LAYERS: usize = 30;

fn main() {
    let mut filters = std::env::args().skip(1).filter(|a| !a.starts_with('-'));
    let (filter, kind) = (filters.next().unwrap_or_default(), filters.next().unwrap_or_default());
    let wanted = std::env::var("BENCH_ISA").ok();
    let isa = Isa::available().into_iter().find(|i| Some(i.name()) == wanted.as_deref()).unwrap_or(Isa::best());
    let all = std::thread::available_parallelism().map_or(1, |n| n.get());
    let counts = std::env::var("BENCH_THREADS").map_or(vec![1, all], |n| vec![n.parse().expect("a number")]);
    for threads in counts {
        let pool = Threads::new(threads);
        println!("\n{}, {threads} thread(s)   µs, GFLOP/s, GB/s, largest error / largest value", isa.name());
        for dtype in KINDS.into_iter().filter(|k| k.name().contains(&kind)) {
            for (name, run) in [("prefill", prefills as Section), ("decode", decodes), ("store", stores)] {
                if name.contains(&filter) {
                    run(&pool, isa, dtype);
                }
            }
        }
    }
}

type Section = fn(&Threads, Isa, DType);

/// Best time in seconds of repetitions over a while: of one thread its processor time, so that others on the machine
/// do not count; of several the clock's.
fn best(threads: usize, mut run: impl FnMut()) -> f64 {
    run();
    let (start, mut best) = (Instant::now(), f64::INFINITY);
    while start.elapsed() < Duration::from_millis(400) {
        let (once, used) = (Instant::now(), processor_time());
        run();
        let used = processor_time().zip(used).map(|(now, then)| now - then);
        best = best.min(used.filter(|_| threads == 1).unwrap_or(once.elapsed().as_secs_f64()));
    }
    best
}

/// Seconds that this thread has run.
#[cfg(target_os = "linux")]
fn processor_time() -> Option<f64> {
    const CLOCK_THREAD_CPUTIME_ID: i32 = 3;
    unsafe extern "C" {
        fn clock_gettime(clock: i32, time: *mut [i64; 2]) -> i32;
    }
    let mut time = [0i64; 2];
    // SAFETY: a timespec of 64-bit Linux is two 64-bit integers.
    let failed = unsafe { clock_gettime(CLOCK_THREAD_CPUTIME_ID, &mut time) };
    (failed == 0).then(|| time[0] as f64 + time[1] as f64 * 1e-9)
}

#[cfg(not(target_os = "linux"))]
fn processor_time() -> Option<f64> {
    None
}

fn row(name: &str, seconds: f64, flops: f64, bytes: f64, error: f64) {
    let (us, gflops, gb) = (seconds * 1e6, flops / seconds / 1e9, bytes / seconds / 1e9);
    println!("{name:<44} {us:>10.1} {gflops:>8.1} {gb:>7.1}   {error:.1e}");
}

fn floats(seed: u64, n: usize) -> Vec<f32> {
    let mut s = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        s ^= s << 13;
        s ^= s >> 7;
        s ^= s << 17;
        (s >> 40) as f32 / (1u64 << 23) as f32 - 1.0
    };
    (0..n).map(|_| next()).collect()
}

/// Keys or values of some layers, in one piece of memory as large pools are.
struct Cache {
    dtype: DType,
    layers: usize,
    /// Elements, then scales.
    memory: [Aligned; 2],
}

impl Cache {
    fn new(dtype: DType, layers: usize, n: usize, d: usize) -> Cache {
        let mut memory = [n * dtype.size(), n / d * 4].map(|bytes| Aligned::zeroed(layers * bytes));
        let [elements, scales] = &mut memory;
        let scales = scales.bytes_mut().chunks_exact_mut(4);
        for ((i, to), scale) in elements.bytes_mut().chunks_exact_mut(d * dtype.size()).enumerate().zip(scales) {
            let x = floats(i as u64 + 3, d);
            match Q8::from_dtype(dtype) {
                Some(kind) => {
                    scale.copy_from_slice(&planish_tensor::q8::quantize_activation_row(kind, &x, to).to_le_bytes());
                }
                None => to.copy_from_slice(&planish_tensor::host::encode_f32(dtype, &x).expect("a float type")),
            }
        }
        Cache { dtype, layers, memory }
    }

    /// Bytes of one layer.
    fn bytes(&self) -> usize {
        let scales = if self.dtype.size() == 1 { self.memory[1].bytes().len() } else { 0 };
        (self.memory[0].bytes().len() + scales) / self.layers
    }

    fn slice(&self, layer: usize) -> KvSlice<'_> {
        let [elements, scales] = &self.memory;
        let part = |m: &'_ Aligned| m.bytes().len() / self.layers * layer..m.bytes().len() / self.layers * (layer + 1);
        let (elements, scales) = (&elements.bytes()[part(elements)], &scales.bytes()[part(scales)]);
        match Q8::from_dtype(self.dtype) {
            Some(kind) => KvSlice::Q8 { kind, codes: elements, scales: cast(scales, DType::F32).expect("aligned") },
            None if self.dtype == DType::F32 => KvSlice::F32(cast(elements, DType::F32).expect("aligned")),
            None => KvSlice::Bf16(cast(elements, DType::BF16).expect("aligned")),
        }
    }
}

/// One layer to be written.
struct Room {
    dtype: DType,
    f32s: Vec<f32>,
    halves: Vec<bf16>,
    codes: Vec<u8>,
}

impl Room {
    fn slice(&mut self) -> KvSliceMut<'_> {
        match Q8::from_dtype(self.dtype) {
            Some(kind) => KvSliceMut::Q8 { units: kind.into(), codes: &mut self.codes, scales: &mut self.f32s },
            None if self.dtype == DType::F32 => KvSliceMut::F32(&mut self.f32s),
            None => KvSliceMut::Bf16(&mut self.halves),
        }
    }

    fn new(dtype: DType, n: usize, d: usize) -> Room {
        let f32s = vec![0.0; if dtype == DType::F32 { n } else { n / d }];
        Room { dtype, f32s, halves: vec![bf16::ZERO; n], codes: vec![0; n] }
    }
}

fn shape(nq: usize, nkv: usize, d: usize) -> AttentionShape {
    AttentionShape { nq, nkv, d, scale: 1.0 / (d as f32).sqrt(), window: None, softcap: None }
}

/// `new` tokens after `past` others, of each of `s` sequences.
fn step(s: usize, past: usize, new: usize) -> Batch {
    let mut batch = Batch::fresh(&vec![past + new; s], PAGE);
    let rows: Vec<usize> = (0..s).flat_map(|i| (past..past + new).map(move |p| i * (past + new) + p)).collect();
    batch.positions = rows.iter().map(|&r| batch.positions[r]).collect();
    batch.slots = rows.iter().map(|&r| batch.slots[r]).collect();
    batch.query_starts = (0..=s).map(|i| (i * new) as u32).collect();
    batch
}

/// Measures attention over `layers` layers, one after the other; times and rates are of one.
fn measure(pool: &Threads, isa: Isa, name: &str, shape: &AttentionShape, batch: &Batch, dtype: DType, layers: usize) {
    let slots = batch.kv_lens.iter().map(|n| n.next_multiple_of(PAGE as u32) as usize).sum::<usize>();
    let n = slots * shape.nkv * shape.d;
    let caches = [(); 2].map(|()| Cache::new(dtype, layers, n, shape.d));
    let (qkv, width) = (floats(2, batch.t() * shape.qkv_width()), shape.nq * shape.d);
    let mut out = vec![0.0; batch.t() * width];
    let (mut codes, mut xs) = (vec![0; out.len()], vec![0.0; batch.t()]);
    let attention = Attention::default();
    let seconds = best(pool.count(), || {
        for layer in (0..layers).rev() {
            let (k, v) = (caches[0].slice(layer), caches[1].slice(layer));
            let o = Operands { qkv: &qkv, shape, batch, k, v };
            let to = Q8SliceMut { codes: &mut codes, xs: &mut xs };
            attention.attend_quantize(pool, isa, o, &mut out, Q8::Int8, to);
        }
    }) / layers as f64;
    let mut expected = vec![0.0; out.len()];
    let (k, v) = (caches[0].slice(0), caches[1].slice(0));
    attention.attend(pool, Isa::Scalar, Operands { qkv: &qkv, shape, batch, k, v }, &mut expected);
    let top = expected.iter().fold(0.0f32, |m, x| m.max(x.abs()));
    let error = out.iter().zip(&expected).fold(0.0f32, |m, (x, y)| m.max((x - y).abs())) / top;
    let keys: usize = batch.positions.iter().map(|&p| p as usize + 1).sum();
    let bytes = 2 * caches[0].bytes();
    row(&format!("{name} {dtype}"), seconds, 4.0 * (keys * width) as f64, bytes as f64, error as f64);
}

fn prefills(pool: &Threads, isa: Isa, dtype: DType) {
    for (past, new) in [(0, 128), (0, 512), (1536, 512), (0, 2048)] {
        measure(pool, isa, &format!("prefill {new}@{past}"), &shape(9, 3, 64), &step(1, past, new), dtype, 1);
    }
    measure(pool, isa, "prefill 512@0 nq=32 nkv=8 d=128", &shape(32, 8, 128), &step(1, 0, 512), dtype, 1);
}

fn decodes(pool: &Threads, isa: Isa, dtype: DType) {
    for keys in [128, 512, 2048] {
        measure(pool, isa, &format!("decode 1@{keys}"), &shape(9, 3, 64), &step(1, keys - 1, 1), dtype, LAYERS);
    }
    for s in [8, 32] {
        measure(pool, isa, &format!("decode {s}@190"), &shape(9, 3, 64), &step(s, 189, 1), dtype, LAYERS);
    }
}

fn stores(pool: &Threads, isa: Isa, dtype: DType) {
    for (s, past, new) in [(1, 0, 1), (32, 189, 1), (1, 0, 512), (1, 1536, 512)] {
        let (shape, batch) = (shape(9, 3, 64), step(s, past, new));
        let (mut qkv, cos_sin) = (floats(5, batch.t() * shape.qkv_width()), floats(6, (past + new) * 64));
        let n = s * (past + new).next_multiple_of(PAGE) * shape.nkv * shape.d;
        let [mut k, mut v] = [(); 2].map(|()| Room::new(dtype, n, shape.d));
        let rope = RopeSlice { cos_sin: &cos_sin, half: 32, interleaved: false };
        let (mut k, mut v) = (k.slice(), v.slice());
        let seconds =
            best(pool.count(), || rope_store_kv(pool, isa, &mut qkv, Some(rope), &shape, &batch, &mut k, &mut v));
        let bytes = batch.t() * (12 * 64 * 8 + 2 * 3 * 64 * (4 + dtype.size()));
        row(&format!("store {s}x{new}@{past} {dtype}"), seconds, 0.0, bytes as f64, 0.0);
    }
}
