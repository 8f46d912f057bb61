//! Conversations to text: the Jinja chat templates of model repositories.
//!
//! A template comes with a model and is not trusted: it has no files and no imports, and its time
//! and memory are bounded (see `sandbox`).

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::Serde;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::marks::{Marks, has_special};
use crate::{Result, TextError, Tokenizer, sandbox, source};

/// One message of a conversation.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Message {
    /// Who speaks: `system`, `user`, `assistant`, `tool`, or what else the template knows.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// All that a chat template is given. Values are JSON as in the model's own documentation.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ChatInput {
    /// A list of objects with at least `role` and `content`.
    pub messages: Value,
    /// A list of tool descriptions; `None` is Python's `None` to the template.
    pub tools: Option<Value>,
    /// Whether the text ends with the beginning of an answer.
    pub add_generation_prompt: bool,
    /// Further variables, such as `enable_thinking` or `documents`.
    pub extra: serde_json::Map<String, Value>,
}

/// The text of a conversation, and where in it users spelled special tokens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RenderedChat {
    text: String,
    plain: Vec<Range<usize>>,
}

/// A checked chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    source: String,
    special_tokens: BTreeMap<String, String>,
    now: Option<u64>,
}

/// Names that further variables may not take.
const RESERVED: [&str; 7] =
    ["messages", "tools", "add_generation_prompt", "namespace", "raise_exception", "strftime_now", source::ONE];
/// Nesting of the JSON that is given.
const MAX_DEPTH: usize = 64;

impl ChatInput {
    /// A conversation without tools or further variables.
    pub fn new(messages: &[Message], add_generation_prompt: bool) -> Self {
        let objects = messages.iter().map(|m| serde_json::json!({"role": m.role, "content": m.content}));
        Self { messages: Value::Array(objects.collect()), add_generation_prompt, ..Self::default() }
    }

    fn check(&self, template: &ChatTemplate) -> Result<()> {
        let wrong = |field: &str, expected, found: &dyn std::fmt::Display| {
            Err(TextError::ChatInput { field: field.to_owned(), expected, found: found.to_string() })
        };
        if !self.messages.is_array() {
            return wrong("messages", "a list", &kind(&self.messages));
        }
        if let Some(tools) = self.tools.as_ref().filter(|tools| !tools.is_array()) {
            return wrong("tools", "a list", &kind(tools));
        }
        let taken = |name: &str| template.special_tokens.contains_key(name);
        if let Some(name) = self.extra.keys().find(|name| taken(name) || !is_free_name(name)) {
            let expected = "a variable name that the template is not given anyway";
            return wrong("extra", expected, &format!("{name:?}"));
        }
        let mut values = [&self.messages].into_iter().chain(&self.tools).chain(self.extra.values());
        if values.any(|value| deeper_than(value, MAX_DEPTH)) {
            return wrong("messages, tools or extra", "at most 64 levels of nesting", &"more");
        }
        Ok(())
    }
}

impl RenderedChat {
    /// The whole text, as the model will see it.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Byte ranges of the text in which a user spelled a special token, in order.
    pub fn plain(&self) -> &[Range<usize>] {
        &self.plain
    }
}

impl ChatTemplate {
    /// Checks the source of a template. `special_tokens` are variables by name: `bos_token`,
    /// `eos_token` and what else the tokenizer's configuration names.
    ///
    /// # Errors
    /// [`TextError::TemplateSource`] if it does not compile or is too large or too deep.
    pub fn new<K: Into<String>, V: Into<String>>(
        source: &str,
        special_tokens: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self> {
        let source = source::prepare(source)?;
        sandbox::check(&source)?;
        let special_tokens = special_tokens.into_iter().map(|(name, token)| (name.into(), token.into())).collect();
        Ok(Self { source, special_tokens, now: None })
    }

    /// Fixes what `strftime_now` shows, in seconds since 1970-01-01 00:00 UTC; else it is the time of rendering.
    pub fn with_time(mut self, seconds: u64) -> Self {
        self.now = Some(seconds);
        self
    }

    /// The text of a conversation.
    ///
    /// # Errors
    /// [`TextError::TemplateRefused`] if the template raises an exception of its own,
    /// [`TextError::TemplateLimit`] if it takes too long or makes too much,
    /// [`TextError::TemplateRender`] if it fails, [`TextError::ChatInput`] for a wrong input.
    pub fn render(&self, input: &ChatInput) -> Result<String> {
        input.check(self)?;
        let none = minijinja::Value::from(());
        let json = |value: &Value| minijinja::Value::from(Serde(value.clone()));
        let mut root: BTreeMap<&str, minijinja::Value> = BTreeMap::new();
        root.insert("documents", none.clone());
        root.extend(self.special_tokens.iter().map(|(name, token)| (name.as_str(), token.as_str().into())));
        root.extend(input.extra.iter().map(|(name, value)| (name.as_str(), json(value))));
        root.insert("messages", json(&input.messages));
        root.insert("tools", input.tools.as_ref().map_or(none, json));
        root.insert("add_generation_prompt", input.add_generation_prompt.into());
        let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        sandbox::render(&self.source, root.into(), self.now.unwrap_or_else(now))
    }

    /// The text of a conversation for [`Tokenizer::encode_chat`]: special tokens that the input
    /// spells out stay text, those of the template count.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn render_plain(&self, input: &ChatInput, tokenizer: &Tokenizer) -> Result<RenderedChat> {
        input.check(self)?;
        let values = [&input.messages].into_iter().chain(&input.tools).chain(input.extra.values());
        if !values.clone().any(|value| has_special(value, tokenizer)) {
            return Ok(RenderedChat { text: self.render(input)?, plain: Vec::new() });
        }
        let texts: Vec<String> = values.map(Value::to_string).collect();
        let fixed = self.special_tokens.values().chain([&self.source]);
        let mut marks = Marks::avoiding(texts.iter().chain(fixed).map(String::as_str));
        let mut marked = input.clone();
        marks.mark(&mut marked.messages, tokenizer)?;
        for value in marked.tools.iter_mut().chain(marked.extra.values_mut()) {
            marks.mark(value, tokenizer)?;
        }
        let (text, plain) = marks.restore(&self.render(&marked)?);
        Ok(RenderedChat { text, plain })
    }
}

fn is_free_name(name: &str) -> bool {
    let letter = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let word = name.chars().all(letter) && !name.starts_with(|c: char| c.is_ascii_digit());
    word && !name.is_empty() && !RESERVED.contains(&name)
}

fn deeper_than(value: &Value, levels: usize) -> bool {
    match value {
        Value::Array(items) => levels == 0 || items.iter().any(|item| deeper_than(item, levels - 1)),
        Value::Object(fields) => levels == 0 || fields.values().any(|field| deeper_than(field, levels - 1)),
        _ => false,
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}
