//! A model's words: its tokenizer and chat template, from the small files beside the weights.
use anyhow::{Context, Result};
use planish_checkpoint::gguf::GgufTokenizer;
use planish_text::{ChatTemplate, GgufVocab, Tokenizer};
use serde_json::{Value, json};
use std::path::Path;

/// Tokenizer and chat template.
#[derive(Clone)]
pub struct Words {
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// Conversations to text.
    pub chat: Option<ChatTemplate>,
    /// The template's source, empty without one.
    pub template: String,
    /// The tokenizer's own BOS.
    pub bos: Option<u32>,
    /// The tokenizer's own EOS.
    pub eos: Option<u32>,
}

/// Reads a model's tokenizer and template from its small files; `None` if it has no tokenizer.
pub(crate) fn read(companions: &[(String, Vec<u8>)], path: &Path) -> Result<Option<Words>> {
    let file = |name: &str| companions.iter().find(|c| c.0 == name).map(|c| c.1.as_slice());
    let Some(bytes) = file("tokenizer.json") else { return Ok(None) };
    let tokenizer = Tokenizer::from_json(bytes).with_context(|| path.join("tokenizer.json").display().to_string())?;
    let config: Value = match file("tokenizer_config.json") {
        Some(bytes) => serde_json::from_slice(bytes)
            .with_context(|| format!("{}: not JSON", path.join("tokenizer_config.json").display()))?,
        None => json!({}),
    };
    let source = match file("chat_template.jinja") {
        Some(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        None => template_text(&config["chat_template"]),
    };
    let special = ["bos_token", "eos_token", "unk_token", "pad_token"];
    let tokens = special.into_iter().filter_map(|name| Some((name, token_text(&config[name])?)));
    let chat = match &source {
        Some(source) => {
            Some(ChatTemplate::new(source, tokens).with_context(|| format!("{}: chat template", path.display()))?)
        }
        None => None,
    };
    let id = |name: &str| tokenizer.token_to_id(&token_text(&config[name])?);
    let (bos, eos) = (id("bos_token"), id("eos_token"));
    Ok(Some(Words { tokenizer, chat, template: source.unwrap_or_default(), bos, eos }))
}

/// A template as text, or the one named `default` of a list.
fn template_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(list) => {
            let default = list.iter().find(|t| t["name"] == "default")?;
            default["template"].as_str().map(str::to_owned)
        }
        _ => None,
    }
}

fn token_text(value: &Value) -> Option<String> {
    value.as_str().or_else(|| value["content"].as_str()).map(str::to_owned)
}

/// A GGUF file's tokenizer as the text crate takes it.
pub(crate) fn vocab(t: &GgufTokenizer) -> GgufVocab {
    GgufVocab {
        model: t.model.clone(),
        pre: t.pre.clone(),
        tokens: t.tokens.clone(),
        token_types: t.token_types.clone(),
        merges: t.merges.clone(),
        scores: t.scores.clone(),
        bos: t.bos_id,
        eos: t.eos_id,
        unk: t.unk_id,
        add_bos: t.add_bos,
        add_eos: None,
        add_space_prefix: t.add_space_prefix,
    }
}

/// What `tokenizer_config.json` would say about a GGUF file's tokenizer.
pub(crate) fn tokenizer_config(t: &GgufTokenizer) -> Value {
    let text = |id: Option<u32>| id.and_then(|id| t.tokens.get(id as usize)).cloned();
    let mut config = json!({"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": false});
    let fields = [
        ("bos_token", text(t.bos_id)),
        ("eos_token", text(t.eos_id)),
        ("unk_token", text(t.unk_id)),
        ("pad_token", text(t.pad_id)),
        ("chat_template", t.chat_template.clone()),
    ];
    for (name, value) in fields {
        if let Some(value) = value {
            config[name] = value.into();
        }
    }
    config
}
