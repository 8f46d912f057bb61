//! `/v1/messages`, as Anthropic's clients speak.
use super::{Asked, Rest};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

/// A turn to take.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub struct MessagesRequest {
    /// Which model; the first that is served if left out.
    pub model: Option<String>,
    /// What was said so far.
    #[serde(default)]
    #[schema(required = true, min_items = 1)]
    pub messages: Vec<Message>,
    /// What the model is told before.
    pub system: Option<Blocks>,
    /// Most tokens of the answer; needed but for counting.
    #[schema(minimum = 1)]
    #[serde(default, deserialize_with = "super::whole::optional")]
    pub max_tokens: Option<u64>,
    /// Divisor of the logits.
    #[schema(minimum = 0.0, maximum = 1.0)]
    pub temperature: Option<f64>,
    /// Keep the likeliest tokens up to this probability mass.
    #[schema(minimum = 0.0, maximum = 1.0)]
    pub top_p: Option<f64>,
    /// Keep this many of the likeliest tokens.
    #[schema(minimum = 0)]
    #[serde(default, deserialize_with = "super::whole::optional")]
    pub top_k: Option<i64>,
    /// Texts that end the answer.
    #[schema(max_items = 16)]
    pub stop_sequences: Option<Vec<String>>,
    /// Send the answer piece by piece as server-sent events.
    pub stream: Option<bool>,
    /// Functions that the model may call.
    #[schema(max_items = 128)]
    pub tools: Option<Vec<NamedTool>>,
    /// Whether and what to call.
    pub tool_choice: Option<Choice>,
    /// Whether to think first; only `disabled` is taken as an order, models that think do so.
    pub thinking: Option<Thinking>,
    /// What is left over.
    #[serde(skip)]
    #[schema(ignore)]
    pub rest: Rest,
}

impl Asked for MessagesRequest {
    fn rest_mut(&mut self) -> &mut Rest {
        &mut self.rest
    }
}

/// One message.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = AnthropicMessage)]
pub struct Message {
    /// Who speaks.
    pub role: Speaker,
    /// What was said.
    pub content: Blocks,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = AnthropicRole)]
pub enum Speaker {
    /// The one who asks.
    User,
    /// The model.
    Assistant,
}

/// A text, or blocks.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a text or a list of blocks")]
#[schema(as = AnthropicContent, no_recursion)]
pub enum Blocks {
    /// A text.
    Text(String),
    /// Blocks; images and documents are refused.
    List(Vec<Block>),
}

/// A part of a message.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = AnthropicBlock, no_recursion)]
pub struct Block {
    /// `text`, `thinking`, `tool_use` or `tool_result`.
    pub r#type: String,
    /// Of a text.
    #[serde(default)]
    pub text: Option<String>,
    /// Of a thought.
    #[serde(default)]
    pub thinking: Option<String>,
    /// Of a call.
    #[serde(default)]
    pub id: Option<String>,
    /// What was called.
    #[serde(default)]
    pub name: Option<String>,
    /// With what.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub input: Option<Value>,
    /// The call that this is the result of.
    #[serde(default)]
    pub tool_use_id: Option<String>,
    /// The result.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub content: Option<Box<Blocks>>,
    /// The call failed: its result is told as an error.
    #[serde(default)]
    pub is_error: Option<bool>,
}

/// A function that the model may call.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = AnthropicTool)]
pub struct NamedTool {
    /// `custom`, or nothing.
    #[serde(default)]
    pub r#type: Option<String>,
    /// Its name.
    pub name: String,
    /// What it does.
    #[serde(default)]
    pub description: Option<String>,
    /// A JSON schema of its arguments.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub input_schema: Option<Value>,
}

/// Whether and what to call.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[schema(as = AnthropicToolChoice)]
pub struct Choice {
    /// `auto`, `any`, `tool` or `none`.
    pub r#type: String,
    /// Which, for `tool`.
    #[serde(default)]
    pub name: Option<String>,
    /// One call at most.
    #[serde(default)]
    pub disable_parallel_tool_use: Option<bool>,
}

/// Whether to think first.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[allow(dead_code)] // a budget must be a number, and is not kept to
pub struct Thinking {
    /// `enabled`, `adaptive` or `disabled`.
    pub r#type: String,
    /// Not kept to.
    #[serde(default, deserialize_with = "super::whole::optional")]
    pub budget_tokens: Option<u64>,
}

/// The answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct MessageObject {
    /// Of this answer.
    pub id: String,
    /// `message`.
    pub r#type: &'static str,
    /// `assistant`.
    pub role: &'static str,
    /// Which model.
    pub model: String,
    /// Texts and calls.
    pub content: Vec<AnswerBlock>,
    /// `end_turn`, `max_tokens`, `stop_sequence` or `tool_use`.
    pub stop_reason: Option<&'static str>,
    /// Which stop sequence.
    pub stop_sequence: Option<String>,
    /// Tokens.
    pub usage: MessageUsage,
}

/// A part of the answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AnswerBlock {
    /// Something said.
    Text {
        /// The text.
        text: String,
    },
    /// Something thought.
    Thinking {
        /// The text.
        thinking: String,
        /// Always empty.
        signature: &'static str,
    },
    /// A call.
    ToolUse {
        /// Its id.
        id: String,
        /// What is called.
        name: String,
        /// With what.
        #[schema(value_type = Object)]
        input: Value,
    },
}

/// Tokens read and written.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub struct MessageUsage {
    /// Of the prompt.
    pub input_tokens: usize,
    /// Of the answer.
    pub output_tokens: usize,
}

/// Tokens of a conversation.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct TokenCount {
    /// How many.
    pub input_tokens: usize,
}
