//! Text to token ids and back, exactly as the model's own `tokenizer.json` says.

use std::collections::HashSet;
use std::sync::Arc;

use tokenizers::DecoderWrapper;

use crate::chat::RenderedChat;
use crate::gguf::{self, GgufVocab};
use crate::{Result, TextError};

/// What becomes of the text of a special token, such as `<|im_end|>`, inside the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SpecialText {
    /// It becomes the special token, as in Hugging Face's tokenizers.
    Recognised,
    /// It is encoded as ordinary text: for text that comes from a user.
    Plain,
}

/// A tokenizer. Cheap to clone; usable from many threads.
#[derive(Clone)]
pub struct Tokenizer {
    parts: Arc<Parts>,
}

struct Parts {
    inner: tokenizers::Tokenizer,
    special_ids: HashSet<u32>,
    spelling: Spelling,
    vocab_size: usize,
}

/// How the text of a vocabulary entry spells bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spelling {
    /// Each character is one byte (GPT-2's alphabet).
    ByteLevel,
    /// Plain text; `▁` is a space and `<0x0A>` a byte where the flags say so.
    Text { mark_is_space: bool, byte_tokens: bool },
}

impl Tokenizer {
    /// Reads the bytes of a `tokenizer.json`. Truncation and padding in it are ignored.
    ///
    /// # Errors
    /// [`TextError::TokenizerJson`] if it does not describe a tokenizer.
    pub fn from_json(bytes: &[u8]) -> Result<Self> {
        let bad = |reason: String| TextError::TokenizerJson(reason);
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| bad(error.to_string()))?;
        inner.with_truncation(None).map_err(|error| bad(error.to_string()))?;
        inner.with_padding(None);
        let added = inner.get_added_tokens_decoder();
        let special_ids = added.iter().filter(|(_, token)| token.special).map(|(&id, _)| id).collect();
        let last = inner.get_vocab(true).into_values().max();
        let vocab_size = last.map_or(0, |id| id as usize + 1);
        let spelling = spelling(inner.get_decoder());
        Ok(Self { parts: Arc::new(Parts { inner, special_ids, spelling, vocab_size }) })
    }

    /// Builds the tokenizer that a GGUF file's vocabulary describes.
    ///
    /// # Errors
    /// [`TextError::Gguf`] if a field contradicts another or names a kind that is not known,
    /// [`TextError::TokenizerJson`] if the merges do not fit the tokens.
    pub fn from_gguf_vocab(vocab: GgufVocab) -> Result<Self> {
        Self::from_json(gguf::to_json(&vocab)?.to_string().as_bytes())
    }

    /// The ids of `text`; nothing is added.
    ///
    /// # Errors
    /// [`TextError::Encode`] if the tokenizer fails, as on a character that it has no way to spell.
    pub fn encode(&self, text: &str, special: SpecialText) -> Result<Vec<u32>> {
        let plain = match special {
            SpecialText::Recognised => Vec::new(),
            SpecialText::Plain => self.special_spans(text),
        };
        self.encode_with_plain(text, &plain)
    }

    /// The ids of `text` with the tokens that the model puts around a text (BOS, EOS).
    /// Special-token text is recognised.
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_with_special(&self, text: &str) -> Result<Vec<u32>> {
        self.encode_whole(text, true)
    }

    /// The ids of a rendered conversation: the template's special tokens are recognised, those
    /// that users wrote are encoded as the text they are. Without such text it equals [`Tokenizer::encode`].
    ///
    /// # Errors
    /// As [`Tokenizer::encode`].
    pub fn encode_chat(&self, chat: &RenderedChat) -> Result<Vec<u32>> {
        self.encode_with_plain(chat.text(), chat.plain())
    }

    /// The text of `ids`, without the special tokens if `skip_special`. Bytes that are not UTF-8
    /// become U+FFFD; ids outside the vocabulary are left out.
    ///
    /// # Errors
    /// [`TextError::Decode`] if the tokenizer's decoder fails.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> Result<String> {
        self.parts
            .inner
            .decode(ids, skip_special)
            .map_err(|error| TextError::Decode { tokens: ids.len(), reason: error.to_string() })
    }

    /// The id of a token, given as the vocabulary spells it.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.parts.inner.token_to_id(token)
    }

    /// The vocabulary's spelling of an id.
    pub fn id_to_token(&self, id: u32) -> Option<String> {
        self.parts.inner.id_to_token(id)
    }

    /// The bytes that an id stands for in the middle of a text; empty outside the vocabulary.
    /// They need not be UTF-8 by themselves.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        let Some(token) = self.parts.inner.id_to_token(id) else {
            return Vec::new();
        };
        match self.parts.spelling {
            Spelling::ByteLevel => token.chars().map(byte_of).collect::<Option<_>>().unwrap_or(token.into_bytes()),
            Spelling::Text { mark_is_space, byte_tokens } => {
                if let Some(byte) = byte_token(&token).filter(|_| byte_tokens) {
                    return vec![byte];
                }
                if mark_is_space && !self.is_special(id) {
                    token.replace('▁', " ").into_bytes()
                } else {
                    token.into_bytes()
                }
            }
        }
    }

    /// One more than the highest id. A model's logits may have more columns.
    pub fn vocab_size(&self) -> usize {
        self.parts.vocab_size
    }

    /// Whether `id` is a special (control) token.
    pub fn is_special(&self, id: u32) -> bool {
        self.parts.special_ids.contains(&id)
    }

    pub(crate) fn inner(&self) -> &tokenizers::Tokenizer {
        &self.parts.inner
    }

    /// Whether decoding is joining the bytes of the tokens, whatever is around them.
    pub(crate) fn joins_bytes(&self) -> bool {
        self.parts.spelling == Spelling::ByteLevel
    }

    /// The tokenizer's own encoding.
    pub(crate) fn encode_whole(&self, text: &str, add_special: bool) -> Result<Vec<u32>> {
        let encoding = self.parts.inner.encode_fast(text, add_special);
        let failed = |error: tokenizers::Error| TextError::Encode { bytes: text.len(), reason: error.to_string() };
        Ok(encoding.map_err(failed)?.get_ids().to_vec())
    }
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("vocab_size", &self.vocab_size()).finish_non_exhaustive()
    }
}

fn spelling(decoder: Option<&DecoderWrapper>) -> Spelling {
    if matches!(decoder, Some(DecoderWrapper::ByteLevel(_))) {
        return Spelling::ByteLevel;
    }
    let described = serde_json::to_string(&decoder).unwrap_or_default();
    Spelling::Text { mark_is_space: described.contains('▁'), byte_tokens: described.contains("ByteFallback") }
}

/// The byte of a token such as `<0x0A>`.
fn byte_token(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

/// The byte that a character of GPT-2's alphabet stands for: visible Latin-1 characters are
/// themselves, the other 68 bytes follow in order from U+0100.
fn byte_of(character: char) -> Option<u8> {
    match character as u32 {
        code @ (0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF) => Some(code as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7F) as u8),
        0x143 => Some(0xAD),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_byte_alphabet_has_each_byte_once() {
        let mut bytes: Vec<u8> = (0..0x200u32).filter_map(char::from_u32).filter_map(byte_of).collect();
        bytes.sort_unstable();
        assert_eq!(bytes, (0..=255).collect::<Vec<u8>>());
        assert_eq!(
            [byte_of('Ġ'), byte_of('Ċ'), byte_of('ŀ'), byte_of('x')],
            [Some(b' '), Some(b'\n'), Some(0x9E), Some(b'x')]
        );
    }

    #[test]
    fn byte_tokens_are_exactly_two_digits() {
        assert_eq!(byte_token("<0x0A>"), Some(10));
        assert_eq!(byte_token("<0x0A0>"), None);
        assert_eq!(byte_token("<0xZZ>"), None);
        assert_eq!(byte_token("a"), None);
    }
}
