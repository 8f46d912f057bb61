//! The bytes of every token, side by side.
use crate::Tokenizer;

/// What each id of a tokenizer stands for in the middle of a text.
#[derive(Debug, Clone)]
pub struct TokenBytes {
    /// All tokens, one after the other.
    bytes: Vec<u8>,
    /// `[v + 1]` where each begins.
    starts: Vec<usize>,
    /// `[v]` whether it is a control token.
    special: Vec<bool>,
}

impl TokenBytes {
    /// The bytes of an id, which need not be UTF-8 by themselves; the spelling of a special token; empty for an id
    /// that is not in the vocabulary.
    pub fn bytes(&self, id: u32) -> &[u8] {
        let id = id as usize;
        match (self.starts.get(id), self.starts.get(id + 1)) {
            (Some(&start), Some(&end)) => &self.bytes[start..end],
            _ => &[],
        }
    }

    /// Whether `id` is a special (control) token, which is no text.
    pub fn is_special(&self, id: u32) -> bool {
        self.special.get(id as usize).copied().unwrap_or(false)
    }

    /// One more than the highest id.
    pub fn len(&self) -> usize {
        self.special.len()
    }

    /// Whether there are no tokens.
    pub fn is_empty(&self) -> bool {
        self.special.is_empty()
    }
}

impl Tokenizer {
    /// The bytes of every token ([`Tokenizer::token_bytes`] of each id, and which are special). A copy of the whole
    /// vocabulary: make it once.
    pub fn vocabulary(&self) -> TokenBytes {
        let ids = 0..self.vocab_size() as u32;
        let mut tokens = TokenBytes { bytes: Vec::new(), starts: vec![0], special: Vec::new() };
        for id in ids {
            tokens.bytes.extend(self.token_bytes(id));
            tokens.starts.push(tokens.bytes.len());
            tokens.special.push(self.is_special(id));
        }
        tokens
    }
}
