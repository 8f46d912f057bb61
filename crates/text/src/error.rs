//! What can go wrong with words. Every message names the part, what was expected and what was found.

/// Result of this crate's fallible functions.
pub type Result<T, E = TextError> = std::result::Result<T, E>;

/// An error of the tokenizer, the chat template or the stop strings.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// The bytes of a `tokenizer.json` do not describe a tokenizer.
    #[error("tokenizer.json: {0}")]
    TokenizerJson(String),
    /// The bytes of a `tokenizer.model` are no tokenizer, or one of a kind that is not read.
    #[error("tokenizer.model: {field}: expected {expected}, found {found}")]
    TokenizerModel {
        /// The part, as the file's definition calls it.
        field: &'static str,
        /// What would have been accepted.
        expected: String,
        /// What was there.
        found: String,
    },
    /// A GGUF metadata field has a value that cannot be used.
    #[error("{field}: expected {expected}, found {found}")]
    Gguf {
        /// The metadata key, such as `tokenizer.ggml.pre`.
        field: &'static str,
        /// What would have been accepted.
        expected: String,
        /// What was there.
        found: String,
    },
    /// The tokenizer failed on a text.
    #[error("cannot encode a text of {bytes} bytes: {reason}")]
    Encode {
        /// Length of the text.
        bytes: usize,
        /// The tokenizer's own words.
        reason: String,
    },
    /// The tokenizer failed on token ids.
    #[error("cannot decode {tokens} token ids: {reason}")]
    Decode {
        /// Number of ids.
        tokens: usize,
        /// The tokenizer's own words.
        reason: String,
    },
    /// The chat template is not a valid template, or larger than is accepted.
    #[error("chat template: {0}")]
    TemplateSource(String),
    /// The template called `raise_exception`: it refuses these messages.
    #[error("chat template refuses the conversation: {0}")]
    TemplateRefused(String),
    /// The template failed on a conversation.
    #[error("chat template failed: {0}")]
    TemplateRender(String),
    /// The template used up its budget of steps, bytes or nesting.
    #[error("chat template exceeds its limit: {0}")]
    TemplateLimit(String),
    /// The input of a chat template has the wrong shape.
    #[error("chat input: {field}: expected {expected}, found {found}")]
    ChatInput {
        /// `messages`, `tools` or the name of an extra argument.
        field: String,
        /// What would have been accepted.
        expected: &'static str,
        /// What was there.
        found: String,
    },
    /// A stop string that would match everywhere.
    #[error("stop string {0}: expected at least one character, found an empty string")]
    EmptyStop(usize),
}
