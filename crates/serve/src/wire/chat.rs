//! `/v1/chat/completions`.
use super::Usage;
use super::generation::generation_request;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;
use utoipa::ToSchema;

generation_request! {
    /// A conversation to continue.
    pub struct ChatRequest {
        /// What was said so far; at least one message.
        #[serde(default)]
        #[schema(required = true, min_items = 1)]
        pub messages: Vec<ChatMessage>,
        /// Most tokens of an answer.
        #[schema(minimum = 1)]
        #[serde(default, deserialize_with = "super::whole::optional")]
        pub max_completion_tokens: Option<u64>,
        /// The older name of `max_completion_tokens`.
        #[schema(minimum = 1)]
        #[serde(default, deserialize_with = "super::whole::optional")]
        pub max_tokens: Option<u64>,
        /// Tell the log-probability of each token.
        pub logprobs: Option<bool>,
        /// Likeliest tokens to tell beside each; needs `logprobs`.
        #[schema(minimum = 0, maximum = 20)]
        #[serde(default, deserialize_with = "super::whole::optional")]
        pub top_logprobs: Option<u64>,
        /// Functions that the model may call.
        #[schema(max_items = 128)]
        pub tools: Option<Vec<Tool>>,
        /// `none`, `auto`, `required`, or one function by name.
        pub tool_choice: Option<ToolChoice>,
        /// Whether several calls in one answer are allowed; yes unless told otherwise.
        pub parallel_tool_calls: Option<bool>,
        /// Further variables for the chat template, such as `enable_thinking`.
        pub chat_template_kwargs: Option<Map<String, Value>>,
        /// The same as `enable_thinking` of `chat_template_kwargs`, which wins.
        pub enable_thinking: Option<bool>,
        /// Whether the prompt ends with the beginning of an answer; yes unless told otherwise.
        pub add_generation_prompt: Option<bool>,
        /// Go on with the last message instead of beginning a new one: not offered.
        pub continue_final_message: Option<bool>,
        /// Split the model's reasoning from its answer; yes unless told otherwise.
        pub separate_reasoning: Option<bool>,
    }
}

/// One message.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct ChatMessage {
    /// Who speaks.
    #[schema(example = "user")]
    pub role: Role,
    /// What was said.
    #[serde(default)]
    pub content: Option<Content>,
    /// The speaker's name.
    #[serde(default)]
    pub name: Option<String>,
    /// Functions that the assistant called.
    #[serde(default)]
    pub tool_calls: Option<Vec<ToolCall>>,
    /// The call that a `tool` message answers.
    #[serde(default)]
    pub tool_call_id: Option<String>,
    /// What the assistant thought.
    pub reasoning_content: Option<String>,
    /// What came before `tool_calls`: refused.
    #[schema(ignore)]
    pub function_call: Option<serde::de::IgnoredAny>,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Instructions.
    System,
    /// A newer name of `system`.
    Developer,
    /// The one who asks.
    User,
    /// The model.
    Assistant,
    /// What a function gave back.
    Tool,
}

/// A text, or parts.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a text or a list of parts")]
pub enum Content {
    /// A text.
    Text(String),
    /// Parts; only those of text are taken.
    Parts(Vec<Part>),
}

/// A part of a message.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct Part {
    /// `text`; images, sound and files are refused.
    pub r#type: String,
    /// The text.
    #[serde(default)]
    pub text: Option<String>,
}

/// A function that the model may call.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct Tool {
    /// `function`.
    pub r#type: String,
    /// The function.
    pub function: Function,
}

/// What a function is called and takes.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// What it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// A JSON schema of its arguments.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Value>,
    /// Whether arguments must follow the schema.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub strict: Option<bool>,
}

/// Whether and what to call.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected none, auto, required or one function by name")]
pub enum ToolChoice {
    /// `none`, `auto` or `required`.
    Mode(ToolMode),
    /// One function.
    Named(NamedTool),
}

/// Whether to call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum ToolMode {
    /// Never.
    None,
    /// As the model likes.
    Auto,
    /// At least once.
    Required,
}

/// The function to call.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct NamedTool {
    /// `function`.
    pub r#type: String,
    /// Which.
    pub function: NamedFunction,
}

/// A function's name.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct NamedFunction {
    /// Its name.
    pub name: String,
}

/// A call that the model made.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct ToolCall {
    /// Its id.
    pub id: String,
    /// `function`.
    #[serde(default = "function")]
    pub r#type: String,
    /// What was called.
    pub function: CalledFunction,
}

/// A function with arguments.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct CalledFunction {
    /// Its name.
    pub name: String,
    /// Its arguments, a JSON text.
    pub arguments: String,
}

fn function() -> String {
    "function".into()
}

/// What a text must be.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum ResponseFormat {
    /// Any text.
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON of a schema.
    JsonSchema {
        /// The schema with its name.
        json_schema: NamedSchema,
    },
    /// A text that a regular expression matches as a whole.
    Regex {
        /// Rust's syntax, no look-around.
        regex: String,
    },
}

impl ResponseFormat {
    /// Whether any text will do.
    pub fn is_free(&self) -> bool {
        matches!(self, ResponseFormat::Text)
    }
}

/// A JSON schema with its name.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[allow(dead_code)] // labels are read by nobody here, but must be texts
pub struct NamedSchema {
    /// A label.
    pub name: String,
    /// What it is for.
    #[serde(default)]
    pub description: Option<String>,
    /// The schema.
    #[serde(default)]
    #[schema(value_type = Object)]
    pub schema: Option<Value>,
    /// Answers follow the schema in either case.
    #[serde(default)]
    pub strict: Option<bool>,
}

/// The answers.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatResponse {
    /// Of this request.
    pub id: String,
    /// `chat.completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// Which model.
    pub model: String,
    /// One for each of `n`.
    pub choices: Vec<ChatChoice>,
    /// Tokens.
    pub usage: Usage,
}

/// One answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChoice {
    /// Which of `n`.
    pub index: usize,
    /// The answer.
    pub message: AnswerMessage,
    /// Of its tokens, if asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// `stop`, `length` or `tool_calls`.
    pub finish_reason: &'static str,
}

/// What the model said.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct AnswerMessage {
    /// `assistant`.
    pub role: &'static str,
    /// The text; null if there are only calls.
    pub content: Option<String>,
    /// Always null: the model's refusals are text.
    pub refusal: Option<String>,
    /// What it thought before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// What it called.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ToolCall>,
}

/// Log-probabilities of an answer's tokens.
#[derive(Clone, Debug, Default, Serialize, ToSchema)]
pub struct ChatLogprobs {
    /// For each token.
    pub content: Vec<TokenLogprob>,
    /// Always null.
    pub refusal: Option<String>,
}

/// One token.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TokenLogprob {
    /// Its text; bytes that are no text become U+FFFD.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f64,
    /// Its bytes.
    pub bytes: Vec<u8>,
    /// The likeliest at its place.
    pub top_logprobs: Vec<TopLogprob>,
}

/// One of the likeliest tokens.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct TopLogprob {
    /// Its text.
    pub token: String,
    /// Natural logarithm of its probability.
    pub logprob: f64,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// A piece of the answers.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChatChunk {
    /// Of this request.
    #[schema(value_type = String)]
    pub id: Arc<str>,
    /// `chat.completion.chunk`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// Which model.
    #[schema(value_type = String)]
    pub model: Arc<str>,
    /// None in the chunk that tells the usage.
    pub choices: Vec<ChunkChoice>,
    /// If asked for: null until the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<Option<Usage>>,
}

/// A piece of one answer.
#[derive(Debug, Serialize, ToSchema)]
pub struct ChunkChoice {
    /// Which of `n`.
    pub index: usize,
    /// What is new.
    pub delta: ChunkDelta,
    /// Of its tokens, if asked for.
    pub logprobs: Option<ChatLogprobs>,
    /// In the last piece.
    pub finish_reason: Option<&'static str>,
}

/// What is new.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct ChunkDelta {
    /// In the first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<&'static str>,
    /// More text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// More thought.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// More of calls.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tool_calls: Vec<ChunkCall>,
}

/// More of a call.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ChunkCall {
    /// Which of the answer's calls.
    pub index: usize,
    /// In the first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// In the first piece: `function`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<&'static str>,
    /// What is new.
    pub function: ChunkFunction,
}

/// More of a function and its arguments.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ChunkFunction {
    /// In the first piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// More text of the arguments.
    pub arguments: String,
}
