//! The thread that owns a device and its model, and the handle through which everything reaches it.
use crate::config::{EngineConfig, EngineOptions};
use crate::error::{Error, Result};
use crate::request::{Command, Request, ScoreChunk, Stream};
use crate::runner::Runner;
use planish_checkpoint::source::TensorSource;
use planish_model::{Decoder, LoadOptions, Plan};
use planish_tensor::Backend;
use std::sync::mpsc::{Receiver, Sender, channel, sync_channel};
use std::thread::JoinHandle;

/// Chunks of scores that may wait for a slow reader.
const SCORE_QUEUE: usize = 2;

/// A running model. The back end's type ends here: everything above speaks to a handle.
/// Dropping it stops the thread after the requests in flight.
pub struct Handle {
    commands: Option<Sender<Command>>,
    thread: Option<JoinHandle<()>>,
    info: Info,
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
}

impl Handle {
    /// Loads a model on a back end and starts its thread.
    pub fn start<B: Backend>(
        backend: B,
        plan: Plan,
        source: &dyn TensorSource,
        options: &EngineOptions,
    ) -> Result<Handle> {
        let config = options.decide(&plan, backend.memory());
        let load = LoadOptions { math: config.math, positions: config.max_model_len, int8_head: options.int8_head };
        let decoder = Decoder::load(&backend, plan.clone(), source, &load).map_err(|e| Error::Load(e.to_string()))?;
        let info = Info { plan, config, device: backend.describe(), step_bytes: decoder.step_bytes() };
        let runner = Runner::new(backend, decoder, config)?;
        let (commands, receiver) = channel();
        let thread = std::thread::Builder::new()
            .name("planish-engine".into())
            .spawn(move || serve(runner, receiver))
            .map_err(|e| Error::Device(format!("cannot start a thread: {e}")))?;
        Ok(Handle { commands: Some(commands), thread: Some(thread), info })
    }

    /// What this handle runs.
    pub fn info(&self) -> &Info {
        &self.info
    }

    /// Starts a request. Errors arrive as events.
    pub fn generate(&self, request: Request) -> Result<Stream> {
        let (sender, events) = channel();
        self.send(Command::Generate(request, sender))?;
        Ok(Stream { events })
    }

    /// Log-probabilities at every position of a text, in chunks, first to last. A chunk is computed while the one
    /// before is read; nothing more is kept.
    pub fn score(&self, tokens: Vec<u32>) -> Result<Receiver<Result<ScoreChunk>>> {
        let (sender, receiver) = sync_channel(SCORE_QUEUE);
        self.send(Command::Score(tokens, sender))?;
        Ok(receiver)
    }

    fn send(&self, command: Command) -> Result<()> {
        self.commands.as_ref().ok_or(Error::Stopped)?.send(command).map_err(|_| Error::Stopped)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // Closing the channel is the request to stop.
        self.commands.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs until every handle is gone and the requests in flight are done.
fn serve<B: Backend>(mut runner: Runner<B>, commands: Receiver<Command>) {
    loop {
        if runner.is_idle() {
            match commands.recv() {
                Ok(command) => accept(&mut runner, command),
                Err(_) => return,
            }
        }
        while let Ok(command) = commands.try_recv() {
            accept(&mut runner, command);
        }
        if !runner.is_idle()
            && let Err(error) = runner.step()
        {
            runner.fail_all(&error);
        }
    }
}

fn accept<B: Backend>(runner: &mut Runner<B>, command: Command) {
    match command {
        Command::Generate(request, events) => runner.generate(request, events),
        Command::Score(tokens, chunks) => runner.score(tokens, chunks),
    }
}
