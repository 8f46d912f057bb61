//! The forward pass alone, without scheduler and sampling: prompts in chunks as the engine takes them, and decode steps.
//! `cargo bench -p planish-model --bench forward -- DIR [THREADS [CHUNK [ROW]]]`: milliseconds and tokens/s, best and
//! median over two seconds, of a quantized checkpoint on the CPU with its fastest kernels, bf16 cache and output projection;
//! and the share of the machine's read bandwidth that a decode step uses, both measured in turn.
use planish_checkpoint::{config::Config, shards::ModelFiles};
use planish_cpu::threads::Threads;
use planish_cpu::{Cpu, Isa};
use planish_model::{Decoder, KvPool, LoadOptions, Plan, Workspace};
use planish_tensor::{Batch, DType, FloatMath};
use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

const PAGE: usize = 16;
const LONGEST: usize = 2048;
/// Tokens in the cache.
const CACHED: usize = 4 * LONGEST;
/// Numbers that are read to see how fast the machine reads: far more than its caches hold.
const READ: usize = 20 << 20;

struct Model {
    backend: Cpu,
    decoder: Decoder<Cpu>,
    kv: KvPool<Cpu>,
    ws: Workspace<Cpu>,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let Some(dir) = args.first() else { return println!("forward: no checkpoint given") };
    let number = |i: usize, or: usize| args.get(i).map_or(or, |n| n.parse().expect("a number"));
    let (threads, chunk) = (number(1, 2), number(2, 512));
    let wanted = args.get(3).map_or("", |name| name);
    let mut model = Model::open(Path::new(dir), threads, chunk.max(64));
    println!("{threads} thread(s), chunks of {chunk} tokens         best ms  tokens/s   median ms  tokens/s");
    for (name, tokens) in [("prefill 128", 128), ("prefill 512", 512), ("prefill 2048", 2048)] {
        let steps: Vec<_> = (0..tokens).step_by(chunk).map(|at| (1, at, chunk.min(tokens - at))).collect();
        row(name, wanted, &mut model, &steps);
    }
    for (sequences, past) in [(1, 128), (8, 128), (32, 60), (32, 192)] {
        row(&format!("decode {sequences}@{past}"), wanted, &mut model, &[(sequences, past, 1)]);
    }
    if "share".contains(wanted) {
        share(&mut model, threads);
    }
}

/// Decode steps of one sequence and plain reads in turn, so that both meet the machine in the same state.
fn share(model: &mut Model, threads: usize) {
    let (pool, data, bytes) = (Threads::new(threads), vec![1u64; READ], model.decoder.step_bytes());
    let (mut steps, mut reads, mut shares) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..240 {
        let start = Instant::now();
        model.step(1, 128, 1);
        let step = bytes as f64 / start.elapsed().as_secs_f64();
        let start = Instant::now();
        pool.run(16 * threads, |i| read(&data[READ * i / (16 * threads)..READ * (i + 1) / (16 * threads)]));
        let read = 8.0 * READ as f64 / start.elapsed().as_secs_f64();
        if round >= 40 {
            steps.push(step);
            reads.push(read);
            shares.push(step / read);
        }
    }
    let [step, read, share] = [&mut steps, &mut reads, &mut shares].map(|all| {
        all.sort_by(f64::total_cmp);
        [all[all.len() / 2], all[all.len() - 1]]
    });
    println!(
        "share: a step reads {:.0} MB, at {:.1} GB/s (best {:.1}); plain reads {:.1} (best {:.1}): {:.0} % (best {:.0} %)",
        bytes as f64 / 1e6,
        step[0] / 1e9,
        step[1] / 1e9,
        read[0] / 1e9,
        read[1] / 1e9,
        100.0 * share[0],
        100.0 * step[1] / read[1]
    );
}

fn read(part: &[u64]) {
    let mut sums = [0u64; 32];
    for chunk in part.as_chunks::<32>().0 {
        sums.iter_mut().zip(chunk).for_each(|(sum, x)| *sum ^= x);
    }
    black_box(sums);
}

/// Runs some steps in turn for two seconds, and nine times at least, after a warm-up. The best time is the sum of each
/// step's best, so that other work on a busy machine need not be absent for long.
fn row(name: &str, wanted: &str, model: &mut Model, steps: &[(usize, usize, usize)]) {
    if !name.contains(wanted) {
        return;
    }
    let mut times = vec![Vec::new(); steps.len()];
    let begin = Instant::now();
    while times[0].len() < 10 || begin.elapsed().as_secs() < 2 {
        for (&(sequences, past, new), times) in steps.iter().zip(&mut times) {
            let start = Instant::now();
            model.step(sequences, past, new);
            times.push(start.elapsed().as_secs_f64());
        }
    }
    let mut whole: Vec<f64> = (1..times[0].len()).map(|i| times.iter().map(|t| t[i]).sum()).collect();
    whole.sort_by(f64::total_cmp);
    let best: f64 = times.iter().map(|t| t[1..].iter().copied().fold(f64::INFINITY, f64::min)).sum();
    let tokens: usize = steps.iter().map(|(sequences, _, new)| sequences * new).sum();
    let show = |s: f64| format!("{:>9.2} {:>9.0}", s * 1e3, tokens as f64 / s);
    println!("{name:<38} {}   {}", show(best), show(whole[whole.len() / 2]));
}

impl Model {
    fn open(dir: &Path, threads: usize, chunk: usize) -> Model {
        let (backend, path) = (Cpu::new(threads, Isa::best()), dir.join("config.json"));
        let config = Config::from_json(&std::fs::read(&path).expect("config.json"), &path).expect("a configuration");
        let plan = Plan::new(&config).expect("an architecture that is known");
        let options = LoadOptions { math: FloatMath::Bf16, positions: LONGEST, int8_head: false };
        let kv = KvPool::new(&backend, &plan, plan.layers, CACHED / PAGE, PAGE, DType::BF16).expect("a cache");
        let ws = Workspace::new(&backend, &plan, chunk.max(512), 32).expect("a workspace");
        let files = ModelFiles::open(dir).expect("a checkpoint");
        let decoder = Decoder::load(&backend, plan, &files, &options).expect("its weights");
        let mut model = Model { backend, decoder, kv, ws };
        // Memory that nobody wrote is one page of zeros, which is always near: no cache looks like that.
        (0..CACHED / 32).step_by(16).for_each(|past| model.step(32, past, 16));
        model
    }

    /// `new` tokens after `past` others, of each of some sequences; logits of each one's last.
    fn step(&mut self, sequences: usize, past: usize, new: usize) {
        let mut batch = Batch::fresh(&vec![past + new; sequences], PAGE);
        let starts = (0..sequences).map(|i| i * (past + new) + past);
        let rows: Vec<usize> = starts.flat_map(|first| first..first + new).collect();
        batch.tokens = rows.iter().map(|row| (row * 7919 % 40_000) as u32).collect();
        batch.positions = rows.iter().map(|&row| batch.positions[row]).collect();
        batch.slots = rows.iter().map(|&row| batch.slots[row]).collect();
        batch.query_starts = (0..=sequences).map(|i| (i * new) as u32).collect();
        batch.logit_rows = (1..=sequences).map(|i| (i * new) as u32 - 1).collect();
        self.decoder.forward(&self.backend, &batch, &mut self.kv, &mut self.ws).expect("a step that fits");
    }
}
