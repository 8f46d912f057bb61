//! A tokenizer from SentencePiece's own file, `tokenizer.model`, for models that come without `tokenizer.json`.
//!
//! The file is a protocol buffer (`sentencepiece_model.proto`); of it are read the pieces, the kind of model, the special
//! ids and how spaces are treated. `tokenizer_config.json` may rename pieces and add some.
use crate::gguf::{self, GgufVocab};
use crate::{Result, TextError};
use serde_json::{Value, json};

const NORMAL: i32 = 1;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;
/// `TrainerSpec.model_type`: byte-pair encoding.
const BPE: u64 = 2;

/// The `tokenizer.json` of a `tokenizer.model`; `config` is `tokenizer_config.json`, or an empty object.
///
/// # Errors
/// The bytes are no such file, its model is not BPE with byte fallback, it folds characters by a table, or the
/// configuration names ids that do not follow one another.
pub fn to_json(model: &[u8], config: &Value) -> Result<Value> {
    let mut file = read(model)?;
    rename(&mut file.vocab, config)?;
    let flag = |name: &str| config[name].as_bool();
    let vocab = &mut file.vocab;
    vocab.add_bos = Some(flag("add_bos_token").unwrap_or(true));
    vocab.add_eos = Some(flag("add_eos_token").unwrap_or(false));
    vocab.add_space_prefix = flag("add_prefix_space").or(vocab.add_space_prefix);
    let mut json = gguf::to_json(vocab)?;
    if file.joins_spaces {
        let tidy = [
            json!({"type": "Replace", "pattern": {"Regex": "^ +| +$"}, "content": ""}),
            json!({"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}),
        ];
        if let Some(list) = json["normalizer"]["normalizers"].as_array_mut() {
            list.splice(0..0, tidy);
        }
    }
    Ok(json)
}

struct File {
    vocab: GgufVocab,
    /// Spaces at the ends are taken off, others joined.
    joins_spaces: bool,
}

fn read(bytes: &[u8]) -> Result<File> {
    let mut vocab = GgufVocab { model: "llama".into(), ..GgufVocab::default() };
    let mut trainer = Trainer { kind: 1, byte_fallback: false, unk: 0, bos: 1, eos: 2 };
    let mut normalizer = Normalizer { folds: false, prefix: true, joins_spaces: true };
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Bytes(piece)) => {
                let (text, score, kind) = read_piece(piece, vocab.tokens.len())?;
                vocab.tokens.push(text);
                vocab.scores.push(score);
                vocab.token_types.push(kind);
            }
            (2, Wire::Bytes(spec)) => trainer.read(spec)?,
            (3, Wire::Bytes(spec)) => normalizer.read(spec)?,
            _ => {}
        }
    }
    if vocab.tokens.is_empty() {
        return Err(wrong("pieces", "at least one", "none"));
    }
    if trainer.kind != BPE {
        let found = ["nothing", "unigram", "bpe", "word", "char"].get(trainer.kind as usize).unwrap_or(&"another");
        return Err(wrong("trainer_spec.model_type", "bpe", *found));
    }
    if !trainer.byte_fallback {
        return Err(wrong("trainer_spec.byte_fallback", "true", "false"));
    }
    if normalizer.folds {
        return Err(wrong("normalizer_spec.precompiled_charsmap", "none (identity)", "a table of characters"));
    }
    let id = |id: i64| u32::try_from(id).ok();
    (vocab.unk, vocab.bos, vocab.eos) = (id(trainer.unk), id(trainer.bos), id(trainer.eos));
    vocab.add_space_prefix = Some(normalizer.prefix);
    Ok(File { vocab, joins_spaces: normalizer.joins_spaces })
}

fn read_piece(bytes: &[u8], id: usize) -> Result<(String, f32, i32)> {
    let (mut text, mut score, mut kind) = (None, 0.0, NORMAL);
    for field in Fields(bytes) {
        match field? {
            (1, Wire::Bytes(bytes)) => {
                let piece = std::str::from_utf8(bytes);
                text = Some(piece.map_err(|_| wrong("pieces", "UTF-8", format!("other bytes at id {id}")))?);
            }
            (2, Wire::Fixed32(bits)) => score = f32::from_bits(bits),
            (3, Wire::Varint(n)) => kind = n as i32,
            _ => {}
        }
    }
    let text = text.ok_or_else(|| wrong("pieces", "a text each", format!("none at id {id}")))?;
    Ok((text.to_owned(), score, kind))
}

struct Trainer {
    kind: u64,
    byte_fallback: bool,
    unk: i64,
    bos: i64,
    eos: i64,
}

impl Trainer {
    fn read(&mut self, bytes: &[u8]) -> Result<()> {
        for field in Fields(bytes) {
            if let (number, Wire::Varint(n)) = field? {
                match number {
                    3 => self.kind = n,
                    35 => self.byte_fallback = n != 0,
                    40 => self.unk = n as i64,
                    41 => self.bos = n as i64,
                    42 => self.eos = n as i64,
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

struct Normalizer {
    folds: bool,
    prefix: bool,
    joins_spaces: bool,
}

impl Normalizer {
    fn read(&mut self, bytes: &[u8]) -> Result<()> {
        for field in Fields(bytes) {
            match field? {
                (2, Wire::Bytes(table)) => self.folds = !table.is_empty(),
                (3, Wire::Varint(n)) => self.prefix = n != 0,
                (4, Wire::Varint(n)) => self.joins_spaces = n != 0,
                _ => {}
            }
        }
        Ok(())
    }
}

/// Applies `added_tokens_decoder` (id → token) and the ids of `bos_token` and `eos_token`.
fn rename(vocab: &mut GgufVocab, config: &Value) -> Result<()> {
    let mut added: Vec<(usize, &Value)> = Vec::new();
    for (id, token) in config["added_tokens_decoder"].as_object().into_iter().flatten() {
        let number = id.parse().map_err(|_| wrong("added_tokens_decoder", "ids as names", format!("{id:?}")))?;
        added.push((number, token));
    }
    added.sort_by_key(|(id, _)| *id);
    for (id, token) in added {
        let content = token["content"].as_str();
        let content = content.ok_or_else(|| wrong("added_tokens_decoder", "a content", format!("none at id {id}")))?;
        let kind = if token["special"].as_bool().unwrap_or(false) { CONTROL } else { USER_DEFINED };
        let count = vocab.tokens.len();
        match vocab.tokens.get_mut(id) {
            Some(there) => {
                *there = content.to_owned();
                vocab.token_types[id] = kind;
            }
            None if id == count => {
                vocab.tokens.push(content.to_owned());
                vocab.scores.push(0.0);
                vocab.token_types.push(kind);
            }
            None => {
                let expected = format!("ids up to {count}, one after the other");
                return Err(wrong("added_tokens_decoder", expected, id.to_string()));
            }
        }
    }
    let find = |name: &str| {
        let text = config[name].as_str().or_else(|| config[name]["content"].as_str())?;
        vocab.tokens.iter().position(|t| t == text).map(|id| id as u32)
    };
    (vocab.bos, vocab.eos) = (find("bos_token").or(vocab.bos), find("eos_token").or(vocab.eos));
    Ok(())
}

/// A value of a protocol buffer.
enum Wire<'a> {
    Varint(u64),
    Fixed32(u32),
    Bytes(&'a [u8]),
    Other,
}

/// The fields of a message in their order.
struct Fields<'a>(&'a [u8]);

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u64, Wire<'a>)>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let field = self.field();
        if field.is_none() {
            self.0 = &[];
        }
        Some(field.ok_or_else(|| wrong("protocol buffer", "whole fields", "bytes that end early or are none")))
    }
}

impl<'a> Fields<'a> {
    fn field(&mut self) -> Option<(u64, Wire<'a>)> {
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => self.take(8).map(|_| Wire::Other)?,
            2 => {
                let length = usize::try_from(self.varint()?).ok()?;
                Wire::Bytes(self.take(length)?)
            }
            5 => Wire::Fixed32(u32::from_le_bytes(self.take(4)?.try_into().ok()?)),
            _ => return None,
        };
        Some((tag >> 3, value))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn take(&mut self, n: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(taken)
    }
}

fn wrong(field: &'static str, expected: impl Into<String>, found: impl Into<String>) -> TextError {
    TextError::TokenizerModel { field, expected: expected.into(), found: found.into() }
}
