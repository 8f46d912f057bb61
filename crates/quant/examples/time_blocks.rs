//! Times the phases of quantizing a few blocks of an 8B shape with random weights, and what 32 of them would take:
//! `time_blocks DEVICE BLOCKS SEQUENCES LENGTH`, DEVICE cuda or cpu.
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
use planish_tensor::{Backend, DType, Q8};
use std::time::Instant;

const CONFIG: &str = r#"{"architectures": ["LlamaForCausalLM"], "hidden_size": 4096, "intermediate_size": 14336,
"num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 16384, "max_position_embeddings": 8192,
"rms_norm_eps": 1e-5, "rope_theta": 500000.0, "tie_word_embeddings": true, "num_hidden_layers": "#;
/// Of the model and the calibration that the figures are for.
const BLOCKS: f64 = 32.0;
const TOKENS: f64 = 512.0 * 2048.0;
/// Phases whose time grows with the tokens.
const BY_TOKENS: [&str; 2] = ["observe", "advance"];
/// Phases that come once.
const ONCE: [&str; 3] = ["begin", "compare", "write the rest"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: usize| args.get(i).map_or(Ok(default), |text| text.parse());
    let (blocks, sequences, length) = (number(1, 2)?, number(2, 64)?, number(3, 2048)?);
    let outcome = match args.first().map(String::as_str) {
        Some("cpu") => {
            run(&Cpu::new(std::thread::available_parallelism()?.get(), Isa::best()), blocks, sequences, length)?
        }
        _ => run(&Cuda::open(Options::default())?, blocks, sequences, length)?,
    };
    let (mut all, share) = (0.0, (sequences * length) as f64 / TOKENS);
    for (phase, seconds) in outcome.phases.seconds() {
        let times = if ONCE.contains(phase) { 1.0 } else { BLOCKS / blocks as f64 };
        let tokens = if BY_TOKENS.contains(phase) { 1.0 / share } else { 1.0 };
        all += seconds * times * tokens;
        println!("{phase:<18} {seconds:8.3} s   of 8B, 512 x 2048: {:8.1} s", seconds * times * tokens);
    }
    println!("together           of 8B, 512 x 2048: {all:8.1} s");
    let quantized = outcome.quantized;
    println!("KL {:.3e}, same first choice {:.3}, smoothing {:?}", quantized.mean, quantized.top1, outcome.smoothing);
    for linear in outcome.layers.iter().flat_map(|l| &l.linears) {
        let of = |x: Option<f64>| x.unwrap_or(f64::NAN);
        let ratio = of(linear.proxy_loss) / of(linear.rtn_proxy_loss);
        println!("{:<38} loss of nearest x {ratio:.3}, output error {:.4}", linear.name, of(linear.output_error));
    }
    Ok(())
}

fn run<B: Backend>(
    b: &B,
    blocks: usize,
    sequences: usize,
    length: usize,
) -> Result<Outcome, Box<dyn std::error::Error>> {
    println!("{}: {blocks} blocks, {sequences} x {length} tokens", b.describe());
    let config = Config::from_json(format!("{CONFIG}{blocks}}}").as_bytes(), "8B".as_ref())?;
    let plan = Plan::new(&config)?;
    let source = DummySource::new(&plan, None, 42, "8B".into());
    let token = |i: usize| ((i as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 33) as u32 % plan.vocab as u32;
    let samples: Vec<Vec<u32>> = (0..sequences).map(|s| (0..length).map(|i| token(s * length + i)).collect()).collect();
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
    let dir = std::env::temp_dir().join(format!("time_blocks-{}", std::process::id()));
    let mut writer = CheckpointWriter::create(&dir, WriterOptions::default())?;
    let start = Instant::now();
    let outcome = quantize(b, &job, &mut writer, &mut |_| Ok(()));
    println!(
        "{:.2} s in all, {:.1} GB free on the device",
        start.elapsed().as_secs_f64(),
        b.memory().free as f64 / 1e9
    );
    drop(writer);
    std::fs::remove_dir_all(&dir)?;
    Ok(outcome?)
}
