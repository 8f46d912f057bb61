//! The forward pass against transformers: tiny models of each family, float and quantized.
use planish_checkpoint::{config::Config, shards::ModelFiles, source::TensorSource};
use planish_cpu::Scalar;
use planish_model::{Decoder, KvPool, LoadOptions, Plan, Workspace, weights::read_weight};
use planish_tensor::{Backend, Batch, DType, FloatMath, HostTensor, Q8, Tensor, q8};
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

/// llm-compressor's checkpoints, linear by linear: real products of 8-bit codes within 2e-6 of max|y|.
/// The Python simulation quantizes INT8 activations on absmax/127.5 where kernels (and Planish) use absmax/127,
/// so the codes are made on that grid here; the product under test is the shipped one.
#[test]
fn linears_of_llm_compressor() {
    for (name, kind, range) in
        [("w8a8_rtn", Q8::Int8, 127.5), ("w8a8_sq_gptq_f32", Q8::Int8, 127.5), ("fp8_dynamic", Q8::E4M3, 448.0)]
    {
        let files = ModelFiles::open(&data(name)).unwrap();
        for module in ["self_attn.q_proj", "self_attn.k_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj"] {
            let module = format!("model.layers.0.{module}");
            let x = expected(name, &format!("io.{module}.x"));
            let y = expected(name, &format!("io.{module}.y"));
            let (n, k) = (y.shape()[1], x.shape()[1]);
            let part = read_weight(&files, &module, n, k, None).unwrap();
            let linear = Scalar.load_linear(&[part]).unwrap();
            let rows = codes_on_grid(kind, range, &x.to_f32(), k);
            let mut out = Scalar.alloc(DType::F32, x.shape()[0], n).unwrap();
            Scalar.gemm_w8a8(&rows, &linear, &mut out).unwrap();
            let (max, _) = difference(&download(&out), &y.to_f32());
            let limit = 2e-6 * q8::absmax(&y.to_f32());
            assert!(max <= limit, "{name} {module}: {max} > {limit}");
        }
    }
}

fn codes_on_grid(kind: Q8, range: f32, x: &[f32], k: usize) -> planish_tensor::Q8Rows<Scalar> {
    let mut rows = Scalar.alloc_q8(kind, x.len() / k, k).unwrap();
    let scales: Vec<f32> = x.chunks_exact(k).map(|row| q8::absmax(row) / range).collect();
    let codes: Vec<u8> = x.iter().enumerate().map(|(i, v)| kind.encode(v / scales[i / k])).collect();
    let scale_bytes: Vec<u8> = scales.iter().flat_map(|s| s.to_le_bytes()).collect();
    Scalar.upload(&codes, &mut rows.codes).unwrap();
    Scalar.upload(&scale_bytes, &mut rows.scales).unwrap();
    rows
}

/// Whole models. A code on a rounding tie may fall to the other side and then changes all later positions a little,
/// so the distributions are compared (mean KL), and most positions must agree to the last digits.
#[test]
fn models_of_llm_compressor() {
    for (name, logits) in
        [("w8a8_rtn", "logits_act127_0"), ("w8a8_sq_gptq_f32", "logits_act127_0"), ("fp8_dynamic", "logits_0")]
    {
        let mut model = Model::open(&data(name), "config.json");
        let (got, want) = (model.logits(&prompts()[0], 0), expected(name, logits).to_f32());
        let mut rms: Vec<f64> = got.chunks(256).zip(want.chunks(256)).map(|(a, b)| difference(a, b).1).collect();
        rms.sort_by(f64::total_cmp);
        assert!(rms[rms.len() / 2] <= 1e-5, "{name}: median rms {}", rms[rms.len() / 2]);
        let kl: f64 = got.chunks(256).zip(want.chunks(256)).map(|(a, b)| kl(b, a)).sum::<f64>() / 37.0;
        assert!(kl <= 5e-4, "{name}: mean KL {kl}");
    }
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
