//! A conversation on its way to token ids: messages as templates expect them, rendered and encoded off the threads that
//! serve connections.
use crate::error::{ApiError, Result};
use crate::model::Model;
use crate::state::State;
use crate::tools::{Tool, for_template as with_objects, spell_out};
use crate::wire::chat::{ChatMessage, Content, Role};
use planish_text::ChatInput;
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Most messages of a conversation.
const MOST_MESSAGES: usize = 4096;
/// Bytes of text for each token of context beyond which a text cannot fit: it is refused before it is encoded.
const BYTES_A_TOKEN: usize = 16;

/// What a template is given.
pub struct Conversation {
    /// The messages.
    pub messages: Vec<ChatMessage>,
    /// Functions to show to the model.
    pub tools: Vec<Tool>,
    /// Whether the prompt ends with the beginning of an answer.
    pub begin_answer: bool,
    /// Further variables.
    pub variables: Map<String, Value>,
}

/// A conversation as the model reads it.
pub struct Encoded {
    /// Token ids.
    pub ids: Vec<u32>,
    /// The prompt ends within a reasoning part.
    pub thinking: bool,
}

impl Conversation {
    /// Its token ids in the model's template. Special-token text that callers wrote stays text.
    pub async fn encode(self, state: &State, model: &Arc<Model>) -> Result<Encoded> {
        let has_tools = self.has_tools();
        let input = self.input(model)?;
        let model = model.clone();
        state
            .desk
            .run(move || {
                let template = match model.tool_chat.as_ref().filter(|_| has_tools) {
                    Some(template) => template,
                    None => model.template()?,
                };
                let rendered = template.render_plain(&input, model.tokenizer())?;
                // A template may make much of a short conversation.
                check_length("messages", rendered.text().len(), model.context())?;
                let thinking = crate::reasoning::is_begun_by(rendered.text());
                Ok(Encoded { ids: model.tokenizer().encode_chat(&rendered)?, thinking })
            })
            .await
    }

    fn has_tools(&self) -> bool {
        let used = |m: &ChatMessage| m.role == Role::Tool || m.tool_calls.as_ref().is_some_and(|c| !c.is_empty());
        !self.tools.is_empty() || self.messages.iter().any(used)
    }

    fn input(self, model: &Model) -> Result<ChatInput> {
        if self.messages.is_empty() || self.messages.len() > MOST_MESSAGES {
            let found = self.messages.len();
            let message = format!("messages: expected 1 to {MOST_MESSAGES} messages, found {found}");
            return Err(ApiError::invalid("messages", message));
        }
        let mut bytes = 0;
        let mut messages = Vec::with_capacity(self.messages.len());
        for (at, message) in self.messages.into_iter().enumerate() {
            messages.push(for_template(at, message, &mut bytes)?);
        }
        bytes += self.tools.iter().map(|tool| tool.definition().to_string().len()).sum::<usize>();
        bytes += self.variables.iter().map(|(name, value)| name.len() + value.to_string().len()).sum::<usize>();
        check_length("messages", bytes, model.context())?;
        let mut messages = Value::Array(messages);
        with_objects(model.format, &mut messages);
        let shown = model.shows_tools || model.tool_chat.is_some();
        if !shown {
            spell_out(model.format, &self.tools, &mut messages);
        }
        let tools = (!self.tools.is_empty() && shown).then(|| self.tools.iter().map(Tool::definition).collect());
        Ok(ChatInput { messages, tools, add_generation_prompt: self.begin_answer, extra: self.variables })
    }
}

/// Refuses a text that cannot fit before it costs anything.
pub fn check_length(param: &str, bytes: usize, context: usize) -> Result<()> {
    let most = context.saturating_mul(BYTES_A_TOKEN);
    match bytes > most {
        true => Err(ApiError::too_long(
            param,
            format!("this model's longest sequence is {context} tokens: {bytes} bytes of text cannot fit"),
        )),
        false => Ok(()),
    }
}

fn for_template(at: usize, message: ChatMessage, bytes: &mut usize) -> Result<Value> {
    let role = match message.role {
        Role::Developer => Role::System,
        role => role,
    };
    let calls = message.tool_calls.unwrap_or_default();
    if message.content.is_none() && calls.is_empty() && role != Role::Assistant {
        let param = format!("messages[{at}].content");
        return Err(ApiError::invalid(&param, format!("{param}: expected a text, found none")));
    }
    if message.function_call.is_some() {
        return Err(ApiError::unsupported(&format!("messages[{at}].function_call")));
    }
    let content = message.content.map(|content| text(at, content)).transpose()?;
    *bytes += content.as_ref().map_or(0, String::len);
    let mut out = Map::new();
    out.insert("role".into(), json!(role));
    out.insert("content".into(), json!(content.unwrap_or_default()));
    if let Some(name) = message.name {
        out.insert("name".into(), name.into());
    }
    if let Some(reasoning) = message.reasoning_content {
        *bytes += reasoning.len();
        out.insert("reasoning_content".into(), reasoning.into());
    }
    if !calls.is_empty() {
        *bytes += calls.iter().map(|call| call.function.arguments.len()).sum::<usize>();
        out.insert("tool_calls".into(), json!(calls));
    }
    if let Some(id) = message.tool_call_id {
        out.insert("tool_call_id".into(), id.into());
    }
    Ok(Value::Object(out))
}

fn text(at: usize, content: Content) -> Result<String> {
    let parts = match content {
        Content::Text(text) => return Ok(text),
        Content::Parts(parts) => parts,
    };
    let mut texts = Vec::with_capacity(parts.len());
    for (number, part) in parts.into_iter().enumerate() {
        let param = format!("messages[{at}].content[{number}]");
        match (part.r#type.as_str(), part.text) {
            ("text" | "input_text" | "output_text", Some(text)) => texts.push(text),
            (kind, _) => {
                let kind: String = kind.chars().take(40).collect();
                let message = format!("{param}: expected a part of type text with a text, found type {kind:?}");
                return Err(ApiError::invalid(param, message));
            }
        }
    }
    Ok(texts.join("\n"))
}

/// A message of nothing yet, for APIs that say theirs in other words.
pub fn empty_message(role: Role) -> ChatMessage {
    ChatMessage {
        role,
        content: None,
        name: None,
        tool_calls: None,
        tool_call_id: None,
        reasoning_content: None,
        function_call: None,
    }
}
