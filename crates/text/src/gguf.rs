//! A tokenizer from the vocabulary of a GGUF file: the `tokenizer.json` that its model would have.
//!
//! Two kinds exist: `gpt2` (byte-level BPE, its pre-tokenizer named by `tokenizer.ggml.pre`) and
//! `llama` (SentencePiece BPE, whose merges follow from the scores of the pieces).

use std::collections::HashMap;

use serde_json::{Value, json};

use crate::{Result, TextError};

/// `tokenizer.ggml.*` of a GGUF file, as read.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GgufVocab {
    /// `tokenizer.ggml.model`: `gpt2` or `llama`.
    pub model: String,
    /// `tokenizer.ggml.pre`; empty where the file has none. Used by `gpt2` only.
    pub pre: String,
    /// `tokenizer.ggml.tokens`: the text of each id.
    pub tokens: Vec<String>,
    /// `tokenizer.ggml.token_type` per id: 1 normal, 2 unknown, 3 control, 4 user-defined,
    /// 5 unused, 6 byte. Empty means all normal.
    pub token_types: Vec<i32>,
    /// `tokenizer.ggml.merges`: `left right`, best first. Needed by `gpt2`.
    pub merges: Vec<String>,
    /// `tokenizer.ggml.scores` per id. Needed by `llama` unless it has merges.
    pub scores: Vec<f32>,
    /// `tokenizer.ggml.bos_token_id`.
    pub bos: Option<u32>,
    /// `tokenizer.ggml.eos_token_id`.
    pub eos: Option<u32>,
    /// `tokenizer.ggml.unknown_token_id`.
    pub unk: Option<u32>,
    /// `tokenizer.ggml.add_bos_token`; without it `llama` and llama-bpe add one, the others do not.
    pub add_bos: Option<bool>,
    /// `tokenizer.ggml.add_eos_token`; false without it.
    pub add_eos: Option<bool>,
    /// `tokenizer.ggml.add_space_prefix`; true without it. Used by `llama` only.
    pub add_space_prefix: Option<bool>,
}

const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

const LLAMA3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN2: &str =
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// A named pre-tokenizer with the settings that go with it.
struct Pre {
    names: &'static [&'static str],
    /// Cuts the text before the byte-level step; none means GPT-2's own pattern.
    cut: Cut,
    normalizer: Option<&'static str>,
    ignore_merges: bool,
    add_bos: bool,
}

enum Cut {
    Gpt2,
    DigitsThenGpt2,
    Pattern(&'static str),
}

/// The pre-tokenizers that are known. Help and errors list these.
const PRES: &[Pre] = &[
    Pre { names: &["gpt-2", "default", ""], cut: Cut::Gpt2, normalizer: None, ignore_merges: false, add_bos: false },
    Pre {
        names: &["smollm", "starcoder", "refact"],
        cut: Cut::DigitsThenGpt2,
        normalizer: None,
        ignore_merges: false,
        add_bos: false,
    },
    Pre {
        names: &["llama-bpe", "llama3", "llama-v3"],
        cut: Cut::Pattern(LLAMA3),
        normalizer: None,
        ignore_merges: true,
        add_bos: true,
    },
    Pre {
        names: &["qwen2", "deepseek-r1-qwen"],
        cut: Cut::Pattern(QWEN2),
        normalizer: Some("NFC"),
        ignore_merges: false,
        add_bos: false,
    },
];

/// The `tokenizer.json` of a GGUF vocabulary.
pub fn to_json(vocab: &GgufVocab) -> Result<Value> {
    check(vocab)?;
    match vocab.model.as_str() {
        "gpt2" => byte_level(vocab),
        "llama" => sentence_piece(vocab),
        other => Err(wrong("tokenizer.ggml.model", "gpt2 or llama", format!("{other:?}"))),
    }
}

fn byte_level(vocab: &GgufVocab) -> Result<Value> {
    let pre = PRES.iter().find(|pre| pre.names.contains(&vocab.pre.as_str())).ok_or_else(|| {
        let known: Vec<&str> = PRES.iter().flat_map(|pre| pre.names).copied().filter(|name| !name.is_empty()).collect();
        wrong("tokenizer.ggml.pre", format!("one of {}", known.join(", ")), format!("{:?}", vocab.pre))
    })?;
    if vocab.merges.is_empty() {
        return Err(wrong("tokenizer.ggml.merges", "a list of merges for model gpt2", "none"));
    }
    let bytes =
        |regex: bool| json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": regex});
    let sequence = |first: Value, regex: bool| json!({"type": "Sequence", "pretokenizers": [first, bytes(regex)]});
    let pre_tokenizer = match pre.cut {
        Cut::Gpt2 => bytes(true),
        Cut::DigitsThenGpt2 => sequence(json!({"type": "Digits", "individual_digits": true}), true),
        Cut::Pattern(regex) => sequence(
            json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false}),
            false,
        ),
    };
    let merges = vocab.merges.iter().map(|merge| json!(merge)).collect();
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added_tokens(vocab),
        "normalizer": pre.normalizer.map(|kind| json!({"type": kind})),
        "pre_tokenizer": pre_tokenizer,
        "post_processor": post_processor(vocab, pre.add_bos)?,
        "decoder": bytes(true),
        "model": bpe(vocab, merges, pre.ignore_merges, None),
    }))
}

fn sentence_piece(vocab: &GgufVocab) -> Result<Value> {
    let merges = if vocab.merges.is_empty() {
        merges_of_scores(vocab)?
    } else {
        vocab.merges.iter().map(|merge| json!(merge)).collect()
    };
    let unk = vocab.unk.unwrap_or(0);
    let unk = vocab.tokens.get(unk as usize).map(String::as_str);
    let prefix = vocab.add_space_prefix.unwrap_or(true);
    let to_mark = json!({"type": "Replace", "pattern": {"String": " "}, "content": "▁"});
    let to_space = json!({"type": "Replace", "pattern": {"String": "▁"}, "content": " "});
    let mut decoders = vec![to_space, json!({"type": "ByteFallback"}), json!({"type": "Fuse"})];
    let mut normalizers = vec![to_mark];
    if prefix {
        normalizers.insert(0, json!({"type": "Prepend", "prepend": "▁"}));
        decoders.push(json!({"type": "Strip", "content": " ", "start": 1, "stop": 0}));
    }
    Ok(json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added_tokens(vocab),
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": null,
        "post_processor": post_processor(vocab, true)?,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": bpe(vocab, merges, false, unk),
    }))
}

/// SentencePiece stores no merges: a piece may be made of any two pieces, and the better the
/// piece's score, the earlier. Ties keep the order of the ids, longer left parts first.
fn merges_of_scores(vocab: &GgufVocab) -> Result<Vec<Value>> {
    if vocab.scores.len() != vocab.tokens.len() {
        let expected = format!("{} scores, one a token", vocab.tokens.len());
        return Err(wrong("tokenizer.ggml.scores", expected, vocab.scores.len().to_string()));
    }
    let plain = |id: &usize| !matches!(vocab.token_types.get(*id), Some(2 | 3 | 4 | 6));
    let ids: HashMap<&str, usize> =
        (0..vocab.tokens.len()).filter(plain).map(|id| (vocab.tokens[id].as_str(), id)).collect();
    let mut merges: Vec<(f32, usize, usize, &str, &str)> = Vec::new();
    for id in (0..vocab.tokens.len()).filter(plain) {
        let token = vocab.tokens[id].as_str();
        let mut pairs: Vec<(usize, usize, &str, &str)> = Vec::new();
        for (at, _) in token.char_indices().skip(1) {
            let (left, right) = token.split_at(at);
            if let (Some(&l), Some(&r)) = (ids.get(left), ids.get(right)) {
                pairs.push((l, r, left, right));
            }
        }
        pairs.sort_by_key(|&(l, r, ..)| (l, r));
        merges.extend(
            pairs.into_iter().map(|(_, _, left, right)| {
                (vocab.scores[id], left.chars().count(), right.chars().count(), left, right)
            }),
        );
    }
    merges.sort_by(|a, b| b.0.total_cmp(&a.0).then(b.1.cmp(&a.1)).then(b.2.cmp(&a.2)));
    Ok(merges.into_iter().map(|(.., left, right)| json!([left, right])).collect())
}

fn bpe(vocab: &GgufVocab, merges: Vec<Value>, ignore_merges: bool, unk: Option<&str>) -> Value {
    let pieces: serde_json::Map<String, Value> =
        vocab.tokens.iter().enumerate().map(|(id, token)| (token.clone(), json!(id))).collect();
    json!({
        "type": "BPE", "dropout": null, "unk_token": unk, "continuing_subword_prefix": null,
        "end_of_word_suffix": null, "fuse_unk": unk.is_some(), "byte_fallback": unk.is_some(),
        "ignore_merges": ignore_merges, "vocab": pieces, "merges": merges,
    })
}

fn added_tokens(vocab: &GgufVocab) -> Vec<Value> {
    let is_added = |id: &usize| match vocab.token_types.get(*id) {
        Some(&kind) => kind == CONTROL || kind == USER_DEFINED,
        None => false,
    };
    (0..vocab.tokens.len())
        .filter(is_added)
        .map(|id| {
            json!({
                "id": id, "content": vocab.tokens[id], "single_word": false, "lstrip": false,
                "rstrip": false, "normalized": false, "special": vocab.token_types[id] == CONTROL,
            })
        })
        .collect()
}

/// Puts the begin and end tokens around a text, where the file asks for them.
fn post_processor(vocab: &GgufVocab, bos_default: bool) -> Result<Value> {
    let bos = vocab.bos.filter(|_| vocab.add_bos.unwrap_or(bos_default));
    let eos = vocab.eos.filter(|_| vocab.add_eos.unwrap_or(false));
    if bos.is_none() && eos.is_none() {
        return Ok(Value::Null);
    }
    let mut specials = serde_json::Map::new();
    let mut part = |id: Option<u32>, type_id: u32| -> Vec<Value> {
        id.map(|id| {
            let token = &vocab.tokens[id as usize];
            specials.insert(token.clone(), json!({"id": token, "ids": [id], "tokens": [token]}));
            json!({"SpecialToken": {"id": token, "type_id": type_id}})
        })
        .into_iter()
        .collect()
    };
    let mut around = |name: &str, type_id: u32| {
        let text = json!({"Sequence": {"id": name, "type_id": type_id}});
        [part(bos, type_id), vec![text], part(eos, type_id)].concat()
    };
    let single = around("A", 0);
    let pair = [single.clone(), around("B", 1)].concat();
    Ok(json!({"type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": specials}))
}

fn check(vocab: &GgufVocab) -> Result<()> {
    let count = vocab.tokens.len();
    if count == 0 || count > u32::MAX as usize {
        return Err(wrong("tokenizer.ggml.tokens", "1 to 2^32-1 tokens", count.to_string()));
    }
    if !vocab.token_types.is_empty() && vocab.token_types.len() != count {
        let found = vocab.token_types.len().to_string();
        return Err(wrong("tokenizer.ggml.token_type", format!("{count} types, one a token"), found));
    }
    let ids = [
        ("tokenizer.ggml.bos_token_id", vocab.bos),
        ("tokenizer.ggml.eos_token_id", vocab.eos),
        ("tokenizer.ggml.unknown_token_id", vocab.unk),
    ];
    for (field, id) in ids {
        if let Some(id) = id.filter(|&id| id as usize >= count) {
            return Err(wrong(field, format!("an id below {count}"), id.to_string()));
        }
    }
    let mut seen = HashMap::with_capacity(count);
    for (id, token) in vocab.tokens.iter().enumerate() {
        if let Some(first) = seen.insert(token.as_str(), id) {
            let found = format!("{token:?} at {first} and {id}");
            return Err(wrong("tokenizer.ggml.tokens", "different tokens", found));
        }
    }
    Ok(())
}

fn wrong(field: &'static str, expected: impl Into<String>, found: impl Into<String>) -> TextError {
    TextError::Gguf { field, expected: expected.into(), found: found.into() }
}
