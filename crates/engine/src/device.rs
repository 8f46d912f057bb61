//! The device's side of a step: runs one batch and brings back what the callers need of its logits, nothing more.
use crate::answer::{answer, token_of};
use crate::config::EngineConfig;
use crate::error::{Error, Result};
use crate::recordings::Recordings;
use crate::request::TokenLogprobs;
use crate::sampler::NoChoice;
use planish_model::{Decoder, KvPool, Workspace};
use planish_tensor::{Backend, Batch, CHOSEN, Courtesy, Judged, SampleRow, Target};
use std::collections::VecDeque;

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

impl Want {
    /// Whether nothing but chosen tokens is wanted, so that the step may be begun and the next follow before they are known.
    pub fn is_of_choices(&self) -> bool {
        let chosen = |wish: &Wish| matches!(wish, Wish::Nothing | Wish::Likeliest | Wish::Token(_, None));
        self.judged.is_empty() && !self.rows.is_empty() && self.rows.iter().all(chosen)
    }
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
    /// Queues a step of which nothing but chosen tokens is wanted, see [`Want::is_of_choices`], and need not wait. A token of
    /// its batch may be [`CHOSEN`] and the number of a row of the step that was begun before it.
    fn begin(&mut self, batch: &mut Batch, want: &Want) -> Result<()> {
        let _ = (batch, want);
        Err(Error::Device("this machine runs one step at a time".into()))
    }
    /// Waits for the step that was begun first and is not finished; fills `out` as [`Machine::run`] does.
    fn finish(&mut self, out: &mut Produced) -> Result<()> {
        let _ = out;
        Err(Error::Device("no step was begun".into()))
    }
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
    /// Steps that were begun, the first first.
    begun: VecDeque<Begun>,
    /// Tokens chosen at the rows of the step that was begun last, if the host has chosen them.
    known: Vec<u32>,
}

/// A step that was begun.
enum Begun {
    /// The back end has chosen ahead, at so many rows.
    Queued,
    /// All that is wanted has been found.
    Found(Vec<Found>),
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
        Ok(Device {
            backend,
            decoder,
            kv,
            ws,
            recordings: Recordings::default(),
            begun: VecDeque::new(),
            known: Vec::new(),
        })
    }

    /// Queues the step, from a recording if there is one of its like.
    fn forward(&mut self, batch: &Batch) -> Result<()> {
        let Device { backend, decoder, kv, ws, recordings, .. } = self;
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
        recordings.run(key, &mut queue, |queue| backend.record(queue))?;
        Ok(())
    }

    /// Lets the back end choose ahead at every row; false if it does not.
    fn choose_ahead(&self, want: &Want) -> Result<bool> {
        let greedy = SampleRow::GREEDY;
        let rules: Vec<&SampleRow> = match want.rows.iter().any(|wish| matches!(wish, Wish::Token(..))) {
            true => want.rows.iter().map(|wish| if let Wish::Token(how, _) = wish { how } else { &greedy }).collect(),
            false => Vec::new(),
        };
        Ok(self.backend.choose_ahead(&self.ws.logits, &rules)?)
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

    fn begin(&mut self, batch: &mut Batch, want: &Want) -> Result<()> {
        // What the host has chosen, the back end does not know.
        for token in batch.tokens.iter_mut().filter(|token| **token >= CHOSEN) {
            *token = self.known.get((*token - CHOSEN) as usize).copied().unwrap_or(*token);
        }
        self.known.clear();
        self.forward(batch)?;
        if self.choose_ahead(want)? {
            self.begun.push_back(Begun::Queued);
            return Ok(());
        }
        let mut found = vec![Found::Nothing; want.rows.len()];
        answer(&self.backend, &mut self.ws.logits, &want.rows, &mut found)?;
        // A row without a token ends its sequence: what is read in its place does not matter.
        let token = |found: &Found| if let Found::Token(Ok(token), _) = found { *token } else { 0 };
        self.known.extend(found.iter().map(token));
        self.begun.push_back(Begun::Found(found));
        Ok(())
    }

    fn finish(&mut self, out: &mut Produced) -> Result<()> {
        let Produced { rows, logits, log_probs, judged } = out;
        logits.clear();
        log_probs.clear();
        judged.clear();
        *rows = match self.begun.pop_front() {
            None => return Err(Error::Device("no step was begun".into())),
            Some(Begun::Found(found)) => found,
            Some(Begun::Queued) => {
                let tokens = self.backend.chosen_ahead()?;
                tokens.into_iter().map(|number| Found::Token(token_of(number), None)).collect()
            }
        };
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
