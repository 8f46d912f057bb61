//! `/v1/completions`.
use super::Usage;
use super::generation::generation_request;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::sync::Arc;
use utoipa::ToSchema;

generation_request! {
    /// Texts to continue.
    pub struct CompletionRequest {
        /// A text, several, token ids, or several lists of them.
        #[schema(required = true, value_type = Prompt)]
        pub prompt: Option<Prompt>,
        /// Most tokens of an answer; 16 unless told otherwise. 0 gives nothing but what `echo` shows.
        #[schema(minimum = 0)]
        #[serde(default, alias = "max_completion_tokens", deserialize_with = "super::whole::optional")]
        pub max_tokens: Option<u64>,
        /// Give the prompt back before the answer.
        pub echo: Option<bool>,
        /// Tell log-probabilities of so many of the likeliest tokens, and of the chosen one; with `echo` of the
        /// prompt's tokens too.
        #[schema(minimum = 0, maximum = 5)]
        #[serde(default, deserialize_with = "super::whole::optional")]
        pub logprobs: Option<u64>,
        /// As many as `n`, if given.
        #[schema(minimum = 1, maximum = 20)]
        #[serde(default, deserialize_with = "super::whole::optional")]
        pub best_of: Option<u64>,
        /// Text after the answer: not offered.
        pub suffix: Option<String>,
        /// Put what the model expects before a text; yes unless told otherwise.
        pub add_special_tokens: Option<bool>,
    }
}

/// What to continue.
#[derive(Clone, Debug, Deserialize, ToSchema)]
#[serde(untagged, expecting = "expected a text, a list of texts, token ids or a list of those")]
pub enum Prompt {
    /// A text.
    Text(String),
    /// Token ids.
    Ids(#[serde(deserialize_with = "super::whole::list")] Vec<u32>),
    /// Several texts.
    Texts(Vec<String>),
    /// Several lists of token ids.
    IdLists(#[serde(deserialize_with = "super::whole::lists")] Vec<Vec<u32>>),
}

/// The answers.
#[derive(Debug, Serialize, ToSchema)]
pub struct CompletionResponse {
    /// Of this request.
    #[schema(value_type = String)]
    pub id: Arc<str>,
    /// `text_completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// Which model.
    #[schema(value_type = String)]
    pub model: Arc<str>,
    /// `n` for each prompt, in order.
    pub choices: Vec<CompletionChoice>,
    /// Tokens. In a stream only if asked for: null until the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<Option<Usage>>,
}

/// One answer, or a piece of one.
#[derive(Debug, Serialize, ToSchema)]
pub struct CompletionChoice {
    /// `prompt * n + choice`.
    pub index: usize,
    /// The text.
    pub text: String,
    /// Of its tokens, if asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// `stop` or `length`; null while it goes on.
    pub finish_reason: Option<&'static str>,
}

/// Log-probabilities, side by side.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct CompletionLogprobs {
    /// Texts of the tokens.
    pub tokens: Vec<String>,
    /// Null for the first token of a prompt.
    pub token_logprobs: Vec<Option<f64>>,
    /// The likeliest at each place, by text; null for the first token of a prompt.
    #[schema(value_type = Vec<Option<Object>>)]
    pub top_logprobs: Vec<Option<Map<String, Value>>>,
    /// Where each token begins in the text, in characters.
    pub text_offset: Vec<usize>,
}
