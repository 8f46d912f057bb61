//! The forward pass against transformers: tiny models of each family, float and quantized.
use planish_checkpoint::{config::Config, shards::ModelFiles, source::TensorSource};
use planish_cpu::Scalar;
use planish_model::{Decoder, KvPool, LoadOptions, Plan, Workspace};
use planish_tensor::{Backend, Batch, DType, FloatMath, HostTensor, Tensor};
use std::path::{Path, PathBuf};

const PAGE: usize = 16;
const FLOAT: LoadOptions = LoadOptions { math: FloatMath::F32, positions: 128, int8_head: false };

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

fn prompts() -> Vec<Vec<u32>> {
    let bytes = std::fs::read(data("prompts.json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    serde_json::from_value(json["prompts"].clone()).unwrap()
}

fn expected(name: &str, tensor: &str) -> HostTensor {
    ModelFiles::open(&data(name).join("expected")).unwrap().tensor(tensor).unwrap()
}

struct Model {
    decoder: Decoder<Scalar>,
    kv: KvPool<Scalar>,
    ws: Workspace<Scalar>,
}

impl Model {
    fn open(dir: &Path, config: &str) -> Model {
        Model::open_with(dir, config, &FLOAT)
    }

    fn open_with(dir: &Path, config: &str, options: &LoadOptions) -> Model {
        let path = dir.join(config);
        let config = Config::from_json(&std::fs::read(&path).unwrap(), &path).unwrap();
        let plan = Plan::new(&config).unwrap();
        let files = ModelFiles::open(dir).unwrap();
        let kv = KvPool::new(&Scalar, &plan, plan.layers, 8, PAGE, DType::F32).unwrap();
        let ws = Workspace::new(&Scalar, &plan, 128, 128).unwrap();
        let decoder = Decoder::load(&Scalar, plan, &files, options).unwrap();
        Model { decoder, kv, ws }
    }

    /// Logits of all positions from `first` on.
    fn logits(&mut self, tokens: &[u32], first: usize) -> Vec<f32> {
        let mut batch = Batch::fresh(&[tokens.len()], PAGE);
        batch.tokens = tokens.to_vec();
        batch.logit_rows = (first as u32..tokens.len() as u32).collect();
        self.decoder.forward(&Scalar, &batch, &mut self.kv, &mut self.ws).unwrap();
        download(&self.ws.logits)
    }

    /// The likeliest next token, step by step, with the KV cache.
    fn greedy(&mut self, prompt: &[u32], count: usize) -> Vec<u32> {
        let mut out: Vec<u32> = Vec::new();
        let mut batch = Batch::fresh(&[prompt.len()], PAGE);
        batch.tokens = prompt.to_vec();
        batch.pages_per_seq = 8;
        batch.page_tables = (0..8).collect();
        for step in 0..count {
            batch.logit_rows = vec![batch.t() as u32 - 1];
            self.decoder.forward(&Scalar, &batch, &mut self.kv, &mut self.ws).unwrap();
            out.push(Scalar.argmax(&self.ws.logits).unwrap()[0]);
            let position = (prompt.len() + step) as u32;
            batch.tokens = vec![out[step]];
            (batch.positions, batch.slots) = (vec![position], vec![position]);
            (batch.query_starts, batch.kv_lens) = (vec![0, 1], vec![position + 1]);
        }
        out
    }
}

fn download(t: &Tensor<Scalar>) -> Vec<f32> {
    let mut bytes = vec![0; t.rows * t.cols * 4];
    Scalar.download(t, &mut bytes).unwrap();
    planish_tensor::host::decode_f32(DType::F32, &bytes)
}

fn difference(a: &[f32], b: &[f32]) -> (f32, f64) {
    assert_eq!(a.len(), b.len());
    let max = a.iter().zip(b).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    let square: f64 = a.iter().zip(b).map(|(a, b)| ((a - b) as f64).powi(2)).sum();
    (max, (square / a.len() as f64).sqrt())
}

/// Both prompts' logits within 5e-4 (RMS 1e-4), and 24 greedy tokens each.
fn check_float(name: &str, config: &str) {
    let mut model = Model::open(&data(name), config);
    let reference = if name == "llama_sharded" { "llama" } else { name };
    for (i, prompt) in prompts().iter().enumerate() {
        let logits = model.logits(prompt, if i == 0 { 0 } else { 56 });
        let (max, rms) = difference(&logits, &expected(reference, &format!("logits_{i}")).to_f32());
        assert!(max <= 5e-4 && rms <= 1e-4, "{name} prompt {i}: max {max}, rms {rms}");
        let greedy: Vec<u32> = expected(reference, &format!("greedy_{i}")).to_f32().iter().map(|&x| x as u32).collect();
        assert_eq!(model.greedy(prompt, 24), greedy, "{name} prompt {i}");
    }
}

#[test]
fn llama() {
    check_float("llama", "config.json");
    check_float("llama", "config_v4.json");
}

#[test]
fn llama_f32() {
    check_float("llama_f32", "config.json");
}

#[test]
fn llama_sharded() {
    check_float("llama_sharded", "config.json");
}

#[test]
fn llama3_rope_bias_untied() {
    check_float("llama3_rope_bias_untied", "config.json");
    check_float("llama3_rope_bias_untied", "config_v4.json");
}

#[test]
fn mistral() {
    check_float("mistral", "config.json");
    check_float("mistral", "config_v4.json");
}

#[test]
fn qwen2() {
    check_float("qwen2", "config.json");
    check_float("qwen2", "config_v4.json");
}

#[test]
fn mixtral() {
    check_float("mixtral", "config.json");
    check_float("mixtral", "config_v4.json");
}

#[test]
fn qwen2_moe() {
    check_float("qwen2_moe", "config.json");
    check_float("qwen2_moe", "config_v4.json");
}

/// An INT8 output projection is another function, but barely.
#[test]
fn int8_heads_stay_close() {
    for name in ["llama", "llama3_rope_bias_untied", "w8a8_rtn"] {
        let mut float = Model::open(&data(name), "config.json");
        let mut int8 = Model::open_with(&data(name), "config.json", &LoadOptions { int8_head: true, ..FLOAT });
        assert!(int8.decoder.step_bytes() < float.decoder.step_bytes());
        let prompt = &prompts()[0];
        let (want, got) = (float.logits(prompt, 0), int8.logits(prompt, 0));
        let width = want.len() / prompt.len();
        let kl: f64 = want.chunks(width).zip(got.chunks(width)).map(|(a, b)| kl(a, b)).sum::<f64>();
        let mean = kl / prompt.len() as f64;
        assert!(mean > 0.0 && mean < 2e-3, "{name}: mean KL {mean}");
    }
}

fn kl(p: &[f32], q: &[f32]) -> f64 {
    let log_softmax = |x: &[f32]| {
        let sum: f64 = x.iter().map(|&x| (x as f64).exp()).sum();
        x.iter().map(|&x| x as f64 - sum.ln()).collect::<Vec<_>>()
    };
    log_softmax(p).iter().zip(log_softmax(q)).map(|(p, q)| p.exp() * (p - q)).sum()
}
