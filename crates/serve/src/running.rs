//! Requests under way: from the engine's events to pieces of text. Dropping it cancels what still runs, so a caller that
//! goes away gives its pages back, wherever it was.
//!
//! Ownership: the engine's thread owns the sinks, each with one end of the queue; a [`Running`] owns the other end and
//! what cancels each request.
use crate::counts::Counts;
use crate::error::{ApiError, Result};
use crate::model::Model;
use crate::piece::{Choice, Delta, Piece, TextRules};
use crate::wire::Usage;
use planish_engine::{Cancel, Error as EngineError, Event, Request, TokenLogprobs};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::watch;

/// What is to be run, all decided and checked.
pub struct Ask {
    /// On which model.
    pub model: Arc<Model>,
    /// Token ids of each prompt.
    pub prompts: Vec<Vec<u32>>,
    /// The seed of each.
    pub seeds: Vec<u64>,
    /// What all prompts share; its own prompt is empty.
    pub request: Request,
    /// How tokens become text.
    pub rules: TextRules,
    /// Time for the whole answer.
    pub time: Duration,
    /// Bytes of events that may wait for a reader.
    pub backlog: usize,
    /// Turns to true when the server ends what still runs.
    pub ending: watch::Receiver<bool>,
    /// Where lengths are counted.
    pub counts: Arc<Counts>,
}

/// What comes out.
#[derive(Debug)]
pub enum Output {
    /// Log-probabilities of a prompt's tokens but the first, in order, maybe in several parts.
    Prompt {
        /// Which prompt.
        prompt: usize,
        /// One for each token.
        logprobs: Vec<TokenLogprobs>,
    },
    /// More of an answer.
    Delta(Delta),
}

/// Requests under way, with one queue.
pub struct Running {
    model: Arc<Model>,
    events: UnboundedReceiver<News>,
    backlog: Arc<Backlog>,
    /// For each prompt; none once all its answers are complete.
    cancels: Vec<Option<Cancel>>,
    /// `prompt * n + choice`.
    choices: Vec<Choice>,
    n: usize,
    usage: Usage,
    deadline: Pin<Box<tokio::time::Sleep>>,
    /// Comes when the server ends what still runs.
    ending: Pin<Box<dyn Future<Output = ()> + Send>>,
    counts: Arc<Counts>,
    over: bool,
}

/// An event, the prompt that it is about, and when the engine had it.
type News = (usize, Instant, Event);

/// Bytes under way to a reader.
struct Backlog {
    bytes: AtomicUsize,
    /// One event more than this ends the request.
    most: usize,
    overrun: AtomicBool,
}

impl Running {
    /// Starts every prompt.
    pub fn start(ask: Ask) -> Result<Running> {
        let Ask { model, prompts, seeds, request, rules, time, backlog, mut ending, counts } = ask;
        let n = request.n;
        let (sender, events) = unbounded_channel();
        let backlog = Arc::new(Backlog { bytes: AtomicUsize::new(0), most: backlog, overrun: AtomicBool::new(false) });
        let mut choices = Vec::with_capacity(prompts.len() * n);
        let mut cancels = Vec::with_capacity(prompts.len());
        let usage = Usage { prompt_tokens: prompts.iter().map(Vec::len).sum(), ..Usage::default() };
        for (number, (prompt, seed)) in prompts.into_iter().zip(seeds).enumerate() {
            for _ in 0..n {
                choices.push(Choice::new(&model.served.tokenizer, &prompt, &rules));
            }
            let sink = sink(number, sender.clone(), backlog.clone());
            let mut request = Request { prompt, ..request.clone() };
            request.sampling.seed = seed;
            cancels.push(Some(model.served.handle.generate_with(request, Box::new(sink))?));
        }
        let deadline = Box::pin(tokio::time::sleep(time));
        let ending = Box::pin(async move { drop(ending.wait_for(|ending| *ending).await) });
        Ok(Running { model, events, backlog, cancels, choices, n, usage, deadline, ending, counts, over: false })
    }

    /// The model that runs.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Tokens so far.
    pub fn usage(&self) -> Usage {
        Usage { total_tokens: self.usage.prompt_tokens + self.usage.completion_tokens, ..self.usage }
    }

    /// Nothing more of an answer is wanted: when all answers to a prompt have ended, its pages are free.
    pub fn close(&mut self, index: usize) {
        self.choices[index].close();
        self.counts.generated(self.choices[index].tokens());
        let prompt = index / self.n;
        let answers = &self.choices[prompt * self.n..][..self.n];
        if answers.iter().all(Choice::is_done) {
            self.counts.answered_prompt(answers.iter().map(Choice::tokens).max().unwrap_or(0));
            if let Some(cancel) = self.cancels[prompt].take() {
                cancel.complete();
            }
        }
        self.over = self.choices.iter().all(Choice::is_done);
    }

    /// The next piece; none after the last.
    pub async fn next(&mut self) -> Option<Result<Output>> {
        std::future::poll_fn(|cx| self.poll(cx)).await
    }

    /// As [`Running::next`], for streams.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Output>>> {
        while !self.over {
            // Before the events: there may always be one more.
            if let Some(error) = self.cut_off(cx) {
                self.over = true;
                return Poll::Ready(Some(Err(error)));
            }
            match self.events.poll_recv(cx) {
                Poll::Ready(Some((prompt, since, event))) => {
                    self.counts.lag.record(since.elapsed());
                    self.backlog.bytes.fetch_sub(weight(&event), Ordering::Relaxed);
                    if let Some(output) = self.take(prompt, event) {
                        self.over |= output.is_err();
                        return Poll::Ready(Some(output));
                    }
                }
                Poll::Ready(None) => {
                    self.over = true;
                    return Poll::Ready(Some(Err(self.broken_off())));
                }
                Poll::Pending => return Poll::Pending,
            }
        }
        // Nothing more is wanted of the engine.
        self.cancels.clear();
        Poll::Ready(None)
    }

    /// Why it may not go on: its time is up, or the server ends.
    fn cut_off(&mut self, cx: &mut Context<'_>) -> Option<ApiError> {
        if self.deadline.as_mut().poll(cx).is_ready() {
            return Some(timed_out());
        }
        self.ending.as_mut().poll(cx).is_ready().then(|| EngineError::Stopped.into())
    }

    fn take(&mut self, prompt: usize, event: Event) -> Option<Result<Output>> {
        match event {
            Event::Prompt(logprobs) => Some(Ok(Output::Prompt { prompt, logprobs })),
            Event::Token { choice, id, logprobs } => {
                self.usage.completion_tokens += usize::from(self.is_open(prompt, choice));
                let result = self.choices.get_mut(prompt * self.n + choice)?.push(id, logprobs);
                self.deliver(prompt, choice, result)
            }
            Event::Done { choice, reason } => {
                let result = self.choices.get_mut(prompt * self.n + choice)?.end(reason);
                self.deliver(prompt, choice, result)
            }
            Event::Failed(error) => Some(Err(error.into())),
        }
    }

    fn is_open(&self, prompt: usize, choice: usize) -> bool {
        self.choices.get(prompt * self.n + choice).is_some_and(|choice| !choice.is_done())
    }

    fn deliver(&mut self, prompt: usize, choice: usize, piece: Result<Option<Piece>>) -> Option<Result<Output>> {
        let piece = match piece {
            Ok(piece) => piece?,
            Err(error) => return Some(Err(error)),
        };
        if piece.end.is_some() {
            self.close(prompt * self.n + choice);
        }
        Some(Ok(Output::Delta(Delta { choice, index: prompt * self.n + choice, piece })))
    }

    fn broken_off(&self) -> ApiError {
        match self.backlog.overrun.load(Ordering::Relaxed) {
            true => ApiError::status(axum::http::StatusCode::REQUEST_TIMEOUT, "the answer was not read in time"),
            false => EngineError::Stopped.into(),
        }
    }
}

/// Takes events on the engine's thread: never waits, and gives up a reader that is too far behind.
fn sink(prompt: usize, sender: UnboundedSender<News>, backlog: Arc<Backlog>) -> impl FnMut(Event) -> bool + Send {
    move |event| {
        let bytes = weight(&event);
        if backlog.bytes.fetch_add(bytes, Ordering::Relaxed) > backlog.most.max(bytes) {
            backlog.overrun.store(true, Ordering::Relaxed);
            return false;
        }
        sender.send((prompt, Instant::now(), event)).is_ok()
    }
}

/// Bytes that an event holds, about.
fn weight(event: &Event) -> usize {
    let of_token = |l: &TokenLogprobs| size_of_val(l) + size_of_val(&l.top[..]);
    let beyond: usize = match event {
        Event::Prompt(rows) => rows.iter().map(of_token).sum(),
        Event::Token { logprobs, .. } => logprobs.iter().map(of_token).sum(),
        Event::Done { .. } | Event::Failed(_) => 0,
    };
    size_of::<Event>() + beyond
}

fn timed_out() -> ApiError {
    let message = "the answer took longer than this server allows (--request-timeout)";
    ApiError::status(axum::http::StatusCode::GATEWAY_TIMEOUT, message).code("timeout")
}
