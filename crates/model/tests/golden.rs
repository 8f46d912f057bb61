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
        Model::of(dir, &Config::from_json(&std::fs::read(&path).unwrap(), &path).unwrap(), options)
    }

    fn of(dir: &Path, config: &Config, options: &LoadOptions) -> Model {
        let plan = Plan::new(config).unwrap();
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

    /// Logits of all positions of several texts in one step.
    fn together(&mut self, texts: &[Vec<u32>]) -> Vec<f32> {
        let lengths: Vec<usize> = texts.iter().map(Vec::len).collect();
        let mut batch = Batch { tokens: texts.concat(), ..Batch::fresh(&lengths, PAGE) };
        batch.logit_rows = (0..batch.t() as u32).collect();
        self.decoder.forward(&Scalar, &batch, &mut self.kv, &mut self.ws).unwrap();
        download(&self.ws.logits)
    }

    /// Logits of the last position, of a text whose first tokens have a step of their own.
    fn in_two_steps(&mut self, tokens: &[u32], first: usize) -> Vec<f32> {
        let whole = Batch { tokens: tokens.to_vec(), ..Batch::fresh(&[tokens.len()], PAGE) };
        for part in [0..first, first..tokens.len()] {
            let batch = Batch {
                tokens: whole.tokens[part.clone()].to_vec(),
                positions: whole.positions[part.clone()].to_vec(),
                slots: whole.slots[part.clone()].to_vec(),
                query_starts: vec![0, part.len() as u32],
                kv_lens: vec![part.end as u32],
                logit_rows: if part.end < tokens.len() { vec![] } else { vec![part.len() as u32 - 1] },
                ..whole.clone()
            };
            self.decoder.forward(&Scalar, &batch, &mut self.kv, &mut self.ws).unwrap();
        }
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
    let reference = if matches!(name, "llama_sharded" | "internlm2") { "llama" } else { name };
    for (i, prompt) in prompts().iter().enumerate() {
        let logits = model.logits(prompt, if i == 0 { 0 } else { 56 });
        let (max, rms) = difference(&logits, &expected(reference, &format!("logits_{i}")).to_f32());
        assert!(max <= 5e-4 && rms <= 1e-4, "{name} prompt {i}: max {max}, rms {rms}");
        let greedy: Vec<u32> = expected(reference, &format!("greedy_{i}")).to_f32().iter().map(|&x| x as u32).collect();
        assert_eq!(model.greedy(prompt, 24), greedy, "{name} prompt {i}");
    }
}

fn check_both(name: &str) {
    check_float(name, "config.json");
    check_float(name, "config_v4.json");
    check_batched(name);
    check_narrowed(name);
}

/// Texts that run together give what each gives alone, to the bit.
fn check_batched(name: &str) {
    let (mut model, prompts) = (Model::open(&data(name), "config.json"), prompts());
    let alone: Vec<f32> = prompts.iter().flat_map(|prompt| model.logits(prompt, 0)).collect();
    assert_eq!(model.together(&prompts), alone, "{name}");
}

/// Rows that are wanted alone, and those after tokens of which none was wanted, are as among all, to the bit.
fn check_narrowed(name: &str) {
    let (mut model, prompts) = (Model::open(&data(name), "config.json"), prompts());
    let (all, len) = (model.logits(&prompts[0], 0), prompts[0].len());
    let width = all.len() / len;
    for first in [len - 1, len / 2, 1] {
        assert!(model.logits(&prompts[0], first) == all[first * width..], "{name} from {first}");
    }
    assert!(model.in_two_steps(&prompts[0], len - 3) == all[(len - 1) * width..], "{name} in two steps");
    let again = model.logits(&prompts[0], 0);
    assert!(again == all, "{name}: all rows after some");
}

/// Float models of transformers: both prompts' logits, and greedy tokens, from both spellings of the configuration.
mod families {
    macro_rules! families {
        ($($name:ident)*) => {$(
            #[test]
            fn $name() {
                super::check_both(stringify!($name));
            }
        )*};
    }

    families! {
        gemma2 gemma3 glm4 gpt_neox granite llama llama3_rope_bias_untied mistral olmo2 opt phi3_longrope qwen2 qwen3
        smollm3 starcoder2
    }
}

#[test]
fn llama_f32() {
    check_float("llama_f32", "config.json");
}

#[test]
fn opt_f32() {
    check_float("opt_f32", "config.json");
}

#[test]
fn llama_sharded() {
    check_float("llama_sharded", "config.json");
}

#[test]
fn internlm2() {
    check_float("internlm2", "config.json");
}

#[test]
fn mixtral() {
    check_float("mixtral", "config.json");
    check_float("mixtral", "config_v4.json");
    check_narrowed("mixtral");
}

#[test]
fn qwen2_moe() {
    check_float("qwen2_moe", "config.json");
    check_float("qwen2_moe", "config_v4.json");
    check_narrowed("qwen2_moe");
}

#[test]
fn qwen3_moe() {
    check_float("qwen3_moe", "config.json");
    check_float("qwen3_moe", "config_v4.json");
    check_narrowed("qwen3_moe");
}

/// InternLM3 is Llama with biases that are asked for by other names.
#[test]
fn internlm3() {
    let dir = data("llama3_rope_bias_untied");
    let mut json: serde_json::Value = serde_json::from_slice(&std::fs::read(dir.join("config.json")).unwrap()).unwrap();
    json["architectures"] = serde_json::json!(["InternLM3ForCausalLM"]);
    for (old, new) in [("attention_bias", "qkv_bias"), ("mlp_bias", "bias")] {
        json[old] = false.into();
        json[new] = true.into();
    }
    let config = Config::from_json(json.to_string().as_bytes(), Path::new("config.json")).unwrap();
    let logits = Model::of(&dir, &config, &FLOAT).logits(&prompts()[0], 0);
    let (max, rms) = difference(&logits, &expected("llama3_rope_bias_untied", "logits_0").to_f32());
    assert!(max <= 5e-4 && rms <= 1e-4, "max {max}, rms {rms}");
}

/// What a declaration is not about, and tensors that are not a model's own, are named.
#[test]
fn other_networks_are_refused() {
    let refused = |name: &str, field: &str, value: serde_json::Value| {
        let bytes = std::fs::read(data(name).join("config.json")).unwrap();
        let mut json: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
        json[field] = value;
        let config = Config::from_json(json.to_string().as_bytes(), Path::new("config.json")).unwrap();
        Plan::new(&config).unwrap_err().to_string()
    };
    let error = refused("opt", "do_layer_norm_before", false.into());
    assert_eq!(error, "config.json: field do_layer_norm_before: expected true, found false");
    assert!(refused("opt", "word_embed_proj_dim", 32.into()).contains("expected 64, as hidden_size, found 32"));
    assert!(refused("smollm3", "no_rope_layers", serde_json::json!([1, 2])).contains("0 or 1 for each layer"));
    assert!(refused("opt", "activation_function", "mish".into()).contains("silu, gelu, gelu_pytorch_tanh or relu"));
    assert!(refused("granite", "residual_multiplier", 0.into()).contains("a positive number"));
    assert!(refused("gemma2", "query_pre_attn_scalar", serde_json::Value::Null).contains("query_pre_attn_scalar"));

    let plan = |name: &str| Plan::new(&Config::open(&data(name)).unwrap()).unwrap();
    let (qwen2, qwen3) = (ModelFiles::open(&data("qwen2")).unwrap(), ModelFiles::open(&data("qwen3")).unwrap());
    plan("qwen3").check_tensors(&qwen3).unwrap();
    let error = plan("qwen3").check_tensors(&qwen2).unwrap_err().to_string();
    assert!(error.starts_with("tensors of a Qwen3 model: missing: model.layers.0.self_attn.k_norm.weight"), "{error}");
    assert!(error.contains("; left over: model.layers.0.self_attn.k_proj.bias, "), "{error}");
    let error = plan("qwen2").check_tensors(&qwen3).unwrap_err().to_string();
    assert!(error.contains("model.layers.1.self_attn.q_norm.weight"), "{error}");
}

/// The same over codes, where attention quantizes what it gives.
#[test]
fn codes_are_narrowed_alike() {
    check_narrowed("w8a8_rtn");
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
