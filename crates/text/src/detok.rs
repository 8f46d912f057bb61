//! Text out of a stream of token ids, as soon as it is certain.
//!
//! A token may end in the middle of a character, and some tokenizers decode a token differently at
//! the start of a text. So text is let out only when later tokens can no longer change it.

use crate::{Result, Tokenizer};

/// Tokens that wait for a complete character; longer than any character or byte run of use.
const PATIENCE: usize = 32;

/// Decodes one stream of ids piece by piece. All pieces joined are [`Tokenizer::decode`] of all ids.
#[derive(Debug, Clone)]
pub struct Detokenizer {
    tokenizer: Tokenizer,
    skip_special: bool,
    stream: Stream,
}

#[derive(Debug, Clone)]
enum Stream {
    /// Bytes of an unfinished character: for tokenizers that only join bytes.
    Bytes(Vec<u8>),
    /// The ids `..shown` are out, and stay as the surroundings of the others.
    Window { ids: Vec<u32>, shown: usize },
}

impl Detokenizer {
    /// For a text of its own, as the whole output of a chat.
    pub fn new(tokenizer: Tokenizer, skip_special: bool) -> Self {
        let stream = if tokenizer.joins_bytes() {
            Stream::Bytes(Vec::new())
        } else {
            Stream::Window { ids: Vec::new(), shown: 0 }
        };
        Self { tokenizer, skip_special, stream }
    }

    /// For the continuation of `prompt`: a space at the seam is kept where tokenizers would drop it
    /// at the start of a text.
    pub fn after(tokenizer: Tokenizer, prompt: &[u32], skip_special: bool) -> Self {
        let mut this = Self::new(tokenizer, skip_special);
        if let Stream::Window { ids, shown } = &mut this.stream {
            let tail = prompt.len().saturating_sub(PATIENCE);
            ids.extend(prompt[tail..].iter().filter(|&&id| !skip_special || !this.tokenizer.is_special(id)));
            *shown = ids.len();
        }
        this
    }

    /// Takes the next id; returns the text that became certain, if any.
    ///
    /// # Errors
    /// [`crate::TextError::Decode`] if the tokenizer's decoder fails.
    pub fn push(&mut self, id: u32) -> Result<Option<String>> {
        // A skipped token must not count as the surroundings of the next.
        if self.skip_special && self.tokenizer.is_special(id) {
            return Ok(None);
        }
        let text = match &mut self.stream {
            Stream::Bytes(bytes) => {
                bytes.extend(self.tokenizer.token_bytes(id));
                drain_complete(bytes)
            }
            Stream::Window { ids, .. } => {
                ids.push(id);
                self.advance(false)?
            }
        };
        Ok(Some(text).filter(|text| !text.is_empty()))
    }

    /// Ends the stream: the text that was still waiting.
    ///
    /// # Errors
    /// As [`Detokenizer::push`].
    pub fn finish(&mut self) -> Result<String> {
        match &mut self.stream {
            Stream::Bytes(bytes) => Ok(String::from_utf8_lossy(&std::mem::take(bytes)).into_owned()),
            Stream::Window { .. } => self.advance(true),
        }
    }

    /// The text of the ids that are not out yet, if it is complete or `force` is set.
    fn advance(&mut self, force: bool) -> Result<String> {
        let Stream::Window { ids, shown } = &mut self.stream else {
            return Ok(String::new());
        };
        let before = self.tokenizer.decode(&ids[..*shown], self.skip_special)?;
        let now = self.tokenizer.decode(ids, self.skip_special)?;
        let waits = now.ends_with('\u{FFFD}') && ids.len() - *shown < PATIENCE;
        if !force && (waits || now.len() <= before.len()) {
            if ids.len() - *shown >= PATIENCE {
                // They decode to nothing, as ids without a spelling do: nobody's surroundings, and kept they would be
                // decoded again with each that follows.
                ids.truncate(*shown);
            }
            return Ok(String::new());
        }
        // Bytes that turn out not to be a character can change text that is out: go on behind it.
        let at = if now.starts_with(&before) { before.len() } else { floor_boundary(&now, before.len()) };
        let text = now[at..].to_owned();
        ids.drain(..*shown);
        *shown = ids.len();
        Ok(text)
    }
}

/// Takes the complete characters from the front of `bytes`; what cannot be one becomes U+FFFD.
fn drain_complete(bytes: &mut Vec<u8>) -> String {
    let mut text = String::new();
    let mut done = 0;
    while done < bytes.len() {
        match std::str::from_utf8(&bytes[done..]) {
            Ok(rest) => {
                text.push_str(rest);
                done = bytes.len();
            }
            Err(error) => {
                let valid = done + error.valid_up_to();
                text.push_str(&String::from_utf8_lossy(&bytes[done..valid]));
                done = valid;
                let Some(bad) = error.error_len() else { break };
                text.push('\u{FFFD}');
                done += bad;
            }
        }
    }
    bytes.drain(..done);
    text
}

/// The last character boundary of `text` that is not after `at`.
fn floor_boundary(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn draining_in_pieces_is_lossy_decoding(bytes in prop::collection::vec(any::<u8>(), 0..40), step in 1usize..5) {
            let mut held = Vec::new();
            let mut text = String::new();
            for piece in bytes.chunks(step) {
                held.extend_from_slice(piece);
                text.push_str(&drain_complete(&mut held));
                prop_assert!(held.len() < 4);
            }
            text.push_str(&String::from_utf8_lossy(&held));
            prop_assert_eq!(text, String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn a_character_comes_out_with_its_last_byte() {
        let mut held = "€".as_bytes()[..2].to_vec();
        assert_eq!(drain_complete(&mut held), "");
        held.push("€".as_bytes()[2]);
        assert_eq!(drain_complete(&mut held), "€");
        assert!(held.is_empty());
    }

    #[test]
    fn ids_that_decode_to_nothing_do_not_pile_up() {
        let json = r#"{"version":"1.0","truncation":null,"padding":null,"added_tokens":[],"normalizer":null,
            "pre_tokenizer":null,"post_processor":null,"decoder":{"type":"Fuse"},
            "model":{"type":"WordLevel","vocab":{"a":0,"b":1},"unk_token":"a"}}"#;
        let mut stream = Detokenizer::new(Tokenizer::from_json(json.as_bytes()).unwrap(), false);
        let mut text = String::new();
        for id in [0].into_iter().chain(std::iter::repeat_n(7, 1000)).chain([1]) {
            text += &stream.push(id).unwrap().unwrap_or_default();
            let Stream::Window { ids, .. } = &stream.stream else { panic!("it only joins bytes") };
            assert!(ids.len() <= 2 * PATIENCE, "{} ids", ids.len());
        }
        assert_eq!(text + &stream.finish().unwrap(), "ab");
    }
}
