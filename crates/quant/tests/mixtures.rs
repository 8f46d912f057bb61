//! Mixtures of experts through a whole run: what is quantized and what is not, what experts are calibrated on, and that
//! smoothing everything that reads a mixture's norm changes nothing.
use planish_checkpoint::config::Config;
use planish_checkpoint::shards::ModelFiles;
use planish_checkpoint::source::TensorSource;
use planish_checkpoint::writer::{CheckpointWriter, WriterOptions};
use planish_cpu::{Cpu, Isa};
use planish_model::{Decoder, Input, KvPool, LoadOptions, Mlp, Plan, Role, Workspace};
use planish_quant::calibrate::run::{FEW_TOKENS, Job, Outcome, quantize};
use planish_quant::calibrate::save::Layout;
use planish_quant::calibrate::solve::Algorithm;
use planish_quant::calibrate::strength::Strength;
use planish_quant::gptq::GptqOptions;
use planish_tensor::{Backend, Batch, DType, FloatMath, HostTensor, Q8};
use std::path::{Path, PathBuf};

const NAMES: [&str; 2] = ["mixtral", "qwen2_moe"];

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/data").join(name)
}

fn plan(name: &str) -> Plan {
    Plan::new(&Config::open(&data(name)).unwrap()).unwrap()
}

fn cpu() -> Cpu {
    Cpu::new(2, Isa::best())
}

/// A model with some tensors replaced.
struct Changed<'a>(&'a dyn TensorSource, Vec<(String, HostTensor)>);

impl TensorSource for Changed<'_> {
    fn names(&self) -> Vec<String> {
        self.0.names()
    }
    fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }
    fn tensor(&self, name: &str) -> planish_checkpoint::Result<HostTensor> {
        match self.1.iter().find(|(changed, _)| changed == name) {
            Some((_, tensor)) => Ok(tensor.clone()),
            None => self.0.tensor(name),
        }
    }
    fn release(&self, name: &str) {
        self.0.release(name);
    }
}

fn held_back() -> Vec<u32> {
    (0..90).map(|j| (j * j * 7 + j / 3) % 256).collect()
}

/// Quantizes to INT8 by GPTQ on `samples` sequences; `smooth` says which inputs are smoothed.
fn run(
    plan: &Plan,
    source: &dyn TensorSource,
    samples: u32,
    smooth: &dyn Fn(Input) -> bool,
    quantized: &dyn Fn(usize, Role) -> bool,
    dir: &Path,
) -> Outcome {
    let sample = |i: u32| (0..60).map(|j| (i * 97 + j * j * 13 + j) % 256).collect();
    let samples: Vec<Vec<u32>> = (0..samples).map(sample).collect();
    let strength = |_: usize, input: Input| smooth(input).then_some(Strength::Alpha(0.6));
    let job = Job {
        plan,
        stored: plan,
        source,
        samples: &samples,
        held_back: &held_back(),
        kind: &|layer, role| quantized(layer, role).then_some(Q8::Int8),
        head: None,
        strength: &strength,
        algorithm: Algorithm::Gptq(GptqOptions::default()),
        threads: 1,
        layout: Layout { scale_name: "weight_scale", scale_dtype: DType::F32, float_dtype: DType::BF16 },
        keys: None,
    };
    let mut writer = CheckpointWriter::create(dir, WriterOptions::default()).unwrap();
    let outcome = quantize(&cpu(), &job, &mut writer, &mut |_| Ok(())).unwrap();
    writer.finish().unwrap();
    outcome
}

/// Log-probabilities of every position of the held-back sequence.
fn log_probs(plan: &Plan, source: &dyn TensorSource) -> Vec<f32> {
    let (cpu, tokens) = (cpu(), held_back());
    let options = LoadOptions { math: FloatMath::F32, positions: 128, int8_head: false };
    let decoder = Decoder::load(&cpu, plan.clone(), source, &options).unwrap();
    let mut kv = KvPool::new(&cpu, plan, plan.layers, 8, 16, DType::F32).unwrap();
    let mut ws = Workspace::new(&cpu, plan, 128, 128).unwrap();
    let mut batch = Batch::fresh(&[tokens.len()], 16);
    batch.logit_rows = (0..tokens.len() as u32).collect();
    batch.tokens = tokens;
    decoder.forward(&cpu, &batch, &mut kv, &mut ws).unwrap();
    cpu.log_softmax(&mut ws.logits).unwrap();
    let mut bytes = vec![0; ws.logits.rows * ws.logits.cols * 4];
    cpu.download(&ws.logits, &mut bytes).unwrap();
    planish_tensor::host::decode_f32(DType::F32, &bytes)
}

#[test]
fn experts_become_8_bit_and_routers_stay() {
    for name in NAMES {
        let (plan, files, dir) = (plan(name), ModelFiles::open(&data(name)).unwrap(), tempfile::tempdir().unwrap());
        let attention = |input| matches!(input, Input::AttentionNorm | Input::AttentionOutput);
        // One expert's down projection stays in float, as a pattern of --ignore may ask.
        let kept = Role::Down(Mlp::Expert(1));
        let outcome = run(&plan, &files, 24, &attention, &|_, role| role != kept, dir.path());
        let written = ModelFiles::open(dir.path()).unwrap();
        for layer in 0..plan.layers {
            for role in plan.roles(layer) {
                let weight = plan.linear_name(layer, role) + ".weight";
                let (before, after) = (files.tensor(&weight).unwrap(), written.tensor(&weight).unwrap());
                assert_eq!(before.shape(), after.shape(), "{weight}");
                let stays = role.steers() || role == kept;
                assert_eq!(after.dtype(), if stays { DType::BF16 } else { DType::I8 }, "{weight}");
                assert!(!stays || before.bytes() == after.bytes(), "{weight}");
                assert_eq!(written.contains(&(weight + "_scale")), !stays);
            }
            let experts = &outcome.layers[layer].experts;
            let chosen = plan.mixture(layer).unwrap().routing.chosen as u64;
            assert_eq!(experts.tokens.iter().sum::<u64>(), 24 * 60 * chosen);
        }
        let linears: Vec<_> = outcome.layers.iter().flat_map(|l| &l.linears).collect();
        assert!(linears.iter().all(|l| l.algorithm == "gptq" && !l.fallback && l.proxy_loss <= l.rtn_proxy_loss));
        // What was written is what was measured.
        let (p, q) = (log_probs(&plan, &files), log_probs(&plan, &written));
        let rows = held_back().len() as f64;
        let kl = p.iter().zip(&q).map(|(&p, &q)| (p as f64).exp() * (p - q) as f64).sum::<f64>() / rows;
        let mean = outcome.quantized.mean;
        assert!(kl > 1e-5 && kl < 0.05 && (kl / mean - 1.0).abs() < 1e-2, "{name}: KL {kl}, measured {mean}");
    }
}

#[test]
fn smoothing_what_reads_a_mixtures_norm_changes_nothing() {
    for name in NAMES {
        let (plan, files, dir) = (plan(name), ModelFiles::open(&data(name)).unwrap(), tempfile::tempdir().unwrap());
        let outcome = run(&plan, &files, 16, &|_| true, &|_, _| true, dir.path());
        let smoothing = outcome.smoothing.unwrap();
        assert!(smoothing.mean.abs() < 1e-7, "{name}: {smoothing:?}");
        let written = ModelFiles::open(dir.path()).unwrap();
        let router = plan.linear_name(0, Role::Router) + ".weight";
        let (before, after) = (files.tensor(&router).unwrap().to_f32(), written.tensor(&router).unwrap().to_f32());
        let factors: Vec<f32> = before.iter().zip(&after).filter(|(b, _)| **b != 0.0).map(|(b, a)| a / b).collect();
        assert!(factors.iter().all(|f| f.log2().fract() == 0.0), "{name}: {factors:?}");
        assert!(factors.iter().any(|f| *f != 1.0), "{name}");
        let group = outcome.layers[0].smoothing.iter().find(|g| g.balance.contains(&plan.linear_name(0, Role::Router)));
        let up = plan.linear_name(0, Role::Up(Mlp::Expert(3)));
        assert!(group.unwrap().balance.contains(&up), "{name}");
    }
}

/// An expert that no token is given to is calibrated on all of them, and says so; others keep their own.
#[test]
fn no_expert_is_left_without_statistics() {
    for name in NAMES {
        let (plan, files, dir) = (plan(name), ModelFiles::open(&data(name)).unwrap(), tempfile::tempdir().unwrap());
        let router = plan.linear_name(0, Role::Router) + ".weight";
        let mut rows = files.tensor(&router).unwrap().to_f32();
        // Experts 2 and 3 tie with 0, and of equals the first are taken: 3 is never among two.
        let first = rows[..plan.hidden].to_vec();
        rows[2 * plan.hidden..3 * plan.hidden].copy_from_slice(&first);
        rows[3 * plan.hidden..].copy_from_slice(&first);
        let changed = HostTensor::from_f32(vec![4, plan.hidden], &rows).unwrap();
        let source = Changed(&files, vec![(router, changed)]);
        let outcome = run(&plan, &source, 24, &|_| false, &|_, _| true, dir.path());
        let layer = &outcome.layers[0];
        assert_eq!(layer.experts.tokens[3], 0, "{name}: {:?}", layer.experts);
        assert!(layer.experts.tokens[0] >= FEW_TOKENS, "{name}: {:?}", layer.experts);
        assert!(layer.experts.on_all_tokens.contains(&3) && !layer.experts.on_all_tokens.contains(&0), "{name}");
        for role in [Role::Gate(Mlp::Expert(3)), Role::Up(Mlp::Expert(3)), Role::Down(Mlp::Expert(3))] {
            let linear = plan.linear_name(0, role);
            let report = layer.linears.iter().find(|l| l.name == linear).unwrap();
            assert!(!report.fallback && report.algorithm == "gptq", "{report:?}");
            assert!(report.proxy_loss.unwrap() > 0.0 && report.output_error.is_none(), "{report:?}");
        }
        // With few samples every expert gets few tokens.
        let dir = tempfile::tempdir().unwrap();
        let outcome = run(&plan, &files, 2, &|_| false, &|_, _| true, dir.path());
        assert!(outcome.layers.iter().all(|l| l.experts.on_all_tokens == [0, 1, 2, 3]), "{name}");
    }
}
