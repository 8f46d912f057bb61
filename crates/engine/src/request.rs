//! What a caller asks for, and what comes back over its channel.
use crate::error::{Error, Result};
use crate::grammar::Grammar;
use crate::mailbox::{Reader, Writer};
use crate::outlet::Outlet;
use std::sync::mpsc::Sender;

/// How the next token is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Divisor of the logits; 0 takes the likeliest token always.
    pub temperature: f32,
    /// Keep this many of the likeliest tokens; 0 keeps all.
    pub top_k: usize,
    /// Keep the likeliest tokens up to this probability mass.
    pub top_p: f32,
    /// Keep tokens at least this probable relative to the likeliest.
    pub min_p: f32,
    /// Logits of tokens already seen are divided (or, if negative, multiplied) by this.
    pub repetition_penalty: f32,
    /// Subtracted from the logit of each token that was generated.
    pub presence_penalty: f32,
    /// Subtracted from the logit of each token for every time that it was generated.
    pub frequency_penalty: f32,
    /// Added to the logits of single tokens, after the penalties.
    pub logit_bias: Vec<(u32, f32)>,
    /// Seed of the request's own random sequence.
    pub seed: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: Vec::new(),
            seed: 0,
        }
    }
}

impl Sampling {
    /// Whether the tokens of a text change what may follow it.
    pub fn penalizes(&self) -> bool {
        self.repetition_penalty != 1.0 || [self.frequency_penalty, self.presence_penalty] != [0.0; 2]
    }

    /// Names the first value out of range.
    pub fn validate(&self) -> Result<()> {
        let fail = |name: &str, expected: &str, found: f32| {
            Err(Error::Request(format!("{name}: expected {expected}, found {found}")))
        };
        if !(self.temperature >= 0.0 && self.temperature.is_finite()) {
            return fail("temperature", "a number from 0 up", self.temperature);
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return fail("top_p", "a number above 0 and at most 1", self.top_p);
        }
        if !(self.min_p >= 0.0 && self.min_p <= 1.0) {
            return fail("min_p", "a number from 0 to 1", self.min_p);
        }
        if !(self.repetition_penalty > 0.0 && self.repetition_penalty.is_finite()) {
            return fail("repetition_penalty", "a number above 0", self.repetition_penalty);
        }
        for (name, penalty) in
            [("presence_penalty", self.presence_penalty), ("frequency_penalty", self.frequency_penalty)]
        {
            if !penalty.is_finite() {
                return fail(name, "a finite number", penalty);
            }
        }
        match self.logit_bias.iter().find(|(_, bias)| bias.is_nan()) {
            Some((id, bias)) => fail(&format!("logit_bias of token {id}"), "a number", *bias),
            None => Ok(()),
        }
    }
}

/// One prompt to continue, once or in several ways.
#[derive(Clone, Debug)]
pub struct Request {
    /// Token ids; at least one.
    pub prompt: Vec<u32>,
    /// How tokens are chosen. Choice `i` of `n` draws with seed `seed + i`.
    pub sampling: Sampling,
    /// Continuations, which share the prompt's pages; at least one.
    pub n: usize,
    /// Most tokens to generate.
    pub max_new_tokens: usize,
    /// Tokens to generate before a stop id may be chosen.
    pub min_new_tokens: usize,
    /// Tokens that end the text (they are not part of it).
    pub stop_ids: Vec<u32>,
    /// Report the log-probabilities of this many of the likeliest tokens beside the chosen one.
    pub logprobs: Option<usize>,
    /// The same for every token of the prompt but the first.
    pub prompt_logprobs: Option<usize>,
    /// Requests with a smaller number go first; equals in order of arrival.
    pub priority: i32,
    /// Only requests with the same salt share cached prefixes.
    pub cache_salt: Option<String>,
    /// What the text must be.
    pub grammar: Option<Grammar>,
}

impl Default for Request {
    fn default() -> Self {
        Request {
            prompt: Vec::new(),
            sampling: Sampling::default(),
            n: 1,
            max_new_tokens: 0,
            min_new_tokens: 0,
            stop_ids: Vec::new(),
            logprobs: None,
            prompt_logprobs: None,
            priority: 0,
            cache_salt: None,
            grammar: None,
        }
    }
}

/// Log-probabilities of one generated token, natural logarithm, of the model's own distribution (temperature 1).
#[derive(Clone, Debug, PartialEq)]
pub struct TokenLogprobs {
    /// Of the chosen token.
    pub chosen: f32,
    /// Of the likeliest, falling; as many as asked.
    pub top: Vec<(u32, f32)>,
}

/// Why a text ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop id, or a stop string.
    Stop,
    /// `max_new_tokens`, or the context's end.
    Length,
}

impl FinishReason {
    /// OpenAI's word for it.
    pub const fn name(self) -> &'static str {
        match self {
            FinishReason::Stop => "stop",
            FinishReason::Length => "length",
        }
    }
}

/// One message of a running request. A channel that closes without `Done` means that the engine stopped.
#[derive(Clone, Debug)]
pub enum Event {
    /// Log-probabilities of some tokens of the prompt, in order, if asked for; before any token.
    Prompt(Vec<TokenLogprobs>),
    /// A generated token.
    Token {
        /// Which of the request's `n` continuations.
        choice: usize,
        /// Its id.
        id: u32,
        /// If asked for.
        logprobs: Option<TokenLogprobs>,
    },
    /// The end of one continuation.
    Done {
        /// Which.
        choice: usize,
        /// Why.
        reason: FinishReason,
    },
    /// The request failed; nothing more comes.
    Failed(Error),
}

/// Log-probabilities of a stretch of a scored text.
#[derive(Debug)]
pub struct ScoreChunk {
    /// Position of the first row.
    pub first: usize,
    /// `[rows, v]` natural-log probabilities of the token after each position.
    pub log_probs: Vec<f32>,
}

/// How likely a continuation is after its context.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Likelihood {
    /// Which of the continuations, in the order in which they were given.
    pub index: usize,
    /// Sum of the log-probabilities of its tokens, natural logarithm.
    pub log_prob: f64,
    /// Whether each of its tokens is the likeliest one at its place.
    pub greedy: bool,
}

/// What the engine's thread is told.
pub(crate) enum Command {
    Generate {
        id: u64,
        request: Box<Request>,
        outlet: Outlet,
    },
    Score {
        id: u64,
        tokens: Vec<u32>,
        first: usize,
        chunks: Writer<Result<ScoreChunk>>,
    },
    Judge {
        id: u64,
        context: Vec<u32>,
        continuations: Vec<Vec<u32>>,
        likelihoods: Writer<Result<Likelihood>>,
    },
    /// The caller has gone.
    Cancel(u64),
    /// The caller has all that it wants.
    Complete(u64),
    /// The caller has caught up.
    Room(u64),
    /// Answer whether the page tables add up.
    Check(Sender<Result<()>>),
    /// Stop, after the requests in flight or at once.
    Stop {
        drain: bool,
    },
}

/// A running request: iterate over its events; dropping it cancels the request.
pub type Stream = Reader<Event>;

/// A text being scored: iterate over its chunks; dropping it cancels the request.
pub type Scores = Reader<Result<ScoreChunk>>;

/// Continuations being judged, one item each, in their order; dropping it cancels the request.
pub type Likelihoods = Reader<Result<Likelihood>>;

/// Where events of a request go if not into a [`Stream`]: called on the engine's thread, so it must not wait. False
/// means that the caller is gone.
pub type Sink = Box<dyn FnMut(Event) -> bool + Send>;
