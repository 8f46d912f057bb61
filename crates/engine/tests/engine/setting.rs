//! Models, prompts, and a machine that does what a test tells it to do.
use planish_checkpoint::{config::Config, shards::ModelFiles, source::TensorSource};
use planish_cpu::Scalar;
use planish_engine::device::{Machine, Produced, Want};
use planish_engine::{EngineOptions, Event, FinishReason, Handle, Request, Result, Snapshot, Stream, service};
use planish_model::Plan;
use planish_tensor::Batch;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::sync::mpsc::{Sender, channel};
use std::time::{Duration, Instant};

pub fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/data").join(name)
}

pub fn plan(name: &str) -> Plan {
    Plan::new(&Config::open(&data(name)).unwrap()).unwrap()
}

pub fn open(name: &str, options: &EngineOptions) -> Handle {
    Handle::start(Scalar, plan(name), &ModelFiles::open(&data(name)).unwrap(), options).unwrap()
}

/// The same in each loop: one step after the other, the next prepared meanwhile, the next begun before it is known who goes on.
pub fn each_loop(options: EngineOptions) -> [EngineOptions; 3] {
    [(false, false), (true, false), (true, true)].map(|(overlap, run_ahead)| EngineOptions {
        overlap: Some(overlap),
        run_ahead: Some(run_ahead),
        ..options.clone()
    })
}

/// As many pages of 16 tokens, and sequences of up to 96.
pub fn options(kv_pages: usize) -> EngineOptions {
    EngineOptions { kv_pages: Some(kv_pages), max_model_len: Some(96), ..EngineOptions::default() }
}

pub fn prompts() -> Vec<Vec<u32>> {
    let json: serde_json::Value = serde_json::from_slice(&std::fs::read(data("prompts.json")).unwrap()).unwrap();
    serde_json::from_value(json["prompts"].clone()).unwrap()
}

/// What transformers gave for a prompt.
pub fn golden(model: &str, name: &str) -> Vec<f32> {
    ModelFiles::open(&data(model).join("expected")).unwrap().tensor(name).unwrap().to_f32()
}

pub fn greedy(model: &str, prompt: usize) -> Vec<u32> {
    golden(model, &format!("greedy_{prompt}")).iter().map(|&x| x as u32).collect()
}

pub fn request(prompt: &[u32]) -> Request {
    Request { prompt: prompt.to_vec(), max_new_tokens: 24, ..Request::default() }
}

/// Tokens and end of each choice.
pub fn collect_all(stream: Stream, n: usize) -> Vec<(Vec<u32>, Option<FinishReason>)> {
    let mut choices = vec![(Vec::new(), None); n];
    for event in stream {
        match event {
            Event::Token { choice, id, .. } => choices[choice].0.push(id),
            Event::Done { choice, reason } => choices[choice].1 = Some(reason),
            Event::Prompt(_) => {}
            Event::Failed(e) => panic!("{e}"),
        }
    }
    choices
}

pub fn collect(stream: Stream) -> (Vec<u32>, Option<FinishReason>) {
    collect_all(stream, 1).remove(0)
}

pub fn tokens(handle: &Handle, request: Request) -> Vec<u32> {
    collect(handle.generate(request).unwrap()).0
}

/// The error that a request ends with.
pub fn failure(stream: Stream) -> String {
    match stream.last() {
        Some(Event::Failed(e)) => e.to_string(),
        other => panic!("{other:?}"),
    }
}

/// Waits until something holds.
pub fn until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = Instant::now();
    while !holds() {
        assert!(start.elapsed() < Duration::from_secs(60), "{what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Waits until nothing runs and every page is back; then every request is accounted for.
pub fn at_rest(handle: &Handle) -> Snapshot {
    until("the engine comes to rest with all its pages", || {
        // Answered between two steps: the numbers after it are of that moment or later.
        handle.check_integrity().unwrap();
        let now = handle.metrics();
        now.running + now.queued == 0 && now.pages_free + now.pages_cached == now.pages_total
    });
    let now = handle.metrics();
    assert!(now.is_conserved(), "{now:?}");
    now
}

/// An engine whose steps each wait for a word; after the sender is dropped they run freely.
pub fn gated(name: &str, options: &EngineOptions) -> (Handle, Sender<()>) {
    let (open, gate) = channel();
    let handle = staged(name, options, move |_| {
        let _ = gate.recv();
        Ok(())
    });
    (handle, open)
}

/// What a test says before a step.
type Before = Box<dyn FnMut(&Batch) -> Result<()> + Send>;

/// A machine that asks a test before each step.
pub struct Staged {
    inner: Box<dyn Machine>,
    before: Before,
    /// Pages that it was asked to clear.
    pub cleared: Arc<AtomicUsize>,
}

impl Machine for Staged {
    fn run(&mut self, batch: &Batch, want: &Want, out: &mut Produced) -> Result<()> {
        (self.before)(batch)?;
        self.inner.run(batch, want, out)
    }

    fn begin(&mut self, batch: &mut Batch, want: &Want) -> Result<()> {
        (self.before)(batch)?;
        self.inner.begin(batch, want)
    }

    fn finish(&mut self, out: &mut Produced) -> Result<()> {
        self.inner.finish(out)
    }

    fn clear(&mut self, pages: &[u32]) -> Result<()> {
        self.cleared.fetch_add(pages.len(), SeqCst);
        self.inner.clear(pages)
    }
}

/// An engine over a machine that asks `before` each step.
pub fn staged(
    name: &str,
    options: &EngineOptions,
    before: impl FnMut(&Batch) -> Result<()> + Send + 'static,
) -> Handle {
    staged_over(&ModelFiles::open(&data(name)).unwrap(), name, options, before).0
}

/// The same with tensors from elsewhere; also counts the pages that are cleared.
pub fn staged_over(
    source: &dyn TensorSource,
    name: &str,
    options: &EngineOptions,
    before: impl FnMut(&Batch) -> Result<()> + Send + 'static,
) -> (Handle, Arc<AtomicUsize>) {
    let (inner, info) = service::load(Scalar, plan(name), source, options).unwrap();
    let cleared = Arc::default();
    let machine = Staged { inner, before: Box::new(before), cleared: Arc::clone(&cleared) };
    (Handle::over(Box::new(machine), info).unwrap(), cleared)
}
