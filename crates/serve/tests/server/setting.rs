//! A server over a tiny model whose tokens are the bytes.
use crate::client::{self, Answer};
use planish_checkpoint::{config::Config, generation::GenerationDefaults, shards::ModelFiles};
use planish_cpu::Scalar;
use planish_engine::device::{Machine, Produced, Want};
use planish_engine::{EngineOptions, Handle, Result, service};
use planish_model::Plan;
use planish_serve::{Address, Options, Served, Service};
use planish_tensor::Batch;
use planish_text::{ChatTemplate, Tokenizer};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};

pub const NAME: &str = "tiny";
/// Longest sequence of the model.
pub const CONTEXT: usize = 768;
/// Pages of 16 tokens.
pub const PAGES: usize = 96;

/// A running server.
pub struct Server {
    pub service: Service,
    pub address: String,
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(name)
}

pub fn tokenizer() -> Tokenizer {
    Tokenizer::from_json(&std::fs::read(data("cli/tests/data/tokenizer/tokenizer.json")).unwrap()).unwrap()
}

pub fn engine_options() -> EngineOptions {
    EngineOptions { kv_pages: Some(PAGES), max_model_len: Some(CONTEXT), ..EngineOptions::default() }
}

/// A model in service under a name.
pub fn served(name: &str, handle: Handle) -> Served {
    let config = std::fs::read(data("cli/tests/data/tokenizer/tokenizer_config.json")).unwrap();
    let config: Value = serde_json::from_slice(&config).unwrap();
    let template = ChatTemplate::new(config["chat_template"].as_str().unwrap(), [("eos_token", "x")]).unwrap();
    Served {
        name: name.into(),
        handle,
        tokenizer: tokenizer(),
        chat: Some(template),
        template: config["chat_template"].as_str().unwrap().into(),
        family: "llama".into(),
        tool_format: None,
        tokenizer_config: config,
        eos: vec![2],
        defaults: GenerationDefaults::default(),
    }
}

pub fn engine() -> Handle {
    let dir = data("model/tests/data/llama_f32");
    let plan = Plan::new(&Config::open(&dir).unwrap()).unwrap();
    Handle::start(Scalar, plan, &ModelFiles::open(&dir).unwrap(), &engine_options()).unwrap()
}

/// A machine that waits for a word before each step.
struct Gated {
    inner: Box<dyn Machine>,
    gate: Receiver<()>,
}

impl Machine for Gated {
    fn run(&mut self, batch: &Batch, want: &Want, out: &mut Produced) -> Result<()> {
        // A gate that is gone stands open.
        let _ = self.gate.recv();
        self.inner.run(batch, want, out)
    }

    fn clear(&mut self, pages: &[u32]) -> Result<()> {
        self.inner.clear(pages)
    }
}

/// An engine that makes a step for each word, and runs freely once the sender is dropped.
pub fn gated_engine() -> (Handle, Sender<()>) {
    gated_engine_with(&engine_options())
}

/// The same with settings of its own.
pub fn gated_engine_with(options: &EngineOptions) -> (Handle, Sender<()>) {
    let dir = data("model/tests/data/llama_f32");
    let plan = Plan::new(&Config::open(&dir).unwrap()).unwrap();
    let (inner, info) = service::load(Scalar, plan, &ModelFiles::open(&dir).unwrap(), options).unwrap();
    let (open, gate) = channel();
    (Handle::over(Box::new(Gated { inner, gate }), info).unwrap(), open)
}

/// On a free port, with these models.
pub fn start(options: Options, models: Vec<Served>) -> Server {
    let service = Service::start(options, &Address::Tcp("127.0.0.1".into(), 0), None, false).unwrap();
    service.install(models);
    let address = service.address().to_owned();
    Server { service, address }
}

/// The usual server.
pub fn server() -> Server {
    start(Options::default(), vec![served(NAME, engine())])
}

/// A server whose engine waits for words.
pub fn gated(options: Options) -> (Server, Sender<()>) {
    let (handle, gate) = gated_engine();
    (start(options, vec![served(NAME, handle)]), gate)
}

impl Server {
    pub fn post(&self, path: &str, body: &Value) -> Answer {
        client::send(&self.address, "POST", path, &[], body.to_string().as_bytes())
    }

    pub fn get(&self, path: &str) -> Answer {
        client::send(&self.address, "GET", path, &[], b"")
    }

    pub fn chat(&self, body: Value) -> Answer {
        self.post("/v1/chat/completions", &with(json!({"messages": hello(), "max_tokens": 8, "temperature": 0}), body))
    }

    pub fn complete(&self, body: Value) -> Answer {
        self.post("/v1/completions", &with(json!({"prompt": "Hello", "max_tokens": 8, "temperature": 0}), body))
    }

    /// A metric without labels, or the first of its name.
    pub fn metric(&self, name: &str) -> f64 {
        let page = self.get("/metrics");
        assert_eq!(page.status, 200);
        let line =
            page.text().lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
        line.unwrap_or_else(|| panic!("no {name}")).rsplit(' ').next().unwrap().parse().unwrap()
    }

    /// Waits until nothing runs and every page is back.
    pub fn at_rest(&self) {
        until("the server comes to rest with all its pages", || {
            let pages = ["free", "cached"].map(|kind| self.metric(&format!("planish_pages_{kind}")));
            let busy = ["requests_running", "requests_waiting", "http_requests_inside"];
            busy.iter().all(|name| self.metric(&format!("planish_{name}")) == 0.0)
                && pages.iter().sum::<f64>() == PAGES as f64
        });
    }
}

pub fn hello() -> Value {
    json!([{"role": "user", "content": "Hello"}])
}

/// The first object with the fields of the second.
pub fn with(mut body: Value, more: Value) -> Value {
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

/// Waits until something holds; minutes, for machines that have much else to do.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(600), "{what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
