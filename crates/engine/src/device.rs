//! The device's side of a step: runs one batch and brings back what the callers need of its logits, nothing more.
use crate::answer::answer;
use crate::config::EngineConfig;
use crate::error::{Error, Result};
use crate::recordings::Recordings;
use crate::request::TokenLogprobs;
use crate::sampler::NoChoice;
use planish_model::{Decoder, KvPool, Workspace};
use planish_tensor::{Backend, Batch, Courtesy, Judged, SampleRow, Target};

/// What of a step's logits must come to the host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Want {
    /// One for each row.
    pub rows: Vec<Wish>,
    /// Tokens whose likelihood is wanted, by row.
    pub judged: Vec<Target>,
}

/// What is wanted of one row.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Wish {
    /// Nothing, but for what is judged there.
    #[default]
    Nothing,
    /// The likeliest token.
    Likeliest,
    /// A token chosen by these rules; if asked for, log-probabilities of it and of so many of the likeliest.
    Token(Box<SampleRow>, Option<usize>),
    /// Log-probabilities of this token and of so many of the likeliest.
    Logprobs(u32, usize),
    /// The logits.
    Logits,
    /// The log-probabilities of all tokens.
    LogProbs,
}

/// What came. Kept between steps, so that little is allocated.
#[derive(Clone, Debug, Default)]
pub struct Produced {
    /// One for each row.
    pub rows: Vec<Found>,
    /// `[.., v]`: the rows whose logits were wanted.
    pub logits: Vec<f32>,
    /// `[.., v]` natural-log probabilities: the rows that were wanted so.
    pub log_probs: Vec<f32>,
    /// One for each wanted.
    pub judged: Vec<Judged>,
}

/// What came of one row, by its [`Wish`].
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Found {
    /// Nothing was wanted.
    #[default]
    Nothing,
    /// The likeliest token, or the one chosen.
    Token(std::result::Result<u32, NoChoice>, Option<TokenLogprobs>),
    /// Log-probabilities.
    Logprobs(TokenLogprobs),
    /// The row's place in [`Produced::logits`].
    Logits(usize),
    /// The row's place in [`Produced::log_probs`].
    LogProbs(usize),
}

impl Wish {
    /// Whether it is one for a token or its log-probabilities.
    pub(crate) fn is_of_tokens(&self) -> bool {
        matches!(self, Wish::Likeliest | Wish::Token(..) | Wish::Logprobs(..))
    }
}

/// A loaded model that runs batches. What the engine knows of a device; tests put a failing one in its place.
pub trait Machine: Send {
    /// Runs one batch and fills `out` with what was wanted of its logit rows.
    fn run(&mut self, batch: &Batch, want: &Want, out: &mut Produced) -> Result<()>;
    /// Overwrites pages of the KV cache with zeros.
    fn clear(&mut self, pages: &[u32]) -> Result<()>;
    /// How its threads are asked to let callers run, if they share processors with them.
    fn courtesy(&self) -> Option<Courtesy> {
        None
    }
}

/// A back end with a model, its KV cache and its buffers.
pub struct Device<B: Backend> {
    backend: B,
    decoder: Decoder<B>,
    kv: KvPool<B>,
    ws: Workspace<B>,
    recordings: Recordings,
}

impl<B: Backend> Device<B> {
    /// Allocates cache and buffers for a loaded model.
    pub fn new(backend: B, decoder: Decoder<B>, config: &EngineConfig) -> Result<Device<B>> {
        let plan = &decoder.plan;
        let mut kv = KvPool::new(&backend, plan, plan.layers, config.pages, config.page_size, config.kv_dtype)
            .map_err(|e| Error::of_buffers(&e))?;
        decoder.fix_kv_scales(&mut kv);
        let ws =
            Workspace::new(&backend, plan, config.step_tokens, config.step_rows).map_err(|e| Error::of_buffers(&e))?;
        Ok(Device { backend, decoder, kv, ws, recordings: Recordings::default() })
    }

    /// Queues the step, from a recording if the back end keeps one of its like.
    fn forward(&mut self, batch: &Batch) -> Result<()> {
        let Device { backend, decoder, kv, ws, recordings } = self;
        let on_device = backend.upload_batch(batch, kv.pages)?;
        ws.prepare(batch.t(), batch.logit_rows.len());
        let key = backend.recording_key(&on_device).filter(|_| decoder.queues_only(backend));
        let Some(key) = key else {
            return Ok(decoder.queue(backend, &on_device, kv, ws)?);
        };
        let mut queue = || {
            let done = decoder.queue(backend, &on_device, kv, ws);
            done.map_err(|e| match e {
                planish_model::Error::Tensor(e) => e,
                other => planish_tensor::Error::Device(other.to_string()),
            })
        };
        recordings.run(key, || backend.record(&mut queue))?;
        Ok(())
    }

    /// Brings the rows with this wish, and says for each where it lies in `values`.
    fn bring(
        &self,
        want: &Want,
        wish: &Wish,
        place: fn(usize) -> Found,
        values: &mut Vec<f32>,
        found: &mut [Found],
    ) -> Result<()> {
        let rows = want.rows.iter().enumerate().filter(|(_, other)| *other == wish);
        let rows: Vec<u32> = rows.map(|(row, _)| row as u32).collect();
        values.resize(rows.len() * self.ws.logits.cols, 0.0);
        rows.iter().enumerate().for_each(|(at, &row)| found[row as usize] = place(at));
        if !rows.is_empty() {
            self.backend.download_rows(&self.ws.logits, &rows, bytemuck::cast_slice_mut(values))?;
        }
        Ok(())
    }
}

impl<B: Backend> Machine for Device<B> {
    fn run(&mut self, batch: &Batch, want: &Want, out: &mut Produced) -> Result<()> {
        self.forward(batch)?;
        let Produced { rows, logits, log_probs, judged } = out;
        rows.clear();
        rows.resize(want.rows.len(), Found::Nothing);
        judged.clear();
        // First, as rows that threads of the host choose at do not survive it.
        self.bring(want, &Wish::Logits, Found::Logits, logits, rows)?;
        answer(&self.backend, &mut self.ws.logits, &want.rows, rows)?;
        if want.rows.contains(&Wish::LogProbs) {
            self.backend.log_softmax(&mut self.ws.logits)?;
        }
        self.bring(want, &Wish::LogProbs, Found::LogProbs, log_probs, rows)?;
        // Last, as the logits may not survive it. Log-probabilities in their place are of the same distribution.
        if !want.judged.is_empty() {
            *judged = self.backend.judge(&mut self.ws.logits, &want.judged)?;
        }
        if want.judged.is_empty() && want.rows.iter().all(|wish| *wish == Wish::Nothing) {
            self.backend.sync()?;
        }
        Ok(())
    }

    fn courtesy(&self) -> Option<Courtesy> {
        self.backend.courtesy()
    }

    fn clear(&mut self, pages: &[u32]) -> Result<()> {
        for layer in &mut self.kv.layers {
            self.backend.clear_pages(layer, pages)?;
        }
        Ok(())
    }
}
