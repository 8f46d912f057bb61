//! The golden corpus and tokenizer that the tests share; see `tests/data/README.md`.
#![allow(dead_code, reason = "each test file uses its part")]

use planish_text::{ChatInput, ChatTemplate, GgufVocab, Tokenizer};
use serde::Deserialize;
use serde_json::Value;

pub const TOKENIZER_JSON: &[u8] = include_bytes!("../data/smollm2/tokenizer.json");
const CONFIG_JSON: &str = include_str!("../data/smollm2/tokenizer_config.json");
const CORPUS_JSON: &str = include_str!("../data/smollm2_corpus.json");

#[derive(Deserialize)]
pub struct Corpus {
    pub strings: Vec<Sample>,
    pub conversations: Vec<Conversation>,
}

#[derive(Deserialize)]
pub struct Sample {
    pub kind: String,
    pub text: String,
    pub ids: Vec<u32>,
    pub decoded: Option<String>,
}

#[derive(Deserialize)]
pub struct Conversation {
    pub messages: Value,
    pub add_generation_prompt: bool,
    pub text: String,
    pub ids: Vec<u32>,
}

#[derive(Deserialize)]
pub struct PieceSample {
    pub text: String,
    pub ids: Vec<u32>,
    pub decoded: String,
}

impl Sample {
    pub fn decoded(&self) -> &str {
        self.decoded.as_deref().unwrap_or(&self.text)
    }
}

impl Conversation {
    pub fn input(&self) -> ChatInput {
        ChatInput {
            messages: self.messages.clone(),
            add_generation_prompt: self.add_generation_prompt,
            ..ChatInput::default()
        }
    }
}

pub fn corpus() -> Corpus {
    serde_json::from_str(CORPUS_JSON).unwrap()
}

pub fn tokenizer() -> Tokenizer {
    Tokenizer::from_json(TOKENIZER_JSON).unwrap()
}

pub fn template() -> ChatTemplate {
    let config: Value = serde_json::from_str(CONFIG_JSON).unwrap();
    let special = ["bos_token", "eos_token"].map(|name| (name, config[name].as_str().unwrap()));
    ChatTemplate::new(config["chat_template"].as_str().unwrap(), special).unwrap()
}

/// The vocabulary as a GGUF file has it: the same tokens, merges and types.
pub fn gguf_vocab() -> GgufVocab {
    let json: Value = serde_json::from_slice(TOKENIZER_JSON).unwrap();
    let vocab = json["model"]["vocab"].as_object().unwrap();
    let mut tokens = vec![String::new(); vocab.len()];
    for (token, id) in vocab {
        tokens[id.as_u64().unwrap() as usize] = token.clone();
    }
    let mut token_types = vec![1; tokens.len()];
    for added in json["added_tokens"].as_array().unwrap() {
        token_types[added["id"].as_u64().unwrap() as usize] = 3;
    }
    let merge = |merge: &Value| match merge {
        Value::String(text) => text.clone(),
        pair => format!("{} {}", pair[0].as_str().unwrap(), pair[1].as_str().unwrap()),
    };
    GgufVocab {
        model: "gpt2".to_owned(),
        pre: "smollm".to_owned(),
        tokens,
        token_types,
        merges: json["model"]["merges"].as_array().unwrap().iter().map(merge).collect(),
        bos: Some(1),
        eos: Some(2),
        unk: Some(0),
        add_bos: Some(false),
        ..GgufVocab::default()
    }
}
