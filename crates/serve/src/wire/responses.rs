//! `/v1/responses`, without memory between requests.
use super::chat::{Content, Role};
use super::{Asked, Rest};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A turn to take.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub struct ResponsesRequest {
    /// Which model; the first that is served if left out.
    pub model: Option<String>,
    /// A text, or what was said and called so far.
    #[schema(required = true, value_type = Input)]
    pub input: Option<Input>,
    /// What the model is told before.
    pub instructions: Option<String>,
    /// Most tokens of the answer.
    #[schema(minimum = 1)]
    #[serde(default, deserialize_with = "super::whole::optional")]
    pub max_output_tokens: Option<u64>,
    /// Divisor of the logits; 0 takes the likeliest token always.
    #[schema(minimum = 0.0, maximum = 2.0)]
    pub temperature: Option<f64>,
    /// Keep the likeliest tokens up to this probability mass.
    #[schema(minimum = 0.0, maximum = 1.0)]
    pub top_p: Option<f64>,
    /// Functions that the model may call.
    #[schema(max_items = 128)]
    pub tools: Option<Vec<FlatTool>>,
    /// `none`, `auto`, `required`, or one function by name.
    pub tool_choice: Option<FlatChoice>,
    /// Whether several calls in one answer are allowed; yes unless told otherwise.
    pub parallel_tool_calls: Option<bool>,
    /// What the text must be.
    pub text: Option<TextSettings>,
    /// Send the answer piece by piece as server-sent events.
    pub stream: Option<bool>,
    /// Labels, given back.
    #[schema(value_type = Option<Object>)]
    pub metadata: Option<Map<String, Value>>,
    /// Earlier answers are not kept: refused.
    pub previous_response_id: Option<String>,
    /// Answers are not kept: `true` is refused.
    pub store: Option<bool>,
    /// What is left over.
    #[serde(skip)]
    #[schema(ignore)]
    pub rest: Rest,
}

impl Asked for ResponsesRequest {
    fn rest_mut(&mut self) -> &mut Rest {
        &mut self.rest
    }
}

/// What was said so far.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a text or a list of items")]
pub enum Input {
    /// The user's words.
    Text(String),
    /// Messages, calls and their results.
    Items(Vec<Item>),
}

/// A message, a call, or what it gave.
#[derive(Clone, Debug, Deserialize, ToSchema)]
pub struct Item {
    /// `message` (also if left out), `function_call`, `function_call_output` or `reasoning`.
    #[serde(default)]
    pub r#type: Option<String>,
    /// Who speaks, in a message.
    #[serde(default)]
    pub role: Option<Role>,
    /// What was said, in a message.
    #[serde(default)]
    pub content: Option<Content>,
    /// Which call.
    #[serde(default)]
    pub call_id: Option<String>,
    /// What was called.
    #[serde(default)]
    pub name: Option<String>,
    /// With what, a JSON text.
    #[serde(default)]
    pub arguments: Option<String>,
    /// What it gave.
    #[serde(default)]
    pub output: Option<Content>,
}

/// A function that the model may call.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct FlatTool {
    /// `function`.
    pub r#type: String,
    /// Its name.
    #[serde(default)]
    pub name: Option<String>,
    /// What it does.
    #[serde(default)]
    pub description: Option<String>,
    /// A JSON schema of its arguments.
    #[serde(default)]
    #[schema(value_type = Option<Object>)]
    pub parameters: Option<Value>,
    /// Whether arguments must follow the schema.
    #[serde(default)]
    pub strict: Option<bool>,
}

/// Whether and what to call.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
#[serde(untagged, expecting = "expected none, auto, required or one function by name")]
pub enum FlatChoice {
    /// `none`, `auto` or `required`.
    Mode(super::chat::ToolMode),
    /// One function.
    Named(FlatName),
}

/// The function to call.
#[derive(Clone, Debug, Deserialize, Serialize, ToSchema)]
pub struct FlatName {
    /// `function`.
    pub r#type: String,
    /// Which.
    pub name: String,
}

/// What the text must be.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub struct TextSettings {
    /// The form.
    #[serde(default)]
    pub format: Option<TextFormat>,
    /// Not offered.
    #[serde(default)]
    pub verbosity: Option<String>,
}

/// The form of a text.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum TextFormat {
    /// Any text.
    Text,
    /// A JSON object.
    JsonObject,
    /// JSON of a schema.
    JsonSchema {
        /// A label.
        name: String,
        /// The schema.
        #[schema(value_type = Object)]
        schema: Value,
        /// Answers follow the schema in either case.
        #[serde(default)]
        strict: Option<bool>,
    },
}

/// The answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ResponseObject {
    /// Of this answer.
    pub id: String,
    /// `response`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created_at: u64,
    /// `in_progress`, `completed`, `incomplete` or `failed`.
    pub status: &'static str,
    /// Why it failed.
    #[schema(value_type = Option<Object>)]
    pub error: Option<Value>,
    /// Why it is not complete.
    pub incomplete_details: Option<Incomplete>,
    /// As they were given.
    pub instructions: Option<String>,
    /// As it was given.
    pub max_output_tokens: Option<u64>,
    /// Which model.
    pub model: String,
    /// Messages and calls.
    pub output: Vec<OutputItem>,
    /// As it was given.
    pub parallel_tool_calls: bool,
    /// Always null.
    pub previous_response_id: Option<String>,
    /// As it was given, or 1.
    pub temperature: f64,
    /// As it was given, or 1.
    pub top_p: f64,
    /// As it was given, or `auto`.
    #[schema(value_type = FlatChoice)]
    pub tool_choice: Value,
    /// As they were given.
    pub tools: Vec<FlatTool>,
    /// `disabled`.
    pub truncation: &'static str,
    /// Once it has ended.
    pub usage: Option<ResponsesUsage>,
    /// As they were given.
    #[schema(value_type = Object)]
    pub metadata: Map<String, Value>,
    /// Always false.
    pub store: bool,
}

/// Why an answer is not complete.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Incomplete {
    /// `max_output_tokens`.
    pub reason: &'static str,
}

/// A part of the answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum OutputItem {
    /// Something said.
    Message {
        /// Its id.
        id: String,
        /// `in_progress`, `completed` or `incomplete`.
        status: &'static str,
        /// `assistant`.
        role: &'static str,
        /// The text.
        content: Vec<OutputText>,
    },
    /// A call.
    FunctionCall {
        /// Its id.
        id: String,
        /// The id that its result names.
        call_id: String,
        /// What is called.
        name: String,
        /// With what, a JSON text.
        arguments: String,
        /// `in_progress`, `completed` or `incomplete`.
        status: &'static str,
    },
    /// Something thought.
    Reasoning {
        /// Its id.
        id: String,
        /// Always empty.
        #[schema(value_type = Vec<Object>)]
        summary: Vec<Value>,
        /// The text.
        content: Vec<ReasoningText>,
    },
}

/// A text that was said.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct OutputText {
    /// `output_text`.
    pub r#type: &'static str,
    /// The text.
    pub text: String,
    /// Always empty.
    #[schema(value_type = Vec<Object>)]
    pub annotations: Vec<Value>,
    /// Always empty.
    #[schema(value_type = Vec<Object>)]
    pub logprobs: Vec<Value>,
}

/// A text that was thought.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct ReasoningText {
    /// `reasoning_text`.
    pub r#type: &'static str,
    /// The text.
    pub text: String,
}

/// Tokens read and written.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
pub struct ResponsesUsage {
    /// Of the prompt.
    pub input_tokens: usize,
    /// Of them.
    pub input_tokens_details: CachedTokens,
    /// Of the answer.
    pub output_tokens: usize,
    /// Of them.
    pub output_tokens_details: ReasoningTokens,
    /// Together.
    pub total_tokens: usize,
}

/// Of a prompt's tokens.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub struct CachedTokens {
    /// Not counted for single requests: always 0.
    pub cached_tokens: usize,
}

/// Of an answer's tokens.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub struct ReasoningTokens {
    /// Not counted: always 0.
    pub reasoning_tokens: usize,
}
