//! Log-probabilities as the two APIs tell them. The same float is told wherever a token occurs, unrounded.
use crate::error::Result;
use crate::piece::Token;
use crate::wire::Floats;
use crate::wire::chat::{ChatLogprobs, TokenLogprob, TopLogprob};
use crate::wire::completions::CompletionLogprobs;
use planish_engine::TokenLogprobs;
use planish_text::{Detokenizer, Tokenizer};
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
#[derive(Clone, Debug)]
pub struct Ledger {
    /// Characters so far.
    offset: usize,
    /// As the answer's text is made: what a token adds depends on those before it.
    detokenizer: Detokenizer,
}

/// Tokens with what is known of them.
pub type Known<'a> = (u32, Option<&'a TokenLogprobs>);

impl Ledger {
    /// Of an answer whose text is made so.
    pub fn new(detokenizer: Detokenizer) -> Ledger {
        Ledger { offset: 0, detokenizer }
    }

    /// The prompt, which is given back as this text before the answer.
    pub fn quote<'a>(
        &mut self,
        tokenizer: &Tokenizer,
        text: &str,
        tokens: impl Iterator<Item = Known<'a>>,
        out: &mut CompletionLogprobs,
    ) -> Result<()> {
        let mut detokenizer = Detokenizer::new(tokenizer.clone(), false);
        let (mut offset, mut begun) = (0, false);
        for (id, known) in tokens {
            note(tokenizer, id, known, offset, out);
            // What the model expects before a text is no part of it, unless it is spelled there.
            let spelled = |id| tokenizer.id_to_token(id).is_some_and(|name| text.starts_with(&name));
            begun |= !tokenizer.is_special(id) || spelled(id);
            if begun {
                offset += characters(detokenizer.push(id)?);
            }
        }
        self.offset = text.chars().count();
        Ok(())
    }

    /// More tokens of the answer; those without log-probabilities have none to tell.
    pub fn write<'a>(
        &mut self,
        tokenizer: &Tokenizer,
        tokens: impl Iterator<Item = Known<'a>>,
        out: &mut CompletionLogprobs,
    ) -> Result<()> {
        for (id, known) in tokens {
            note(tokenizer, id, known, self.offset, out);
            self.offset += characters(self.detokenizer.push(id)?);
        }
        Ok(())
    }
}

fn characters(text: Option<String>) -> usize {
    text.map_or(0, |text| text.chars().count())
}

fn note(tokenizer: &Tokenizer, id: u32, known: Option<&TokenLogprobs>, offset: usize, out: &mut CompletionLogprobs) {
    out.text_offset.push(offset);
    out.token_logprobs.push(known.map(|l| Floats::logprob(l.chosen)));
    out.top_logprobs.push(known.map(|l| top(tokenizer, id, l)));
    out.tokens.push(spell(tokenizer, id));
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

#[cfg(test)]
mod tests {
    use super::*;
    use planish_text::SpecialText;

    /// As SentencePiece writes: a mark for a space, one put before the text, bytes for what has no piece.
    fn tokenizer() -> Tokenizer {
        let bytes: String = (0..256).map(|byte| format!(",\"<0x{byte:02X}>\":{}", byte + 6)).collect();
        let json = format!(
            r#"{{"version":"1.0","truncation":null,"padding":null,"pre_tokenizer":null,"post_processor":null,
            "added_tokens":[{{"id":1,"content":"<s>","special":true,"single_word":false,"lstrip":false,"rstrip":false,
                "normalized":false}}],
            "normalizer":{{"type":"Sequence","normalizers":[{{"type":"Prepend","prepend":"▁"}},
                {{"type":"Replace","pattern":{{"String":" "}},"content":"▁"}}]}},
            "decoder":{{"type":"Sequence","decoders":[{{"type":"Replace","pattern":{{"String":"▁"}},"content":" "}},
                {{"type":"ByteFallback"}},{{"type":"Fuse"}},{{"type":"Strip","content":" ","start":1,"stop":0}}]}},
            "model":{{"type":"BPE","dropout":null,"unk_token":"<unk>","continuing_subword_prefix":null,
                "end_of_word_suffix":null,"fuse_unk":true,"byte_fallback":true,"merges":["▁ a"],
                "vocab":{{"<unk>":0,"<s>":1,"▁":2,"a":3,"▁a":4,"b":5{bytes}}}}}}}"#
        );
        Tokenizer::from_json(json.as_bytes()).unwrap()
    }

    #[test]
    fn offsets_are_those_of_the_text() {
        let tokenizer = tokenizer();
        let offsets = |ids: &[u32], text: &str| {
            let mut out = CompletionLogprobs::default();
            let mut ledger = Ledger::new(Detokenizer::after(tokenizer.clone(), ids, true));
            ledger.quote(&tokenizer, text, ids.iter().map(|&id| (id, None)), &mut out).unwrap();
            let answer = tokenizer.encode("é a", SpecialText::Plain).unwrap();
            ledger.write(&tokenizer, answer.iter().map(|&id| (id, None)), &mut out).unwrap();
            out.text_offset
        };
        let ids = tokenizer.encode("a é a", SpecialText::Plain).unwrap();
        // ▁a ▁ two bytes ▁a, and the answer's ▁ two bytes ▁a behind them: its first space is part of the text.
        assert_eq!(ids.len(), 5);
        assert_eq!(offsets(&ids, "a é a"), [0, 1, 2, 2, 3, 5, 6, 6, 7]);
        // A beginning that the text does not show takes no room, one that it shows does.
        let begun = [&[1], &ids[..]].concat();
        assert_eq!(offsets(&begun, "a é a"), [0, 0, 1, 2, 2, 3, 5, 6, 6, 7]);
        let shown = tokenizer.decode(&begun, false).unwrap();
        assert_eq!(offsets(&begun, &shown)[..2], [0, 3]);
    }
}
