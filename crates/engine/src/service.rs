//! The thread that owns a device and its model, and the handle through which everything reaches it.
use crate::config::{EngineConfig, EngineOptions};
use crate::device::{Device, Machine};
use crate::error::{Error, Result};
use crate::mailbox::{Cancel, mailbox};
use crate::metrics::Snapshot;
use crate::outlet::{EVENT_BYTES, Outlet};
use crate::plain::attend;
use crate::request::{Command, Likelihoods, Request, Scores, Sink, Stream};
use crate::runner::Runner;
use crate::{overlap, plain};
use planish_checkpoint::source::TensorSource;
use planish_model::weights::has_codes;
use planish_model::{Decoder, LoadOptions, Plan};
use planish_tensor::{Backend, Courtesy};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, OnceLock};
use std::thread::JoinHandle;

/// Chunks of scores that may wait for a slow reader.
const SCORE_QUEUE: usize = 2;

/// A running model. The back end's type ends here: everything above speaks to a handle, from any thread. Dropping it
/// ends the requests in flight with an error and waits for the step that runs.
pub struct Handle {
    commands: Sender<Command>,
    thread: Mutex<Option<JoinHandle<()>>>,
    info: Info,
    next_id: AtomicU64,
    metrics: Arc<Mutex<Snapshot>>,
    broken: Arc<OnceLock<Error>>,
    courtesy: Courtesy,
}

/// What a handle runs.
#[derive(Clone, Debug)]
pub struct Info {
    /// Sizes of the model.
    pub plan: Plan,
    /// Decided settings.
    pub config: EngineConfig,
    /// The device and its kernels, in one line.
    pub device: String,
    /// Bytes of weights that one decode step reads.
    pub step_bytes: usize,
    /// What came out smaller than one might expect, in words for people.
    pub notes: Vec<String>,
}

impl Handle {
    /// Loads a model on a back end and starts its thread.
    pub fn start<B: Backend>(
        backend: B,
        plan: Plan,
        source: &dyn TensorSource,
        options: &EngineOptions,
    ) -> Result<Handle> {
        let (machine, info) = load(backend, plan, source, options)?;
        Handle::over(machine, info)
    }

    /// Starts the thread over a machine that has a model already.
    pub fn over(machine: Box<dyn Machine>, info: Info) -> Result<Handle> {
        let broken = Arc::new(OnceLock::new());
        let courtesy = machine.courtesy().unwrap_or_default();
        let runner = Runner::new(info.config, info.plan.vocab, broken.clone(), courtesy.clone());
        let metrics = runner.metrics.shared();
        let (commands, receiver) = channel();
        let overlap = info.config.overlap;
        let thread = std::thread::Builder::new()
            .name("planish-engine".into())
            .spawn(move || serve(runner, machine, &receiver, overlap))
            .map_err(|e| Error::Device(format!("cannot start a thread: {e}")))?;
        let thread = Mutex::new(Some(thread));
        Ok(Handle { commands, thread, info, next_id: AtomicU64::new(0), metrics, broken, courtesy })
    }

    /// What this handle runs.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Starts a request. Errors arrive as events. A caller that stops reading stops its own request only.
    pub fn generate(&self, request: Request) -> Result<Stream> {
        let cancel = self.cancel();
        let id = cancel.id;
        let (writer, stream) = mailbox(EVENT_BYTES, cancel);
        self.send(Command::Generate { id, request: Box::new(request), outlet: Outlet::stream(writer) })?;
        Ok(stream)
    }

    /// Starts a request whose events go into a closure, on the engine's thread: it must not wait for anything, and
    /// says with false that its caller is gone. Dropping what comes back cancels the request.
    pub fn generate_with(&self, request: Request, sink: Sink) -> Result<Cancel> {
        let cancel = self.cancel();
        let id = cancel.id;
        self.send(Command::Generate { id, request: Box::new(request), outlet: Outlet::sink(sink) })?;
        Ok(cancel)
    }

    /// Asked for whenever sinks have been told something, where the device computes on processors that their threads need:
    /// who has picked everything up should thank, so that nobody gives way in vain.
    pub fn courtesy(&self) -> &Courtesy {
        &self.courtesy
    }

    /// Log-probabilities at every position of a text, in chunks, first to last. A few chunks are computed while one is
    /// read; nothing more is kept.
    pub fn score(&self, tokens: Vec<u32>) -> Result<Scores> {
        self.score_from(tokens, 0)
    }

    /// As [`Handle::score`], but only of the positions from `first` on: what comes before may come from the prefix
    /// cache.
    pub fn score_from(&self, tokens: Vec<u32>, first: usize) -> Result<Scores> {
        let cancel = self.cancel();
        let id = cancel.id;
        let (chunks, scores) = mailbox(SCORE_QUEUE, cancel);
        self.send(Command::Score { id, tokens, first, chunks })?;
        Ok(scores)
    }

    /// How likely each of several continuations of one text is. The context is computed once for all of them, as far as
    /// whole pages go, and those that differ in their last token only are computed once altogether. All are told together.
    pub fn judge(&self, context: Vec<u32>, continuations: Vec<Vec<u32>>) -> Result<Likelihoods> {
        let cancel = self.cancel();
        let id = cancel.id;
        // A few numbers for each continuation: nobody need wait for a slow reader.
        let (likelihoods, reader) = mailbox(usize::MAX, cancel);
        self.send(Command::Judge { id, context, continuations, likelihoods })?;
        Ok(reader)
    }

    /// The numbers after the last step. Does not disturb the engine.
    pub fn metrics(&self) -> Snapshot {
        *self.metrics.lock().unwrap_or_else(|e| e.into_inner())
    }

    /// Whether every page is where it should be: between two steps, on the engine's thread. Afterwards
    /// [`Handle::metrics`] is of that moment or later.
    pub fn check_integrity(&self) -> Result<()> {
        let (answer, verdict) = channel();
        self.send(Command::Check(answer))?;
        verdict.recv().map_err(|_| Error::Stopped)?
    }

    /// Why the engine takes no more work, if it has failed.
    pub fn health(&self) -> Result<()> {
        self.broken.get().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Takes no more requests. With `drain` those in flight come to their end, otherwise they end with
    /// [`Error::Stopped`] now; that may also be said while draining. Does not wait: see [`Handle::wait`].
    pub fn shutdown(&self, drain: bool) {
        // An engine that is gone has stopped.
        let _ = self.commands.send(Command::Stop { drain });
    }

    /// Waits until the engine has stopped, after [`Handle::shutdown`].
    pub fn wait(&self) {
        let mut thread = self.thread.lock().unwrap_or_else(|e| e.into_inner());
        if let Some(thread) = thread.take() {
            // It catches its panics, and has told everyone about them.
            let _ = thread.join();
        }
    }

    fn cancel(&self) -> Cancel {
        Cancel { commands: self.commands.clone(), id: self.next_id.fetch_add(1, Ordering::Relaxed) }
    }

    fn send(&self, command: Command) -> Result<()> {
        self.commands.send(command).map_err(|_| Error::Stopped)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shutdown(false);
        self.wait();
    }
}

/// Loads a model on a back end, with its cache and buffers.
pub fn load<B: Backend>(
    backend: B,
    plan: Plan,
    source: &dyn TensorSource,
    options: &EngineOptions,
) -> Result<(Box<dyn Machine>, Info)> {
    let eight_bit = has_codes(&plan, source).map_err(|e| Error::of_loading(&e))?;
    options.validate()?;
    let (_, math) = options.numbers(eight_bit);
    let positions = options.positions::<B>(&plan, eight_bit, backend.memory())?;
    let how = LoadOptions { math, positions, int8_head: options.int8_head };
    let mut decoder = Decoder::load(&backend, plan.clone(), source, &how).map_err(|e| Error::of_loading(&e))?;
    // What is free now, beside the weights, is what keys and values may have a share of.
    let (config, notes) = options.decide::<B>(&plan, eight_bit, &backend.preferences(), backend.memory())?;
    if config.max_model_len != positions {
        // The longest sequence decides how some models rotate: it is the one that there is memory for.
        decoder.set_positions(&backend, config.max_model_len).map_err(|e| Error::of_buffers(&e))?;
    }
    let info = Info { plan, config, device: backend.describe(), step_bytes: decoder.step_bytes(), notes };
    Ok((Box::new(Device::new(backend, decoder, &config)?), info))
}

/// Runs until told to stop. After a failure everyone who asks is told of it, until then.
fn serve(mut runner: Runner, mut machine: Box<dyn Machine>, commands: &Receiver<Command>, overlap: bool) {
    let run = AssertUnwindSafe(|| match overlap {
        true => overlap::serve(&mut runner, &mut *machine, commands),
        false => plain::serve(&mut runner, &mut *machine, commands),
    });
    if let Err(panic) = catch_unwind(run) {
        runner.break_down(Error::of_panic(&*panic));
    }
    while attend(&mut runner, commands, false) {}
    runner.fail_all(&Error::Stopped);
}
