//! The engine's step on one device: schedule, assemble, forward, sample, commit.
use crate::assemble::assemble;
use crate::config::EngineConfig;
use crate::error::{Error, Result};
use crate::pages::Pages;
use crate::request::{Event, FinishReason, Request, ScoreChunk, TokenLogprobs};
use crate::sampler;
use crate::scheduler::{Limits, Scheduler, Slice};
use planish_model::{Decoder, KvPool, Workspace};
use planish_tensor::{Backend, DType};
use std::collections::HashMap;
use std::ops::Range;
use std::sync::mpsc::{Sender, SyncSender};

/// A model, its KV cache and the requests on it. Lives on one thread.
pub struct Runner<B: Backend> {
    backend: B,
    decoder: Decoder<B>,
    kv: KvPool<B>,
    ws: Workspace<B>,
    config: EngineConfig,
    scheduler: Scheduler,
    callers: HashMap<u64, Caller>,
    next_id: u64,
}

enum Caller {
    Generate { request: Box<Request>, events: Sender<Event>, prompt_len: usize },
    Score { chunks: SyncSender<Result<ScoreChunk>>, total: usize },
}

/// What a step did to one sequence.
enum Outcome {
    /// Nothing yet: a prompt is still being read.
    Runs,
    /// A token to go on from.
    Continues(u32),
    /// Over, or its caller has gone.
    Ended,
}

impl<B: Backend> Runner<B> {
    /// Allocates cache and buffers for a loaded model.
    pub fn new(backend: B, decoder: Decoder<B>, config: EngineConfig) -> Result<Runner<B>> {
        let plan = &decoder.plan;
        let kv = KvPool::new(&backend, plan, plan.layers, config.pages, config.page_size, config.kv_dtype)?;
        let ws = Workspace::new(&backend, plan, config.step_tokens, config.step_rows)?;
        let limits = Limits { tokens: config.step_tokens, rows: config.step_rows, sequences: config.max_batch };
        let scheduler = Scheduler::new(limits, Pages::new(config.pages, config.page_size));
        Ok(Runner { backend, decoder, kv, ws, config, scheduler, callers: HashMap::new(), next_id: 0 })
    }

    /// Queues a request; a request that cannot run is answered at once.
    pub fn generate(&mut self, mut request: Request, events: Sender<Event>) {
        let prompt_len = request.prompt.len();
        let room = self.config.max_model_len.saturating_sub(prompt_len);
        request.max_new_tokens = request.max_new_tokens.min(room);
        if let Err(e) = self.check(&request.prompt).and_then(|()| request.sampling.validate()) {
            let _ = events.send(Event::Failed(e));
            return;
        }
        if request.max_new_tokens == 0 {
            let _ = events.send(Event::Done { choice: 0, reason: FinishReason::Length });
            return;
        }
        let tokens = request.prompt.clone();
        let id = self.arrive(tokens, false);
        self.callers.insert(id, Caller::Generate { request: Box::new(request), events, prompt_len });
    }

    /// Queues a text to be scored.
    pub fn score(&mut self, tokens: Vec<u32>, chunks: SyncSender<Result<ScoreChunk>>) {
        if let Err(e) = self.check(&tokens) {
            let _ = chunks.send(Err(e));
            return;
        }
        let total = tokens.len();
        let id = self.arrive(tokens, true);
        self.callers.insert(id, Caller::Score { chunks, total });
    }

    /// True when there is nothing to do.
    pub fn is_idle(&self) -> bool {
        self.scheduler.is_idle()
    }

    /// One step of all running sequences.
    pub fn step(&mut self) -> Result<()> {
        let plan = self.scheduler.schedule();
        let batch = assemble(self.scheduler.running(), &plan, self.config.page_size);
        self.decoder.forward(&self.backend, &batch, &mut self.kv, &mut self.ws)?;
        let outcomes = self.sample(&plan)?;
        self.commit(&plan, outcomes);
        Ok(())
    }

    /// Fails every caller: the device is not to be trusted any more.
    pub fn fail_all(&mut self, error: &Error) {
        for (id, caller) in self.callers.drain() {
            self.scheduler.remove(id);
            match caller {
                Caller::Generate { events, .. } => drop(events.send(Event::Failed(error.clone()))),
                Caller::Score { chunks, .. } => drop(chunks.send(Err(error.clone()))),
            }
        }
    }

    fn check(&self, tokens: &[u32]) -> Result<()> {
        let (vocab, longest) = (self.decoder.plan.vocab, self.config.max_model_len);
        if tokens.is_empty() {
            return Err(Error::Request("the prompt is empty: expected at least one token".into()));
        }
        if let Some(bad) = tokens.iter().find(|&&t| t as usize >= vocab) {
            return Err(Error::Request(format!("token id {bad}: expected ids below {vocab}")));
        }
        match tokens.len() > longest {
            true => Err(Error::Request(format!(
                "the prompt has {} tokens: expected at most {longest} (--max-model-len)",
                tokens.len()
            ))),
            false => Ok(()),
        }
    }

    fn arrive(&mut self, tokens: Vec<u32>, scored: bool) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.scheduler.arrive(id, tokens, scored);
        id
    }

    /// Reads what the step produced and tells the callers.
    fn sample(&mut self, plan: &[Slice]) -> Result<Vec<Outcome>> {
        let produced = self.read_rows(plan)?;
        let mut row = 0;
        let mut outcomes = Vec::with_capacity(plan.len());
        for slice in plan {
            let rows = row..row + slice.rows;
            row = rows.end;
            let sequence = &self.scheduler.running()[slice.index];
            outcomes.push(match self.callers.get(&sequence.id) {
                None => Outcome::Ended,
                Some(_) if slice.rows == 0 => Outcome::Runs,
                Some(Caller::Score { chunks, total }) => produced.send_scores(rows, slice, chunks, *total),
                Some(Caller::Generate { request, events, prompt_len }) => {
                    let generated = sequence.tokens.len() - prompt_len;
                    match produced.choose(rows.start, request, &sequence.tokens) {
                        Some((id, logprobs)) => deliver(id, logprobs, generated, request, events),
                        None => {
                            let position = sequence.tokens.len() - 1;
                            let _ = events.send(Event::Failed(Error::NotANumber { position }));
                            Outcome::Ended
                        }
                    }
                }
            });
        }
        Ok(outcomes)
    }

    /// Downloads as little as the step's callers need.
    fn read_rows(&mut self, plan: &[Slice]) -> Result<Produced> {
        let vocab = self.decoder.plan.vocab;
        let wanted = || plan.iter().filter(|s| s.rows > 0);
        let scored = |s: &Slice| self.scheduler.running()[s.index].scored;
        let (any_scored, all_scored) = (wanted().any(scored), wanted().all(scored));
        let greedy = |s: &Slice| match self.callers.get(&self.scheduler.running()[s.index].id) {
            Some(Caller::Generate { request, .. }) => is_plain_greedy(request),
            _ => false,
        };
        let mut produced = Produced { vocab, ..Produced::default() };
        if wanted().next().is_none() {
            return Ok(produced);
        }
        if wanted().all(greedy) {
            produced.likeliest = self.backend.argmax(&self.ws.logits)?;
            return Ok(produced);
        }
        if !all_scored {
            produced.logits = self.download_logits()?;
        }
        if any_scored {
            self.backend.log_softmax(&mut self.ws.logits)?;
            produced.log_probs = self.download_logits()?;
        }
        Ok(produced)
    }

    fn download_logits(&self) -> Result<Vec<f32>> {
        let mut bytes = vec![0; self.ws.logits.rows * self.ws.logits.cols * DType::F32.size()];
        self.backend.download(&self.ws.logits, &mut bytes)?;
        Ok(planish_tensor::host::decode_f32(DType::F32, &bytes))
    }

    /// Moves the sequences on, and lets the ended ones go.
    fn commit(&mut self, plan: &[Slice], outcomes: Vec<Outcome>) {
        self.scheduler.complete(plan);
        let ids: Vec<u64> = plan.iter().map(|s| self.scheduler.running()[s.index].id).collect();
        for (id, outcome) in ids.into_iter().zip(outcomes) {
            match outcome {
                Outcome::Runs => {}
                Outcome::Continues(token) => self.scheduler.push(id, token),
                Outcome::Ended => {
                    self.scheduler.remove(id);
                    self.callers.remove(&id);
                }
            }
        }
    }
}

/// What a step's logits became on the host: only the parts that its callers need.
#[derive(Default)]
struct Produced {
    vocab: usize,
    /// `[rows]` when every caller takes the likeliest token and no log-probabilities.
    likeliest: Vec<u32>,
    /// `[rows, v]`.
    logits: Vec<f32>,
    /// `[rows, v]`.
    log_probs: Vec<f32>,
}

impl Produced {
    /// The next token of one row; `None` if its logits hold NaN.
    fn choose(&self, row: usize, request: &Request, seen: &[u32]) -> Option<(u32, Option<TokenLogprobs>)> {
        if let Some(&id) = self.likeliest.get(row) {
            return (id != u32::MAX).then_some((id, None));
        }
        let logits = &self.logits[row * self.vocab..][..self.vocab];
        let (prompt, generated) = seen.split_at(request.prompt.len());
        let mut history = sampler::History::new(prompt);
        generated.iter().for_each(|&token| history.push(token));
        let id = sampler::choose(&mut logits.to_vec(), &request.sampling, &history, &[], None).ok()?;
        Some((id, request.logprobs.map(|top| sampler::logprobs(logits, id, top))))
    }

    fn send_scores(
        &self,
        rows: Range<usize>,
        slice: &Slice,
        chunks: &SyncSender<Result<ScoreChunk>>,
        total: usize,
    ) -> Outcome {
        let log_probs = self.log_probs[rows.start * self.vocab..rows.end * self.vocab].to_vec();
        let chunk = match log_probs.iter().any(|x| x.is_nan()) {
            true => Err(Error::NotANumber { position: slice.start }),
            false => Ok(ScoreChunk { first: slice.start, log_probs }),
        };
        let ended = chunk.is_err() || slice.start + slice.count == total;
        if chunks.send(chunk).is_err() || ended { Outcome::Ended } else { Outcome::Runs }
    }
}

/// Tells the caller about a token; a caller that has gone ends its sequence.
fn deliver(
    id: u32,
    logprobs: Option<TokenLogprobs>,
    generated: usize,
    request: &Request,
    events: &Sender<Event>,
) -> Outcome {
    if request.stop_ids.contains(&id) {
        let _ = events.send(Event::Done { choice: 0, reason: FinishReason::Stop });
        return Outcome::Ended;
    }
    if events.send(Event::Token { choice: 0, id, logprobs }).is_err() {
        return Outcome::Ended;
    }
    if generated + 1 == request.max_new_tokens {
        let _ = events.send(Event::Done { choice: 0, reason: FinishReason::Length });
        return Outcome::Ended;
    }
    Outcome::Continues(id)
}

fn is_plain_greedy(request: &Request) -> bool {
    request.sampling.temperature == 0.0 && request.sampling.repetition_penalty == 1.0 && request.logprobs.is_none()
}
