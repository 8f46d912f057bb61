//! Marks that stand for special-token text while a template runs.
//!
//! Text from users may spell special tokens. Before rendering, each such spelling is replaced by a
//! private-use character that occurs nowhere else; after rendering it is put back, and where it
//! came out is remembered as plain text. Templates may trim, split and test the text as usual.

use std::collections::{HashMap, HashSet};
use std::ops::Range;

use serde_json::Value;

use crate::{Result, TextError, Tokenizer};

/// The mark of each special-token text that occurs.
pub(crate) struct Marks {
    free: Vec<char>,
    by_text: HashMap<String, char>,
    by_mark: HashMap<char, String>,
}

/// Supplementary private use area B, less the character that encoding itself uses.
const AREA: Range<u32> = 0x10_0000..0x10_FFFD;

impl Marks {
    /// Marks that do not occur in any of `texts`.
    pub(crate) fn avoiding<'a>(texts: impl IntoIterator<Item = &'a str>) -> Self {
        let taken: HashSet<char> =
            texts.into_iter().flat_map(str::chars).filter(|&c| AREA.contains(&(c as u32))).collect();
        let free = AREA.rev().filter_map(char::from_u32).filter(|c| !taken.contains(c)).collect();
        Self { free, by_text: HashMap::new(), by_mark: HashMap::new() }
    }

    /// Marks the special tokens in all texts of `value`, names of fields too.
    pub(crate) fn mark(&mut self, value: &mut Value, tokenizer: &Tokenizer) -> Result<()> {
        match value {
            Value::String(text) => {
                if let Some(marked) = self.mark_text(text, tokenizer)? {
                    *text = marked;
                }
            }
            Value::Array(items) => {
                for item in items {
                    self.mark(item, tokenizer)?;
                }
            }
            Value::Object(fields) => {
                for (name, mut field) in std::mem::take(fields) {
                    self.mark(&mut field, tokenizer)?;
                    let marked = self.mark_text(&name, tokenizer)?;
                    fields.insert(marked.unwrap_or(name), field);
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Puts the texts back into what the template made; where they are now, as byte ranges.
    pub(crate) fn restore(&self, rendered: &str) -> (String, Vec<Range<usize>>) {
        let mut text = String::with_capacity(rendered.len());
        let mut plain = Vec::new();
        for c in rendered.chars() {
            match self.by_mark.get(&c) {
                Some(original) => {
                    plain.push(text.len()..text.len() + original.len());
                    text.push_str(original);
                }
                None => text.push(c),
            }
        }
        (text, plain)
    }

    fn mark_text(&mut self, text: &str, tokenizer: &Tokenizer) -> Result<Option<String>> {
        let spans = tokenizer.special_spans(text);
        if spans.is_empty() {
            return Ok(None);
        }
        let mut marked = String::with_capacity(text.len());
        let mut done = 0;
        for span in spans {
            marked.push_str(&text[done..span.start]);
            marked.push(self.of(&text[span.clone()])?);
            done = span.end;
        }
        marked.push_str(&text[done..]);
        Ok(Some(marked))
    }

    fn of(&mut self, special: &str) -> Result<char> {
        if let Some(&mark) = self.by_text.get(special) {
            return Ok(mark);
        }
        let mark = self.free.pop().ok_or_else(|| TextError::ChatInput {
            field: "messages".to_owned(),
            expected: "some private-use character that is not used",
            found: format!("all {} of them", AREA.len()),
        })?;
        self.by_text.insert(special.to_owned(), mark);
        self.by_mark.insert(mark, special.to_owned());
        Ok(mark)
    }
}

/// Whether any text in `value` spells a special token.
pub(crate) fn has_special(value: &Value, tokenizer: &Tokenizer) -> bool {
    let spells = |text: &str| !tokenizer.special_spans(text).is_empty();
    match value {
        Value::String(text) => spells(text),
        Value::Array(items) => items.iter().any(|item| has_special(item, tokenizer)),
        Value::Object(fields) => fields.iter().any(|(name, field)| spells(name) || has_special(field, tokenizer)),
        _ => false,
    }
}
