//! The tokenizer as a GGUF stores it: raw lists, from which the text crate builds a tokenizer.
use super::error::{GgufError, Result};
use super::metadata::Metadata;
use super::value::GgufArray;

/// The `tokenizer.*` metadata. Lists that the file lacks are empty; ids are below `tokens.len()`.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufTokenizer {
    /// Kind of model: `gpt2` (byte-level BPE), `llama` (SentencePiece), ...
    pub model: String,
    /// Name of the pre-tokenizer, `default` when the file has none.
    pub pre: String,
    /// Token texts, by id.
    pub tokens: Vec<String>,
    /// Token kinds, by id, or empty: 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte.
    pub token_types: Vec<i32>,
    /// BPE merges, best first: two texts with a space between them.
    pub merges: Vec<String>,
    /// SentencePiece scores, by id, or empty.
    pub scores: Vec<f32>,
    /// Beginning of sequence.
    pub bos_id: Option<u32>,
    /// End of sequence.
    pub eos_id: Option<u32>,
    /// End of turn, where it is another token than `eos_id`.
    pub eot_id: Option<u32>,
    /// Unknown token.
    pub unk_id: Option<u32>,
    /// Padding.
    pub pad_id: Option<u32>,
    /// Whether encoding puts `bos_id` first; `None` leaves it to the kind of model.
    pub add_bos: Option<bool>,
    /// Whether SentencePiece puts a space first; `None` leaves it to the kind of model.
    pub add_space_prefix: Option<bool>,
    /// Jinja template of a conversation.
    pub chat_template: Option<String>,
}

impl GgufTokenizer {
    /// Reads the metadata.
    pub(super) fn read(meta: &Metadata) -> Result<GgufTokenizer> {
        let model = meta.text("tokenizer.ggml.model")?;
        let model = model.ok_or_else(|| missing("tokenizer.ggml.model", "the kind of tokenizer"))?.to_owned();
        let tokens = strings(meta, "tokenizer.ggml.tokens")?;
        if tokens.is_empty() {
            return Err(missing("tokenizer.ggml.tokens", "a list of at least one token"));
        }
        let v = tokens.len();
        let id = |name: &str| token_id(meta, &format!("tokenizer.ggml.{name}_token_id"), v);
        let eos_id = id("eos")?;
        Ok(GgufTokenizer {
            model,
            pre: meta.text("tokenizer.ggml.pre")?.unwrap_or("default").to_owned(),
            token_types: token_types(meta, v)?,
            merges: strings(meta, "tokenizer.ggml.merges")?,
            scores: scores(meta, v)?,
            bos_id: id("bos")?,
            eos_id,
            eot_id: id("eot")?.filter(|&eot| Some(eot) != eos_id),
            unk_id: id("unknown")?,
            pad_id: id("padding")?,
            add_bos: meta.flag("tokenizer.ggml.add_bos_token")?,
            add_space_prefix: meta.flag("tokenizer.ggml.add_space_prefix")?,
            chat_template: meta.text("tokenizer.chat_template")?.map(str::to_owned),
            tokens,
        })
    }
}

fn token_id(meta: &Metadata, key: &str, v: usize) -> Result<Option<u32>> {
    // -1 is how some converters write "none".
    if meta.get(key).is_some_and(|x| matches!(x, super::GgufValue::I32(-1))) {
        return Ok(None);
    }
    match meta.integer(key)? {
        Some(id) if id >= v as u64 => Err(GgufError::malformed(key, format!("a token id below {v}"), id)),
        Some(id) => Ok(u32::try_from(id).ok()),
        None => Ok(None),
    }
}

fn strings(meta: &Metadata, key: &str) -> Result<Vec<String>> {
    match meta.array(key)? {
        Some(GgufArray::String(list)) => Ok(list.clone()),
        Some(_) => Err(GgufError::malformed(key, "an array of strings", "an array of another type")),
        None => Ok(Vec::new()),
    }
}

fn token_types(meta: &Metadata, v: usize) -> Result<Vec<i32>> {
    let key = "tokenizer.ggml.token_type";
    match meta.array(key)? {
        Some(GgufArray::I32(list)) => one_per_token(key, list, v),
        Some(_) => Err(GgufError::malformed(key, "an array of i32", "an array of another type")),
        None => Ok(Vec::new()),
    }
}

fn scores(meta: &Metadata, v: usize) -> Result<Vec<f32>> {
    let key = "tokenizer.ggml.scores";
    match meta.array(key)? {
        Some(GgufArray::F32(list)) => one_per_token(key, list, v),
        Some(_) => Err(GgufError::malformed(key, "an array of f32", "an array of another type")),
        None => Ok(Vec::new()),
    }
}

fn one_per_token<T: Clone>(key: &str, list: &[T], v: usize) -> Result<Vec<T>> {
    if list.len() != v {
        return Err(GgufError::malformed(key, format!("{v} entries, one per token"), list.len()));
    }
    Ok(list.to_vec())
}

fn missing(key: &str, expected: &'static str) -> GgufError {
    GgufError::MissingKey { key: key.to_owned(), expected }
}
