//! The device's side of a step: runs one batch and brings back what the callers need of its logits, nothing more.
use crate::config::EngineConfig;
use crate::error::{Error, Result};
use crate::recordings::Recordings;
use crate::sampler::{self, NoChoice};
use planish_model::{Decoder, KvPool, Workspace};
use planish_tensor::{Backend, Batch, Courtesy, Judged, SampleRow, Target};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

/// What of a step's logits must come to the host.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Want {
    /// The likeliest token of each row.
    pub argmax: bool,
    /// The logits.
    pub logits: bool,
    /// The log-probabilities.
    pub log_probs: bool,
    /// How the device is to choose at each row. If it does not, the logits must come. Empty: the host chooses.
    pub sampled: Vec<SampleRow>,
    /// Tokens whose likelihood is wanted, by row.
    pub judged: Vec<Target>,
}

/// What came: each list is empty unless it was wanted. Kept between steps, so that nothing is allocated.
#[derive(Clone, Debug, Default)]
pub struct Produced {
    /// `[rows]`; `u32::MAX` for a row with NaN.
    pub likeliest: Vec<u32>,
    /// `[rows]`; what the device chose, or a number of [`SampleRow`].
    pub chosen: Vec<u32>,
    /// `[rows, v]`.
    pub logits: Vec<f32>,
    /// `[rows, v]` natural-log probabilities.
    pub log_probs: Vec<f32>,
    /// One for each wanted.
    pub judged: Vec<Judged>,
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

    /// The tokens of all rows, or a number of [`SampleRow`] in the place of one: from the back end, or by its threads. `None`
    /// if neither is to be had.
    fn sample(&mut self, rows: &[SampleRow]) -> Result<Option<Vec<u32>>> {
        if let Some(chosen) = self.backend.sample(&mut self.ws.logits, rows)? {
            return Ok(Some(chosen));
        }
        let chosen: Vec<AtomicU32> = rows.iter().map(|_| AtomicU32::new(SampleRow::NOT_A_NUMBER)).collect();
        let called = self.backend.each_row(&mut self.ws.logits, &|r, logits| {
            let token = match sampler::choose_as(logits, &rows[r]) {
                Ok(token) => token,
                Err(NoChoice::NotANumber) => SampleRow::NOT_A_NUMBER,
                Err(NoChoice::NothingAllowed) => SampleRow::NOTHING_ALLOWED,
            };
            chosen[r].store(token, Relaxed);
        })?;
        Ok(called.then(|| chosen.into_iter().map(AtomicU32::into_inner).collect()))
    }

    fn download(&self, values: &mut Vec<f32>) -> Result<()> {
        values.resize(self.ws.logits.rows * self.ws.logits.cols, 0.0);
        Ok(self.backend.download(&self.ws.logits, bytemuck::cast_slice_mut(values))?)
    }
}

impl<B: Backend> Machine for Device<B> {
    fn run(&mut self, batch: &Batch, want: &Want, out: &mut Produced) -> Result<()> {
        self.forward(batch)?;
        out.likeliest.clear();
        out.chosen.clear();
        out.logits.clear();
        out.log_probs.clear();
        out.judged.clear();
        if want.argmax {
            out.likeliest = self.backend.argmax(&self.ws.logits)?;
        }
        if !want.sampled.is_empty() {
            match self.sample(&want.sampled)? {
                Some(chosen) => out.chosen = chosen,
                None => self.download(&mut out.logits)?,
            }
        }
        if want.logits {
            self.download(&mut out.logits)?;
        }
        if want.log_probs {
            self.backend.log_softmax(&mut self.ws.logits)?;
            self.download(&mut out.log_probs)?;
        }
        // Last, as the logits may not survive it. Log-probabilities in their place are of the same distribution.
        if !want.judged.is_empty() {
            out.judged = self.backend.judge(&mut self.ws.logits, &want.judged)?;
        }
        if *want == Want::default() {
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
