//! Log-probabilities as the two APIs tell them. The same float is told wherever a token occurs, unrounded.
use crate::piece::Token;
use crate::wire::Floats;
use crate::wire::chat::{ChatLogprobs, TokenLogprob, TopLogprob};
use crate::wire::completions::CompletionLogprobs;
use planish_engine::TokenLogprobs;
use planish_text::Tokenizer;
use serde_json::{Map, Value, json};

/// Of a piece of a chat, if asked for.
pub fn chat(tokenizer: &Tokenizer, tokens: &[Token]) -> ChatLogprobs {
    let one = |token: &Token| {
        let known = token.logprobs.as_ref()?;
        let bytes = tokenizer.token_bytes(token.id);
        let top = |&(id, logprob): &(u32, f32)| {
            let bytes = tokenizer.token_bytes(id);
            TopLogprob { token: text(&bytes), logprob: Floats::logprob(logprob), bytes }
        };
        Some(TokenLogprob {
            token: text(&bytes),
            logprob: Floats::logprob(known.chosen),
            bytes,
            top_logprobs: known.top.iter().map(top).collect(),
        })
    };
    ChatLogprobs { content: tokens.iter().filter_map(one).collect(), refusal: None }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Side by side, as completions tell them; remembers how far the text has come.
#[derive(Clone, Debug, Default)]
pub struct Ledger {
    /// Characters so far.
    offset: usize,
}

impl Ledger {
    /// More tokens; those without log-probabilities have none to tell.
    pub fn write<'a>(
        &mut self,
        tokenizer: &Tokenizer,
        tokens: impl Iterator<Item = (u32, Option<&'a TokenLogprobs>)>,
    ) -> CompletionLogprobs {
        let mut out = CompletionLogprobs::default();
        for (id, known) in tokens {
            let name = spell(tokenizer, id);
            out.text_offset.push(self.offset);
            self.offset += text(&tokenizer.token_bytes(id)).chars().count();
            out.token_logprobs.push(known.map(|l| Floats::logprob(l.chosen)));
            out.top_logprobs.push(known.map(|l| top(tokenizer, id, l)));
            out.tokens.push(name);
        }
        out
    }
}

/// The likeliest by their spelling, and the chosen one if it is not among them.
fn top(tokenizer: &Tokenizer, chosen: u32, known: &TokenLogprobs) -> Map<String, Value> {
    let mut out = Map::new();
    let beyond = (!known.top.iter().any(|&(id, _)| id == chosen)).then_some((chosen, known.chosen));
    for (id, logprob) in known.top.iter().copied().chain(beyond) {
        let name = spell(tokenizer, id);
        // Two ids of one spelling stay two.
        let name = if out.contains_key(&name) { format!("token_id:{id}") } else { name };
        out.insert(name, json!(Floats::logprob(logprob)));
    }
    out
}

/// A token's text; bytes that are no text are spelled out, so that different tokens look different.
fn spell(tokenizer: &Tokenizer, id: u32) -> String {
    let bytes = tokenizer.token_bytes(id);
    match String::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let hex = error.as_bytes().iter().map(|byte| format!("\\x{byte:02x}"));
            format!("bytes:{}", hex.collect::<String>())
        }
    }
}
