//! One answer in the making: its tokens become text, and text ends at stop strings. No HTTP and no engine here.
use crate::error::Result;
use planish_engine::{FinishReason, TokenLogprobs};
use planish_text::{Detokenizer, StopResult, StopStrings, Tokenizer};

/// How tokens become text.
#[derive(Clone, Debug, Default)]
pub struct TextRules {
    /// The search for texts that end an answer, not begun.
    pub stop: StopStrings,
    /// Leave the stop string in the text.
    pub include_stop: bool,
    /// Leave control tokens out of the text.
    pub skip_special: bool,
    /// But not these.
    pub keep: Vec<u32>,
}

/// More of one answer.
#[derive(Debug)]
pub struct Delta {
    /// Which of its answers.
    pub choice: usize,
    /// `prompt * n + choice`.
    pub index: usize,
    /// What is new.
    pub piece: Piece,
}

/// Text that became certain, with the tokens that it came from.
#[derive(Debug, Default)]
pub struct Piece {
    /// The text.
    pub text: String,
    /// Tokens since the last piece.
    pub tokens: Vec<Token>,
    /// In the last piece.
    pub end: Option<FinishReason>,
    /// The stop string that ended it.
    pub stop: Option<String>,
}

/// A generated token.
#[derive(Clone, Debug)]
pub struct Token {
    /// Its id.
    pub id: u32,
    /// If asked for.
    pub logprobs: Option<TokenLogprobs>,
}

/// An answer so far.
pub struct Choice {
    detokenizer: Detokenizer,
    stops: StopStrings,
    include_stop: bool,
    /// Control tokens that are shown, and what decodes the text.
    keep: Vec<u32>,
    tokenizer: Tokenizer,
    /// Tokens whose text is not certain yet.
    waiting: Vec<Token>,
    count: usize,
    done: bool,
}

impl Choice {
    /// Nothing yet of the answer to a prompt.
    pub fn new(tokenizer: &Tokenizer, prompt: &[u32], rules: &TextRules) -> Choice {
        Choice {
            detokenizer: Detokenizer::after(tokenizer.clone(), prompt, rules.skip_special),
            stops: rules.stop.clone(),
            include_stop: rules.include_stop,
            keep: if rules.skip_special { rules.keep.clone() } else { Vec::new() },
            tokenizer: tokenizer.clone(),
            waiting: Vec::new(),
            count: 0,
            done: false,
        }
    }

    /// Whether it is complete: the engine may still go on for the sake of others.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Nothing more of it is wanted.
    pub fn close(&mut self) {
        self.done = true;
    }

    /// Its tokens so far.
    pub fn tokens(&self) -> usize {
        self.count
    }

    /// Takes a token; gives a piece if text became certain.
    pub fn push(&mut self, id: u32, logprobs: Option<TokenLogprobs>) -> Result<Option<Piece>> {
        if self.done {
            return Ok(None);
        }
        self.count += 1;
        self.waiting.push(Token { id, logprobs });
        let text = match self.keep.contains(&id) {
            false => self.detokenizer.push(id)?.unwrap_or_default(),
            true => self.detokenizer.finish()? + &self.tokenizer.id_to_token(id).unwrap_or_default(),
        };
        let (text, stop) = self.until_stop(&text);
        let end = stop.is_some().then_some(FinishReason::Stop);
        Ok(self.piece(text, end, stop))
    }

    /// The engine's end: what was held back is certain.
    pub fn end(&mut self, reason: FinishReason) -> Result<Option<Piece>> {
        if self.done {
            return Ok(None);
        }
        let rest = self.detokenizer.finish()?;
        let (mut text, stop) = self.until_stop(&rest);
        if stop.is_none() {
            text.push_str(&self.stops.finish());
        }
        let reason = if stop.is_some() { FinishReason::Stop } else { reason };
        Ok(self.piece(text, Some(reason), stop))
    }

    fn until_stop(&mut self, text: &str) -> (String, Option<String>) {
        match self.stops.push(text) {
            StopResult::Text(text) => (text, None),
            StopResult::Stopped { mut text, stop } => {
                let stop = self.stops.get(stop).unwrap_or_default();
                if self.include_stop {
                    text.push_str(stop);
                }
                (text, Some(stop.to_owned()))
            }
        }
    }

    fn piece(&mut self, text: String, end: Option<FinishReason>, stop: Option<String>) -> Option<Piece> {
        self.done = end.is_some();
        if text.is_empty() && end.is_none() {
            return None;
        }
        Some(Piece { text, tokens: std::mem::take(&mut self.waiting), end, stop })
    }
}
