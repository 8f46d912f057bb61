//! Times the phases of quantizing a few blocks of Llama 3 with random weights, and what the whole model would take, with
//! the memory that the device and the host need at most and where the calibration states are:
//! `cargo bench -p planish-quant --bench blocks -- [DEVICE [BLOCKS [SEQUENCES [LENGTH [SHAPE [FREE]]]]]]`, DEVICE cuda or cpu,
//! SHAPE 8b, 70b or tiny. With FREE, so many GB of the device are left free before the run, as on a smaller card.
use planish_checkpoint::config::Config;
use planish_checkpoint::writer::{CheckpointWriter, WriterOptions};
use planish_cpu::{Cpu, Isa};
use planish_cuda::{Cuda, Options};
use planish_model::dummy::DummySource;
use planish_model::{Absorber, Input, Plan};
use planish_quant::calibrate::run::{Job, Outcome, quantize};
use planish_quant::calibrate::save::Layout;
use planish_quant::calibrate::solve::Algorithm;
use planish_quant::calibrate::strength::Strength;
use planish_quant::gptq::GptqOptions;
use planish_tensor::{Backend, DType, Q8, Tensor};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// A model whose blocks are measured.
struct Shape {
    name: &'static str,
    hidden: usize,
    ffn: usize,
    /// Heads, and heads of keys.
    heads: [usize; 2],
    /// Blocks of the whole model.
    blocks: usize,
    vocab: usize,
}

const SHAPES: [Shape; 3] = [
    Shape { name: "8b", hidden: 4096, ffn: 14336, heads: [32, 8], blocks: 32, vocab: 16384 },
    Shape { name: "70b", hidden: 8192, ffn: 28672, heads: [64, 8], blocks: 80, vocab: 128_256 },
    Shape { name: "tiny", hidden: 64, ffn: 192, heads: [4, 2], blocks: 4, vocab: 256 },
];

/// Of the calibration that the figures are for.
const TOKENS: f64 = 512.0 * 2048.0;
/// Phases whose time grows with the tokens.
const BY_TOKENS: [&str; 2] = ["observe", "advance"];
/// Phases that come once.
const ONCE: [&str; 3] = ["begin", "compare", "write the rest"];

/// What was asked on the command line.
struct Asked {
    shape: &'static Shape,
    blocks: usize,
    sequences: usize,
    length: usize,
    /// Bytes to leave free.
    free: Option<u64>,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Cargo adds `--bench`.
    let args: Vec<String> = std::env::args().skip(1).filter(|word| !word.starts_with("--")).collect();
    let number = |i: usize, default: usize| args.get(i).map_or(Ok(default), |text| text.parse());
    let name = args.get(4).map_or("8b", String::as_str);
    let shape = SHAPES.iter().find(|s| s.name == name).ok_or("SHAPE: expected 8b, 70b or tiny")?;
    let free = args.get(5).map(|text| text.parse::<f64>().map(|gb| (gb * 1e9) as u64)).transpose()?;
    let asked = Asked { shape, blocks: number(1, 2)?, sequences: number(2, 64)?, length: number(3, 2048)?, free };
    let outcome = match args.first().map(String::as_str) {
        Some("cpu") => run(&Cpu::new(std::thread::available_parallelism()?.get(), Isa::best()), &asked)?,
        None | Some("cuda") => match Cuda::open(Options::default()) {
            Ok(cuda) => run(&cuda, &asked)?,
            Err(error) => {
                println!("skipped: no device ({error})");
                return Ok(());
            }
        },
        Some(other) => return Err(format!("DEVICE: expected cuda or cpu, found {other}").into()),
    };
    print_times(&asked, &outcome);
    println!(
        "calibration states: {:.2} GB on the device, {:.2} GB in host memory",
        outcome.states.device as f64 / 1e9,
        outcome.states.host as f64 / 1e9
    );
    let quantized = outcome.quantized;
    println!("KL {:.3e}, same first choice {:.3}, smoothing {:?}", quantized.mean, quantized.top1, outcome.smoothing);
    for linear in outcome.layers.iter().flat_map(|l| &l.linears) {
        let of = |x: Option<f64>| x.unwrap_or(f64::NAN);
        let ratio = of(linear.proxy_loss) / of(linear.rtn_proxy_loss);
        println!("{:<38} loss of nearest x {ratio:.3}, output error {:.4}", linear.name, of(linear.output_error));
    }
    Ok(())
}

fn print_times(asked: &Asked, outcome: &Outcome) {
    let Asked { shape, blocks, sequences, length, .. } = asked;
    let share = (sequences * length) as f64 / TOKENS;
    let (mut all, mut block) = (0.0, 0.0);
    for (phase, seconds) in outcome.phases.seconds() {
        let once = ONCE.contains(phase);
        let times = if once { 1.0 } else { shape.blocks as f64 / *blocks as f64 };
        let tokens = if BY_TOKENS.contains(phase) { 1.0 / share } else { 1.0 };
        all += seconds * times * tokens;
        block += if once { 0.0 } else { seconds / *blocks as f64 };
        let whole = seconds * times * tokens;
        println!("{phase:<18} {seconds:8.3} s   of {}, 512 x 2048: {whole:8.1} s", shape.name);
    }
    println!("together           of {}, {} blocks, 512 x 2048: {all:8.1} s", shape.name, shape.blocks);
    println!("a block of this run: {block:.2} s");
}

fn config(shape: &Shape, blocks: usize) -> String {
    let Shape { hidden, ffn, heads: [nq, nkv], vocab, .. } = shape;
    format!(
        r#"{{"architectures": ["LlamaForCausalLM"], "hidden_size": {hidden}, "intermediate_size": {ffn},
        "num_attention_heads": {nq}, "num_key_value_heads": {nkv}, "vocab_size": {vocab},
        "max_position_embeddings": 8192, "rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": true,
        "num_hidden_layers": {blocks}}}"#
    )
}

fn run<B: Backend>(b: &B, asked: &Asked) -> Result<Outcome, Box<dyn std::error::Error>> {
    let Asked { shape, blocks, sequences, length, free } = asked;
    println!("{}: {blocks} blocks of {}, {sequences} x {length} tokens", b.describe(), shape.name);
    let config = Config::from_json(config(shape, *blocks).as_bytes(), shape.name.as_ref())?;
    let plan = Plan::new(&config)?;
    let source = DummySource::new(&plan, None, 42, shape.name.into());
    let token = |i: usize| ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u32 % plan.vocab as u32;
    let sample = |s: usize| (0..*length).map(|i| token(s * length + i)).collect();
    let samples: Vec<Vec<u32>> = (0..*sequences).map(sample).collect();
    let held_back: Vec<u32> = (0..512).map(|i| token(sequences * length + i)).collect();
    let job = Job {
        plan: &plan,
        stored: &plan,
        source: &source,
        samples: &samples,
        held_back: &held_back,
        kind: &|_, _| Some(Q8::Int8),
        head: None,
        strength: &|_, input: Input| {
            Some(Strength::Alpha(if matches!(plan.absorber(input), Some(Absorber::Rows(_))) { 0.5 } else { 0.8 }))
        },
        threads: 16,
        algorithm: Algorithm::Gptq(GptqOptions { threads: 16, ..GptqOptions::default() }),
        layout: Layout { scale_name: "weight_scale", scale_dtype: DType::F32, float_dtype: DType::BF16 },
        keys: None,
    };
    let dir = std::env::temp_dir().join(format!("planish-blocks-{}", std::process::id()));
    let mut writer = CheckpointWriter::create(&dir, WriterOptions::default())?;
    let ballast = occupy(b, *free)?;
    let outcome = watched(b, || quantize(b, &job, &mut writer, &mut |_| Ok(())));
    drop((writer, ballast));
    std::fs::remove_dir_all(&dir)?;
    Ok(outcome?)
}

/// Takes memory until so many bytes are free.
fn occupy<B: Backend>(b: &B, free: Option<u64>) -> planish_tensor::Result<Vec<Tensor<B>>> {
    const COLS: usize = 1 << 20;
    let mut taken = Vec::new();
    while let Some(rest) = free.and_then(|free| b.memory().free.checked_sub(free)) {
        let rows = (rest as usize / COLS).min(4096);
        if rows < 2 {
            break;
        }
        taken.push(b.alloc(DType::I8, rows, COLS)?);
    }
    Ok(taken)
}

/// Does the work, and prints its time and the most memory that it needed.
fn watched<B: Backend, T>(b: &B, work: impl FnOnce() -> T) -> T {
    let (before, start, done) = (b.memory(), Instant::now(), AtomicBool::new(false));
    let (result, least) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut least = before.free;
            while !done.load(Ordering::Relaxed) {
                least = least.min(b.memory().free);
                std::thread::sleep(Duration::from_millis(2));
            }
            least
        });
        let result = work();
        done.store(true, Ordering::Relaxed);
        (result, watch.join().unwrap_or(0))
    });
    println!(
        "{:.2} s in all; device memory: {:.2} GB free before, {:.2} GB used at most, {:.2} GB free then",
        start.elapsed().as_secs_f64(),
        before.free as f64 / 1e9,
        before.free.saturating_sub(least) as f64 / 1e9,
        least as f64 / 1e9
    );
    match peak_of_host() {
        Some(bytes) => println!("host memory of the process: {:.2} GB at most", bytes as f64 / 1e9),
        None => println!("host memory of the process: not told by this system"),
    }
    result
}

/// The most memory that the process had, as Linux tells it.
fn peak_of_host() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok().map(|kib| kib << 10)
}
