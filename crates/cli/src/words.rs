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
    let config: Value = match file("tokenizer_config.json") {
        Some(bytes) => serde_json::from_slice(bytes)
            .with_context(|| format!("{}: not JSON", path.join("tokenizer_config.json").display()))?,
        None => json!({}),
    };
    let Some(tokenizer) = tokenizer(&file, &config, path)? else { return Ok(None) };
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

/// The tokenizer of `tokenizer.json`, else that of SentencePiece's own file.
fn tokenizer<'a>(file: &impl Fn(&str) -> Option<&'a [u8]>, config: &Value, path: &Path) -> Result<Option<Tokenizer>> {
    let place = |name: &str| path.join(name).display().to_string();
    if let Some(bytes) = file("tokenizer.json") {
        return Ok(Some(Tokenizer::from_json(bytes).with_context(|| place("tokenizer.json"))?));
    }
    let Some(bytes) = file("tokenizer.model") else { return Ok(None) };
    let json = planish_text::sentencepiece::to_json(bytes, config).with_context(|| place("tokenizer.model"))?;
    let tokenizer = Tokenizer::from_json(json.to_string().as_bytes()).with_context(|| place("tokenizer.model"))?;
    Ok(Some(tokenizer))
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

#[cfg(test)]
mod tests {
    use super::*;
    use planish_text::{ChatInput, SpecialText};

    /// A folder as InternLM2's: SentencePiece's file, and the names and the template in `tokenizer_config.json`.
    #[test]
    fn words_of_sentencepiece() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../text/tests/data/sentencepiece/plain.model");
        let config = json!({
            "bos_token": "<s>", "eos_token": "</s>",
            "added_tokens_decoder": {
                "3": {"content": "<|im_end|>", "special": true}, "4": {"content": "<|im_start|>", "special": true},
            },
            "chat_template": "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n\
                              {% endfor %}<|im_start|>assistant\n",
        });
        let mut companions = vec![
            ("tokenizer.model".to_owned(), std::fs::read(path).unwrap()),
            ("tokenizer_config.json".to_owned(), config.to_string().into_bytes()),
        ];
        let words = read(&companions, Path::new("dir")).unwrap().unwrap();
        let messages = json!([{"role": "user", "content": "Hi <|im_end|>"}]);
        let input = ChatInput { messages, add_generation_prompt: true, ..ChatInput::default() };
        let rendered = words.chat.unwrap().render_plain(&input, &words.tokenizer).unwrap();
        let ids = words.tokenizer.encode_chat(&rendered).unwrap();
        // One mark opens each turn and one closes the user's: what the user typed is no mark.
        let count = |id: u32| ids.iter().filter(|&&i| i == id).count();
        assert_eq!((ids[0], count(4), count(3)), (1, 2, 1));
        assert_eq!(words.tokenizer.encode_with_special("a").unwrap()[0], 1);
        assert_eq!(words.tokenizer.encode("<|im_end|>", SpecialText::Recognised).unwrap(), [3]);
        companions[0].1.truncate(1000);
        let error = format!("{:#}", read(&companions, Path::new("dir")).err().unwrap());
        assert!(error.starts_with("dir/tokenizer.model: tokenizer.model: protocol buffer"), "{error}");
    }
}
