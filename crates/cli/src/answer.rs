//! From a request's events to its answers: text in pieces, stop strings, log-probabilities.
use anyhow::Result;
use planish_engine::{Event, FinishReason, TokenLogprobs};
use planish_text::{Detokenizer, StopResult, StopStrings, Tokenizer};
use std::sync::Arc;

/// A finished answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// Its number among the answers to its prompt.
    pub choice: usize,
    /// Its text, without special tokens and stop strings.
    pub text: String,
    /// Its tokens.
    pub token_ids: Vec<u32>,
    /// The prompt's tokens.
    pub prompt_token_ids: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
    /// For each token, if asked for.
    pub logprobs: Vec<TokenLogprobs>,
    /// For each token of the prompt but the first, if asked for. The answers to a prompt share them.
    pub prompt_logprobs: Arc<[TokenLogprobs]>,
}

/// The answers to one prompt in the making.
pub struct Answering {
    choices: Vec<Choice>,
    prompt: Vec<u32>,
    prompt_logprobs: Vec<TokenLogprobs>,
}

struct Choice {
    detokenizer: Option<Detokenizer>,
    stops: StopStrings,
    text: String,
    token_ids: Vec<u32>,
    logprobs: Vec<TokenLogprobs>,
    reason: Option<FinishReason>,
}

impl Answering {
    /// Nothing yet of `n` answers to this prompt. Without a tokenizer they have no text.
    pub fn new(prompt: Vec<u32>, n: usize, stop: &[String], tokenizer: Option<&Tokenizer>) -> Result<Answering> {
        let choice = |_| {
            Ok(Choice {
                detokenizer: tokenizer.map(|t| Detokenizer::after(t.clone(), &prompt, true)),
                stops: StopStrings::new(stop.to_vec())?,
                text: String::new(),
                token_ids: Vec::new(),
                logprobs: Vec::new(),
                reason: None,
            })
        };
        let choices = (0..n).map(choice).collect::<Result<_>>()?;
        Ok(Answering { choices, prompt, prompt_logprobs: Vec::new() })
    }

    /// Takes one event; `show` gets the text that became certain, with the number of its answer. True when all answers
    /// are complete: what the engine still sends then is not needed.
    pub fn take(&mut self, event: Event, show: &mut dyn FnMut(usize, &str)) -> Result<bool> {
        match event {
            Event::Prompt(logprobs) => self.prompt_logprobs.extend(logprobs),
            Event::Token { choice, id, logprobs } => {
                if let Some(of) = self.open(choice) {
                    let text = of.push(id, logprobs)?;
                    show(choice, &text);
                }
            }
            Event::Done { choice, reason } => {
                if let Some(of) = self.open(choice) {
                    let text = of.end(reason)?;
                    show(choice, &text);
                }
            }
            Event::Failed(error) => return Err(error.into()),
        }
        Ok(self.is_done())
    }

    /// Whether all answers are complete.
    pub fn is_done(&self) -> bool {
        self.choices.iter().all(|c| c.reason.is_some())
    }

    /// The prompt's token ids.
    pub fn prompt(&self) -> &[u32] {
        &self.prompt
    }

    /// Tokens of an answer so far.
    pub fn tokens(&self, choice: usize) -> usize {
        self.choices.get(choice).map_or(0, |c| c.token_ids.len())
    }

    /// Why an answer has ended, if it has.
    pub fn finish_reason(&self, choice: usize) -> Option<FinishReason> {
        self.choices.get(choice).and_then(|c| c.reason)
    }

    /// The answers, in order.
    pub fn into_answers(self) -> Vec<Answer> {
        let (prompt, prompt_logprobs) = (self.prompt, Arc::<[TokenLogprobs]>::from(self.prompt_logprobs));
        let answer = |(choice, c): (usize, Choice)| Answer {
            choice,
            text: c.text,
            token_ids: c.token_ids,
            prompt_token_ids: prompt.clone(),
            finish_reason: c.reason.unwrap_or(FinishReason::Length),
            logprobs: c.logprobs,
            prompt_logprobs: prompt_logprobs.clone(),
        };
        self.choices.into_iter().enumerate().map(answer).collect()
    }

    /// A choice that may still grow: after a stop string the engine goes on for the others' sake.
    fn open(&mut self, choice: usize) -> Option<&mut Choice> {
        self.choices.get_mut(choice).filter(|c| c.reason.is_none())
    }
}

impl Choice {
    /// Takes a token; returns the text that is certain now.
    fn push(&mut self, id: u32, logprobs: Option<TokenLogprobs>) -> Result<String> {
        self.token_ids.push(id);
        self.logprobs.extend(logprobs);
        let piece = match &mut self.detokenizer {
            Some(d) => d.push(id)?.unwrap_or_default(),
            None => return Ok(String::new()),
        };
        Ok(self.show(&piece))
    }

    /// The engine's end: what was held back is certain.
    fn end(&mut self, reason: FinishReason) -> Result<String> {
        let rest = match &mut self.detokenizer {
            Some(d) => d.finish()?,
            None => String::new(),
        };
        let mut shown = self.show(&rest);
        if self.reason.is_none() {
            self.reason = Some(reason);
            let held = self.stops.finish();
            self.text.push_str(&held);
            shown.push_str(&held);
        }
        Ok(shown)
    }

    fn show(&mut self, piece: &str) -> String {
        let text = match self.stops.push(piece) {
            StopResult::Text(text) => text,
            StopResult::Stopped { text, .. } => {
                self.reason = Some(FinishReason::Stop);
                text
            }
        };
        self.text.push_str(&text);
        text
    }
}
