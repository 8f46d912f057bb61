//! Every family from end to end, as files: smoothing is an identity, codes stand where the family's rows do, and what was
//! written is read back as the same model.
use planish_checkpoint::config::Config;
use planish_checkpoint::shards::ModelFiles;
use planish_checkpoint::source::TensorSource;
use planish_checkpoint::writer::{CheckpointWriter, WriterOptions};
use planish_cpu::{Cpu, Isa};
use planish_model::{Absorber, Decoder, Input, KvPool, LoadOptions, Plan, Workspace};
use planish_quant::calibrate::run::{Job, Outcome, quantize};
use planish_quant::calibrate::save::Layout;
use planish_quant::calibrate::solve::Algorithm;
use planish_quant::calibrate::strength::Strength;
use planish_quant::gptq::GptqOptions;
use planish_tensor::{Backend, Batch, DType, FloatMath, Q8, host::decode_f32};
use std::path::{Path, PathBuf};

/// What runs: which linears, and how.
#[derive(Clone, Copy)]
struct Setting {
    smooth: bool,
    kind: Option<Q8>,
    gptq: bool,
    float_dtype: DType,
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/data").join(name)
}

fn plan(dir: &Path) -> Plan {
    Plan::new(&Config::open(dir).unwrap()).unwrap()
}

fn tokens(i: u32, n: u32) -> Vec<u32> {
    (0..n).map(|j| 3 + (i * 97 + j * j * 13 + j * 5) % 253).collect()
}

fn run(name: &str, setting: Setting, out: &Path) -> Outcome {
    let (plan, files) = (plan(&data(name)), ModelFiles::open(&data(name)).unwrap());
    let samples: Vec<Vec<u32>> = (0..8).map(|i| tokens(i, 40 + i)).collect();
    let strength = |_: usize, input: Input| {
        let alpha = if matches!(plan.absorber(input), Some(Absorber::Rows(_))) { 0.5 } else { 0.8 };
        setting.smooth.then_some(Strength::Alpha(alpha))
    };
    let job = Job {
        plan: &plan,
        stored: &plan,
        source: &files,
        samples: &samples,
        held_back: &tokens(77, 64),
        kind: &|_, _| setting.kind,
        head: None,
        strength: &strength,
        threads: 1,
        algorithm: if setting.gptq { Algorithm::Gptq(GptqOptions::default()) } else { Algorithm::Rtn },
        layout: Layout { scale_name: "weight_scale", scale_dtype: DType::F32, float_dtype: setting.float_dtype },
        keys: None,
    };
    let mut writer = CheckpointWriter::create(out, WriterOptions::default()).unwrap();
    let outcome = quantize(&Cpu::new(1, Isa::best()), &job, &mut writer, &mut |_| Ok(())).unwrap();
    writer.add_file("config.json", &std::fs::read(data(name).join("config.json")).unwrap()).unwrap();
    writer.finish().unwrap();
    outcome
}

/// Logits `[64, v]` of one text.
fn logits(dir: &Path, prompt: &[u32]) -> Vec<f32> {
    let (b, plan, files) = (Cpu::new(1, Isa::best()), plan(dir), ModelFiles::open(dir).unwrap());
    plan.check_tensors(&files).unwrap();
    let mut kv = KvPool::new(&b, &plan, plan.layers, 8, 16, DType::F32).unwrap();
    let mut ws = Workspace::new(&b, &plan, 128, 128).unwrap();
    let options = LoadOptions { math: FloatMath::F32, positions: 128, int8_head: false };
    let decoder = Decoder::load(&b, plan, &files, &options).unwrap();
    let mut batch = Batch { tokens: prompt.to_vec(), ..Batch::fresh(&[prompt.len()], 16) };
    batch.logit_rows = (0..prompt.len() as u32).collect();
    decoder.forward(&b, &batch, &mut kv, &mut ws).unwrap();
    let mut bytes = vec![0; ws.logits.rows * ws.logits.cols * 4];
    b.download(&ws.logits, &mut bytes).unwrap();
    decode_f32(DType::F32, &bytes)
}

/// Mean KL(p || q) of rows of logits.
fn divergence(p: &[f32], q: &[f32], v: usize) -> f64 {
    let normal = |x: &[f32]| {
        let sum: f64 = x.iter().map(|&x| (x as f64).exp()).sum();
        x.iter().map(|&x| x as f64 - sum.ln()).collect::<Vec<_>>()
    };
    let row = |(p, q): (&[f32], &[f32])| normal(p).iter().zip(normal(q)).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
    p.chunks(v).zip(q.chunks(v)).map(row).sum::<f64>() / (p.len() / v) as f64
}

/// Smoothed and saved without codes, in f32: the same function, read from the files.
fn smoothing_is_an_identity(name: &str, float: &[f32], smoothed: usize) {
    let dir = tempfile::tempdir().unwrap();
    let setting = Setting { smooth: true, kind: None, gptq: false, float_dtype: DType::F32 };
    let outcome = run(name, setting, dir.path());
    let groups = &outcome.layers[0].smoothing;
    assert_eq!(groups.len(), smoothed, "{name}: {groups:?}");
    assert!(groups.iter().all(|g| g.s.max / g.s.min > 1.5), "{name}: factors that do something");
    let kl = outcome.smoothing.unwrap().mean;
    assert!(kl.abs() <= 1e-7, "{name}: KL {kl:e} after smoothing");
    let kl = divergence(float, &logits(dir.path(), &tokens(5, 64)), 256);
    assert!(kl.abs() <= 1e-7, "{name}: KL {kl:e} as read back");
    for tensor in ModelFiles::open(&data(name)).unwrap().names() {
        let (before, after) = (shape(&data(name), &tensor), shape(dir.path(), &tensor));
        assert_eq!(before, after, "{name}: {tensor}");
    }
}

/// Smoothed, solved, and saved as a user's would be: near the float model.
fn eight_bits_stay_close(name: &str, float: &[f32]) {
    let dir = tempfile::tempdir().unwrap();
    let float_dtype = ModelFiles::open(&data(name)).unwrap();
    let float_dtype = float_dtype.tensor(plan(&data(name)).arch.names.embed).unwrap().dtype();
    let outcome = run(name, Setting { smooth: true, kind: Some(Q8::Int8), gptq: true, float_dtype }, dir.path());
    let kl = outcome.smoothing.unwrap().mean;
    assert!(kl.abs() <= 1e-7, "{name}: KL {kl:e} after smoothing");
    assert!(outcome.layers.iter().all(|l| !l.linears.is_empty() && l.linears.iter().all(|l| l.algorithm == "gptq")));
    let kl = divergence(float, &logits(dir.path(), &tokens(5, 64)), 256);
    assert!(kl > 0.0 && kl < 0.05, "{name}: KL {kl} of 8 bits");
    println!("{name}: smoothing {:.1e}, 8 bits {kl:.4}", outcome.smoothing.unwrap().mean);
}

/// The FP8 default: rounded to nearest, not smoothed. Runs as it was measured, and near the float model.
fn fp8_stays_close(name: &str, float: &[f32]) {
    let dir = tempfile::tempdir().unwrap();
    let setting = Setting { smooth: false, kind: Some(Q8::E4M3), gptq: false, float_dtype: DType::BF16 };
    let outcome = run(name, setting, dir.path());
    assert!(outcome.smoothing.is_none());
    let (plan, files) = (plan(dir.path()), ModelFiles::open(dir.path()).unwrap());
    for module in plan.stored(0) {
        assert_eq!(files.tensor(&format!("{}.weight", module.name)).unwrap().dtype(), DType::F8E4M3, "{name}");
    }
    let kl = divergence(float, &logits(dir.path(), &tokens(5, 64)), 256);
    // A step of E4M3 is 2^-4 of a number, one of INT8 2^-8 of the largest.
    assert!(kl > 0.0 && kl < 0.15, "{name}: KL {kl} of FP8");
    assert!(kl < 4.0 * outcome.quantized.mean && kl > outcome.quantized.mean / 4.0, "{name}: {kl} {outcome:?}");
    println!("{name}: FP8 {kl:.4}, measured {:.4}", outcome.quantized.mean);
}

/// Rounded to nearest without smoothing, each number is within half a step of what stood in its place.
fn codes_stand_in_their_places(name: &str) {
    let dir = tempfile::tempdir().unwrap();
    let float_dtype = DType::BF16;
    run(name, Setting { smooth: false, kind: Some(Q8::Int8), gptq: false, float_dtype }, dir.path());
    let (plan, before, after) =
        (plan(dir.path()), ModelFiles::open(&data(name)).unwrap(), ModelFiles::open(dir.path()).unwrap());
    for layer in 0..plan.layers {
        for module in plan.stored(layer) {
            let weight = format!("{}.weight", module.name);
            let (w, codes) = (before.tensor(&weight).unwrap().to_f32(), after.tensor(&weight).unwrap());
            assert_eq!(codes.dtype(), DType::I8, "{name}: {weight}");
            let scales = after.tensor(&format!("{}.weight_scale", module.name)).unwrap().to_f32();
            for ((w, code), i) in w.iter().zip(codes.to_f32()).zip(0..) {
                let scale = scales[i / module.k];
                assert!((w - code * scale).abs() <= 0.5001 * scale, "{name}: {weight} at {i}");
            }
        }
    }
}

fn shape(dir: &Path, tensor: &str) -> Vec<usize> {
    ModelFiles::open(dir).unwrap().tensor(tensor).unwrap().shape().to_vec()
}

/// A family and the number of a block's inputs that are smoothed.
fn check(name: &str, smoothed: usize) {
    let float = logits(&data(name), &tokens(5, 64));
    smoothing_is_an_identity(name, &float, smoothed);
    eight_bits_stay_close(name, &float);
    fp8_stays_close(name, &float);
    codes_stand_in_their_places(name);
}

macro_rules! families {
    ($($name:ident $smoothed:literal)*) => {$(
        #[test]
        fn $name() {
            check(stringify!($name), $smoothed);
        }
    )*};
}

// GELU lets no factor through, ReLU does; OLMo 2 has no norm before attention and MLP.
families! {
    gemma2 4 gemma3 4 glm4 4 gpt_neox 3 granite 4 internlm2 4 llama 4 llama3_rope_bias_untied 4 mistral 4 olmo2 2 opt 4
    opt_f32 4 phi3_longrope 4 qwen2 4 qwen3 4 smollm3 4 starcoder2 3
}
