//! A model that is served: an engine's handle with the words and the habits of its model.
use crate::error::{ApiError, Result};
use crate::reasoning::is_reasoning_template;
use crate::tools::{Format, shows_tools};
use planish_checkpoint::generation::GenerationDefaults;
use planish_engine::{Handle, Vocabulary};
use planish_text::{ChatTemplate, Tokenizer};

/// What the roof hands over for each MODEL.
pub struct Served {
    /// The name that callers use.
    pub name: String,
    /// The engine.
    pub handle: Handle,
    /// Text to ids and back.
    pub tokenizer: Tokenizer,
    /// Conversations to text.
    pub chat: Option<ChatTemplate>,
    /// The template's source, which shows how tools and reasoning are written.
    pub template: String,
    /// `model_type` of `config.json`.
    pub family: String,
    /// How tool calls are written, if it is not to be guessed.
    pub tool_format: Option<&'static Format>,
    /// `tokenizer_config.json`, shown at `/tokenizer_info`.
    pub tokenizer_config: serde_json::Value,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
    /// What the model's authors suggest for sampling.
    pub defaults: GenerationDefaults,
}

/// A model in service.
pub struct Model {
    /// What was handed over.
    pub served: Served,
    /// Its tokens, for grammars.
    pub vocabulary: Vocabulary,
    /// How it writes tool calls.
    pub format: &'static Format,
    /// Its template shows tools.
    pub shows_tools: bool,
    /// Another template, for conversations with tools, where its own shows none.
    pub tool_chat: Option<ChatTemplate>,
    /// It writes what it thinks before an answer.
    pub reasons: bool,
    /// Seconds since 1970 at which it was ready.
    pub created: u64,
}

impl Model {
    /// Takes a model into service.
    pub fn new(served: Served) -> Model {
        let width = served.handle.info().plan.vocab;
        let vocabulary = Vocabulary::new(served.tokenizer.clone(), served.eos.clone(), width);
        let guessed = || Format::of_model(&served.template, &served.family);
        let format = served.tool_format.unwrap_or_else(guessed);
        let shows_tools = shows_tools(&served.template);
        let other = format.own_template().filter(|_| !shows_tools && served.chat.is_some());
        Model {
            format,
            shows_tools,
            // It is our own text: if it did not compile, the tools would be spelled out.
            tool_chat: other.and_then(|text| ChatTemplate::new(text, specials(&served.tokenizer_config)).ok()),
            reasons: is_reasoning_template(&served.template),
            created: crate::clock::unix_seconds(),
            vocabulary,
            served,
        }
    }

    /// The name that callers use.
    pub fn name(&self) -> &str {
        &self.served.name
    }

    /// Longest sequence, prompt and answer together.
    pub fn context(&self) -> usize {
        let config = self.served.handle.info().config;
        config.max_model_len.min(config.pages * config.page_size)
    }

    /// Columns of the logits.
    pub fn vocab(&self) -> usize {
        self.served.handle.info().plan.vocab
    }

    /// Its tokenizer.
    pub fn tokenizer(&self) -> &Tokenizer {
        &self.served.tokenizer
    }

    /// Control tokens that must be seen in an answer: the marks of tool calls and of reasoning.
    pub fn marks(&self) -> Vec<u32> {
        let marks = self.format.markers().chain(["<think>", "</think>"]);
        let ids = marks.filter_map(|mark| self.served.tokenizer.token_to_id(mark));
        ids.filter(|&id| self.served.tokenizer.is_special(id)).collect()
    }

    /// Its chat template, or why it cannot chat.
    pub fn template(&self) -> Result<&ChatTemplate> {
        let missing = || ApiError::invalid("messages", "this model has no chat template: use /v1/completions");
        self.served.chat.as_ref().ok_or_else(missing)
    }
}

/// The special tokens that templates know by name.
fn specials(config: &serde_json::Value) -> Vec<(&'static str, String)> {
    let text = |name: &'static str| {
        let value = &config[name];
        let text = value.as_str().or_else(|| value["content"].as_str())?;
        Some((name, text.to_owned()))
    };
    ["bos_token", "eos_token", "unk_token", "pad_token"].into_iter().filter_map(text).collect()
}
