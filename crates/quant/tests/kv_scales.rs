//! Scales of keys and values: those of the checkpoint as it is written, whatever smoothing, norms, rotation and packing its
//! family has, and of use to a cache of codes.
use planish_checkpoint::config::Config;
use planish_checkpoint::scheme::{QuantFormat, QuantType, Scheme};
use planish_checkpoint::shards::ModelFiles;
use planish_checkpoint::source::TensorSource;
use planish_checkpoint::writer::{CheckpointWriter, WriterOptions};
use planish_cpu::{Cpu, Isa};
use planish_model::quantized::kv_scale_names;
use planish_model::{Absorber, Decoder, Input, KvPool, LoadOptions, Plan, Role, Workspace};
use planish_quant::calibrate::run::{Job, quantize};
use planish_quant::calibrate::save::Layout;
use planish_quant::calibrate::solve::Algorithm;
use planish_quant::calibrate::strength::Strength;
use planish_tensor::{Backend, Batch, DType, FloatMath, Q8, Tensor, host::decode_f32};
use std::path::{Path, PathBuf};

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/data").join(name)
}

fn plan(dir: &Path) -> Plan {
    Plan::new(&Config::open(dir).unwrap()).unwrap()
}

fn tokens(i: u32, n: u32) -> Vec<u32> {
    (0..n).map(|j| 3 + (i * 97 + j * j * 13 + j * 5) % 253).collect()
}

/// Calibration sequences of several lengths, so that pages are not full.
fn samples() -> Vec<Vec<u32>> {
    (0..8).map(|i| tokens(i, 40 + i)).collect()
}

/// Smoothed, rounded to nearest, written with scales of keys and values.
fn write(name: &str, samples: &[Vec<u32>], out: &Path) -> planish_quant::Result<()> {
    let (config, files) = (Config::open(&data(name)).unwrap(), ModelFiles::open(&data(name)).unwrap());
    let plan = plan(&data(name));
    let head = vec![plan.arch.names.head.to_owned()];
    let scheme = Scheme::w8a8(QuantFormat::CompressedTensors, QuantType::Int8, head).unwrap();
    let scheme = scheme.with_kv_cache(Some(QuantType::Fp8E4M3));
    let text = config.to_json_with(Some(scheme.to_json()));
    let strength = |_: usize, input: Input| {
        Some(Strength::Alpha(if matches!(plan.absorber(input), Some(Absorber::Rows(_))) { 0.5 } else { 0.8 }))
    };
    let job = Job {
        plan: &plan,
        stored: &plan.stored_by(scheme),
        source: &files,
        samples,
        held_back: &tokens(77, 64),
        kind: &|_, _| Some(Q8::Int8),
        head: None,
        strength: &strength,
        threads: 1,
        algorithm: Algorithm::Rtn,
        layout: Layout { scale_name: "weight_scale", scale_dtype: DType::F32, float_dtype: DType::F32 },
        keys: None,
    };
    let mut writer = CheckpointWriter::create(out, WriterOptions::default()).unwrap();
    quantize(&Cpu::new(1, Isa::best()), &job, &mut writer, &mut |_| Ok(()))?;
    writer.add_file("config.json", &text).unwrap();
    writer.finish().unwrap();
    Ok(())
}

fn download(b: &Cpu, t: &Tensor<Cpu>) -> Vec<f32> {
    let mut bytes = vec![0; t.rows * t.cols * t.dtype.size()];
    b.download(t, &mut bytes).unwrap();
    decode_f32(t.dtype, &bytes)
}

/// Runs one sequence; its logits, and its keys and values. A cache of codes has the checkpoint's scales if `fixed`.
fn run(dir: &Path, prompt: &[u32], math: FloatMath, kv: DType, fixed: bool) -> (Vec<f32>, KvPool<Cpu>) {
    let (b, plan, files) = (Cpu::new(1, Isa::best()), plan(dir), ModelFiles::open(dir).unwrap());
    plan.check_tensors(&files).unwrap();
    let mut kv = KvPool::new(&b, &plan, plan.layers, 8, 16, kv).unwrap();
    let mut ws = Workspace::new(&b, &plan, 128, 128).unwrap();
    let options = LoadOptions { math, positions: 128, int8_head: false };
    let decoder = Decoder::load(&b, plan, &files, &options).unwrap();
    if fixed {
        decoder.fix_kv_scales(&mut kv);
    }
    let mut batch = Batch { tokens: prompt.to_vec(), ..Batch::fresh(&[prompt.len()], 16) };
    batch.logit_rows = (0..prompt.len() as u32).collect();
    decoder.forward(&b, &batch, &mut kv, &mut ws).unwrap();
    (download(&b, &ws.logits), kv)
}

/// Largest key and value of each layer in the pages of a whole model that runs the calibration.
fn largest(dir: &Path) -> Vec<[f32; 2]> {
    let b = Cpu::new(1, Isa::best());
    let mut found: Vec<[f32; 2]> = Vec::new();
    for sample in samples() {
        let (_, kv) = run(dir, &sample, FloatMath::Bf16, DType::F32, false);
        found.resize(kv.layers.len(), [0.0; 2]);
        for (found, layer) in found.iter_mut().zip(&kv.layers) {
            for (found, pages) in found.iter_mut().zip([&layer.k, &layer.v]) {
                *found = download(&b, pages).iter().fold(*found, |m, x| m.max(x.abs()));
            }
        }
    }
    found
}

fn stored(dir: &Path) -> Vec<[f32; 2]> {
    let (plan, files) = (plan(dir), ModelFiles::open(dir).unwrap());
    let one = |name: &String| {
        let scale = files.tensor(name).unwrap();
        assert_eq!((scale.dtype(), scale.shape()), (DType::BF16, &[1][..]), "{name}");
        scale.to_f32()[0]
    };
    (0..plan.layers).map(|i| kv_scale_names(&plan.linear_name(i, Role::K)).each_ref().map(one)).collect()
}

/// Mean KL(p || q) of rows of logits.
fn divergence(p: &[f32], q: &[f32]) -> f64 {
    let normal = |x: &[f32]| {
        let sum: f64 = x.iter().map(|&x| (x as f64).exp()).sum();
        x.iter().map(|&x| x as f64 - sum.ln()).collect::<Vec<_>>()
    };
    let row = |(p, q): (&[f32], &[f32])| normal(p).iter().zip(normal(q)).map(|(p, q)| p.exp() * (p - q)).sum::<f64>();
    p.chunks(256).zip(q.chunks(256)).map(row).sum::<f64>() / (p.len() / 256) as f64
}

#[test]
fn scales_are_those_of_the_written_model() {
    // Fused and interleaved projections, norms of keys, partial and no rotation, biases, windows, learned positions.
    for name in ["llama", "qwen2", "qwen3", "phi3_longrope", "gemma3", "gpt_neox", "glm4", "smollm3", "olmo2", "opt"] {
        let dir = tempfile::tempdir().unwrap();
        write(name, &samples(), dir.path()).unwrap();
        let (scales, wanted, float) = (stored(dir.path()), largest(dir.path()), largest(&data(name)));
        let mut moved = 0.0f32;
        for (layer, ((scales, wanted), float)) in scales.iter().zip(&wanted).zip(&float).enumerate() {
            for (part, scale) in scales.iter().enumerate() {
                let off = scale * 448.0 / wanted[part] - 1.0;
                // BF16 has eight bits.
                assert!(off.abs() <= 0.005, "{name}: layer {layer}, part {part}: {scale} for {wanted:?}");
                moved = moved.max((wanted[part] / float[part] - 1.0).abs());
            }
        }
        let prompt = tokens(5, 64);
        let logits = |kv, fixed| run(dir.path(), &prompt, FloatMath::F32, kv, fixed).0;
        let bf16 = logits(DType::BF16, true);
        let [fixed, own] = [true, false].map(|fixed| divergence(&bf16, &logits(DType::F8E4M3, fixed)));
        println!("{name}: values moved by {moved:.3}; FP8 cache: {fixed:.2e}, with a scale for each head {own:.2e}");
        assert!(fixed > 0.0 && fixed < 0.05 && fixed != own && fixed < 4.0 * own, "{name}: KL {fixed}, {own}");
        // Smoothing divides values by factors wherever values are smoothed.
        assert!(moved > 0.05, "{name}: the written model's keys and values are those of the original: {moved}");
    }
}

#[test]
fn scales_need_calibration_data() {
    let dir = tempfile::tempdir().unwrap();
    let said = write("llama", &[], dir.path()).unwrap_err().to_string();
    assert!(said.contains("model.layers.0.self_attn.k_scale") && said.contains("needs calibration data"), "{said}");
}
