//! `/tokenize`, `/detokenize`, in vLLM's shapes.
use super::chat::{ChatMessage, Tool};
use super::{Asked, Rest};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// A text or a conversation to encode.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub struct TokenizeRequest {
    /// Which model; the first that is served if left out.
    pub model: Option<String>,
    /// A text.
    pub prompt: Option<String>,
    /// Or a conversation.
    pub messages: Option<Vec<ChatMessage>>,
    /// Functions of the conversation.
    pub tools: Option<Vec<Tool>>,
    /// Put what the model expects before a text; yes unless told otherwise (for a conversation no).
    pub add_special_tokens: Option<bool>,
    /// Whether a conversation ends with the beginning of an answer; yes unless told otherwise.
    pub add_generation_prompt: Option<bool>,
    /// Give the tokens as texts too.
    pub return_token_strs: Option<bool>,
    /// Further variables for the chat template.
    pub chat_template_kwargs: Option<Map<String, Value>>,
    /// What is left over.
    #[serde(skip)]
    #[schema(ignore)]
    pub rest: Rest,
}

impl Asked for TokenizeRequest {
    fn rest_mut(&mut self) -> &mut Rest {
        &mut self.rest
    }
}

/// Token ids.
#[derive(Debug, Serialize, ToSchema)]
pub struct TokenizeResponse {
    /// How many.
    pub count: usize,
    /// Longest sequence of the model.
    pub max_model_len: usize,
    /// The ids.
    pub tokens: Vec<u32>,
    /// As the vocabulary spells them, if asked for.
    pub token_strs: Option<Vec<String>>,
}

/// Token ids to decode.
#[derive(Clone, Debug, Default, Deserialize, ToSchema)]
pub struct DetokenizeRequest {
    /// Which model; the first that is served if left out.
    pub model: Option<String>,
    /// The ids.
    #[serde(deserialize_with = "super::whole::list")]
    pub tokens: Vec<u32>,
    /// What is left over.
    #[serde(skip)]
    #[schema(ignore)]
    pub rest: Rest,
}

impl Asked for DetokenizeRequest {
    fn rest_mut(&mut self) -> &mut Rest {
        &mut self.rest
    }
}

/// Their text.
#[derive(Debug, Serialize, ToSchema)]
pub struct DetokenizeResponse {
    /// Special tokens as they are spelled.
    pub prompt: String,
}
