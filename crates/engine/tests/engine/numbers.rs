//! What is counted, and what an engine may use.
use crate::setting::*;
use planish_checkpoint::scheme::{QuantFormat, QuantType, Scheme};
use planish_checkpoint::{shards::ModelFiles, source::TensorSource};
use planish_cpu::Scalar;
use planish_engine::{EngineOptions, Handle, Request};
use planish_model::{Plan, Workspace};
use planish_tensor::{DType, FloatMath, HostTensor, Memory, Preferences};

#[test]
fn counts_add_up() {
    for options in each_loop(options(100)) {
        let handle = open("llama", &options);
        let streams: Vec<_> = (0..4).map(|i| handle.generate(request(&prompts()[i % 2])).unwrap()).collect();
        streams.into_iter().for_each(|s| drop(collect(s)));
        let _ = failure(handle.generate(Request { n: 0, ..request(&[1]) }).unwrap());
        let now = at_rest(&handle);
        let prompt_tokens: usize = prompts().iter().map(|p| 2 * p.len()).sum();
        assert_eq!((now.accepted, now.refused, now.finished()), (4, 1, 4));
        assert_eq!((now.prompt_tokens, now.generated_tokens), (prompt_tokens as u64, 96));
        assert_eq!((now.time_to_first_token.count(), now.inter_token.count()), (4, 92));
        assert_eq!((now.request_latency.count(), now.queue_time.count()), (4, 4));
        assert_eq!(now.step_tokens.count(), now.steps);
        assert_eq!(now.step_tokens.sum() as u64 + now.prefix_hits, now.prompt_tokens + 92);
        assert!(now.forward_seconds > 0.0 && now.other_seconds > 0.0);
        assert!(now.request_latency.sum() >= now.time_to_first_token.sum());
        let parts = [now.inference_time, now.prefill_time, now.decode_time];
        assert_eq!(parts.map(|time| time.count()), [4; 3]);
        let [inference, prefill, decode] = parts.map(|time| time.sum());
        assert!(prefill > 0.0 && decode > 0.0 && (inference - prefill - decode).abs() < 1e-6, "{parts:?}");
        assert!(inference <= now.request_latency.sum());
    }
}

fn model(name: &str) -> ModelFiles {
    ModelFiles::open(&data(name)).unwrap()
}

const GIB: Memory = Memory { free: 1 << 30, total: 1 << 30 };

/// What the tiny model (12,288 bytes of f32 keys and values in a page) may use.
fn decide(options: EngineOptions) -> Result<(planish_engine::EngineConfig, Vec<String>), String> {
    options.decide::<Scalar>(&plan("llama"), false, &Preferences::CPU, GIB).map_err(|e| e.to_string())
}

#[test]
fn memory_is_never_exceeded() {
    let d = EngineOptions::default;
    let (config, notes) = decide(EngineOptions { max_model_len: Some(96), max_batch: Some(4), ..d() }).unwrap();
    assert_eq!((config.pages, config.max_model_len, notes.len()), (24, 96, 0));
    let (config, notes) = decide(EngineOptions { kv_cache_memory: Some(5 * 12288 + 1), ..d() }).unwrap();
    assert_eq!((config.pages, config.max_model_len), (5, 80));
    assert!(notes[0].contains("80 tokens, not"), "{notes:?}");
    let both = EngineOptions { kv_cache_memory: Some(5 * 12288), max_model_len: Some(96), ..d() };
    let told = decide(both.clone()).unwrap_err();
    assert!(told.contains("expected at least 73728 bytes") && told.contains("found 61440"), "{told}");
    assert!(told.contains("--kv-cache-memory") && told.contains("96 tokens (--max-model-len)"), "{told}");
    let (config, _) = decide(EngineOptions { kv_dtype: Some(DType::BF16), ..both }).unwrap();
    assert_eq!((config.pages, config.max_model_len), (10, 96));
    let none = decide(EngineOptions { kv_cache_memory: Some(100), ..d() }).unwrap_err();
    assert!(none.contains("found 100"), "{none}");
    // Buffers come first: 512 tokens and 128 rows of logits in a step.
    let buffers = Workspace::<Scalar>::bytes(&plan("llama"), 512, 128) as u64;
    let poor = Memory { free: buffers + 10 * 12288, total: 1 << 30 };
    let long = EngineOptions { max_model_len: Some(96), ..d() };
    let (config, notes) = long.decide::<Scalar>(&plan("llama"), false, &Preferences::CPU, poor).unwrap();
    assert_eq!((config.pages, config.max_model_len, notes.len()), (4, 64, 1));
    let fine = EngineOptions { fine_pages: true, kv_cache_memory: Some(5 * 12288), ..d() };
    let (config, _) = decide(fine.clone()).unwrap();
    assert_eq!((config.page_size, config.pages, config.max_model_len), (1, 80, 80));
    assert_eq!(decide(EngineOptions { page_size: Some(8), ..fine }).unwrap().0.page_size, 8);
    let nothing = Memory { free: 0, total: 1 << 30 };
    assert!(
        d().decide::<Scalar>(&plan("llama"), false, &Preferences::CPU, nothing)
            .unwrap_err()
            .to_string()
            .contains("a smaller --max-batch")
    );
    let page = Memory { free: buffers + 100, total: 1 << 30 };
    let told = d().decide::<Scalar>(&plan("llama"), false, &Preferences::CPU, page).unwrap_err().to_string();
    assert!(told.contains("one page") && told.contains("found 0"), "{told}");
    let offline = EngineOptions { offline: true, ..d() };
    let roomy = Preferences { offline_step_tokens: 2048, ..Preferences::CPU };
    let step = |options: &EngineOptions, free| {
        let memory = Memory { free, total: 1 << 30 };
        options.decide::<Scalar>(&plan("llama"), false, &roomy, memory).unwrap().0.step_tokens
    };
    let [much, plenty] = [2048, 1024].map(|tokens| 8 * Workspace::<Scalar>::bytes(&plan("llama"), tokens, 128) as u64);
    assert_eq!([step(&d(), much), step(&offline, much), step(&offline, much - 1)], [512, 2048, 1024]);
    assert_eq!([step(&offline, plenty), step(&offline, plenty - 1)], [1024, 512]);
    assert_eq!(step(&EngineOptions { step_tokens: Some(64), ..offline }, much), 64);
    let much = decide(EngineOptions { kv_cache_memory: Some(1 << 30), ..d() }).unwrap_err();
    assert!(much.contains("kv_cache_memory: expected at most") && much.contains("found 1073741824"), "{much}");
    let broad = decide(EngineOptions { max_batch: Some(60_000), step_rows: Some(1 << 29), ..d() }).unwrap_err();
    assert!(broad.contains("60000 tokens and 536870912 rows") && broad.contains("--max-batch"), "{broad}");
}

#[test]
fn longer_sequences_than_the_model_was_made_for() {
    let long = |name: &str, tokens: usize| {
        let options = EngineOptions { max_model_len: Some(tokens), ..EngineOptions::default() };
        options.decide::<Scalar>(&plan(name), false, &Preferences::CPU, GIB).map_err(|e| e.to_string())
    };
    let made_for = plan("llama").max_positions;
    assert!(long("llama", made_for).unwrap().1.is_empty());
    let (config, notes) = long("llama", made_for + 1).unwrap();
    assert!(
        config.max_model_len == made_for + 1 && notes[0].contains(&format!("made for sequences of {made_for} tokens"))
    );
    // Learned positions end where their table does.
    let learned = plan("opt_f32").max_positions;
    let told = format!("max_model_len: expected at most {learned}");
    assert!(long("opt_f32", learned).is_ok());
    assert!(long("opt_f32", learned + 1).unwrap_err().contains(&told));
    let options = EngineOptions { max_model_len: Some(learned + 1), ..EngineOptions::default() };
    let opened = planish_engine::Handle::start(Scalar, plan("opt_f32"), &model("opt_f32"), &options);
    assert!(opened.err().unwrap().to_string().contains(&told));
}

/// What is asked for may be more than any machine has: an error, never an allocation of that size.
#[test]
fn nothing_is_allocated_for_absurd_numbers() {
    let d = EngineOptions::default;
    for (options, told) in [
        (
            EngineOptions { max_model_len: Some(usize::MAX), ..d() },
            "max_model_len: expected a number from 1 to 16777216",
        ),
        (EngineOptions { max_batch: Some(usize::MAX), ..d() }, "max_batch: expected a number from 1 to 65536"),
        (EngineOptions { kv_cache_memory: Some(u64::MAX), ..d() }, "kv_cache_memory: expected at most"),
    ] {
        let opened = planish_engine::Handle::start(Scalar, plan("llama"), &model("llama"), &options);
        let found = opened.err().unwrap().to_string();
        assert!(found.contains(told), "{found}");
    }
}

#[test]
fn nonsense_is_refused_by_name() {
    let d = EngineOptions::default;
    assert!(decide(EngineOptions { max_batch: Some(0), ..d() }).unwrap_err().contains("max_batch"));
    assert!(decide(EngineOptions { page_size: Some(0), ..d() }).unwrap_err().contains("page_size"));
    assert!(
        decide(EngineOptions { speculate: Some(33), ..d() }).unwrap_err().contains("speculate: expected at most 32")
    );
}

#[test]
fn eight_bit_models_take_the_faster_numbers() {
    let numbers = |name, options: EngineOptions| {
        let handle = open(name, &EngineOptions { max_model_len: Some(32), ..options });
        (handle.info().config.kv_dtype, handle.info().config.math)
    };
    let d = EngineOptions::default;
    assert_eq!(numbers("llama", d()), (DType::F32, FloatMath::F32));
    assert_eq!(numbers("w8a8_rtn", d()), (DType::BF16, FloatMath::Bf16));
    assert_eq!(numbers("fp8_dynamic", d()), (DType::BF16, FloatMath::Bf16));
    let asked = EngineOptions { kv_dtype: Some(DType::F32), math: Some(FloatMath::F32), ..d() };
    assert_eq!(numbers("w8a8_rtn", asked), (DType::F32, FloatMath::F32));
}

/// A checkpoint whose first block has queries, keys and values in float.
struct PartlyFloat(ModelFiles);

/// Names of the modules that are in float there.
fn kept() -> Vec<String> {
    ["q", "k", "v"].map(|linear| format!("model.layers.0.self_attn.{linear}_proj")).to_vec()
}

impl TensorSource for PartlyFloat {
    fn names(&self) -> Vec<String> {
        self.0.names()
    }
    fn contains(&self, name: &str) -> bool {
        self.0.contains(name)
    }
    fn tensor(&self, name: &str) -> planish_checkpoint::Result<HostTensor> {
        let tensor = self.0.tensor(name)?;
        match name.strip_suffix(".weight").filter(|module| kept().iter().any(|kept| kept == module)) {
            Some(_) => Ok(HostTensor::from_f32(tensor.shape().to_vec(), &vec![0.01; tensor.len()]).unwrap()),
            None => Ok(tensor),
        }
    }
    fn release(&self, name: &str) {
        self.0.release(name);
    }
}

/// What stays in float for accuracy's sake, wherever it stands, does not make the others' numbers finer.
#[test]
fn models_that_are_8_bit_in_parts_take_the_faster_numbers() {
    let numbers = |name: &str, plan: Plan| {
        let options = EngineOptions { max_model_len: Some(32), ..EngineOptions::default() };
        let handle = Handle::start(Scalar, plan, &PartlyFloat(model(name)), &options).unwrap();
        (handle.info().config.kv_dtype, handle.info().config.math)
    };
    let ignored = Scheme::w8a8(QuantFormat::CompressedTensors, QuantType::Int8, kept()).unwrap();
    let faster = (DType::BF16, FloatMath::Bf16);
    assert_eq!(numbers("w8a8_rtn", plan("w8a8_rtn").stored_by(ignored)), faster);
    // LMDeploy's scheme, and none at all, do not say which.
    assert_eq!(numbers("lmdeploy_int8", plan("lmdeploy_int8")), faster);
    let mut bare = plan("w8a8_rtn");
    bare.scheme = None;
    assert_eq!(numbers("w8a8_rtn", bare), faster);
    assert_eq!(numbers("llama", plan("llama")), (DType::F32, FloatMath::F32));
}
