//! Errors of measuring.
use std::fmt;

/// Which of the two models of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// The one measured against; the only one when there is one.
    Original,
    /// The one measured.
    Quantized,
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Model::Original => "original model",
            Model::Quantized => "quantized model",
        })
    }
}

/// What measuring can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text cannot be measured.
    #[error("the text is too short: expected at least {expected} tokens, found {found}")]
    ShortText {
        /// Fewest tokens.
        expected: usize,
        /// Tokens of the text.
        found: usize,
    },
    /// Cutting was asked for with impossible sizes, or a window cannot be scored.
    #[error("{field}: expected at least {expected}, found {found}")]
    TooSmall {
        /// Name of the setting.
        field: &'static str,
        /// Smallest value.
        expected: usize,
        /// Given value.
        found: usize,
    },
    /// The two models do not speak of the same tokens.
    #[error("vocab_size: the original model has {original}, the quantized model {quantized}; expected equal sizes")]
    Vocabulary {
        /// Tokens of the original.
        original: usize,
        /// Tokens of the quantized model.
        quantized: usize,
    },
    /// One engine cannot score two texts in lockstep: it would wait for itself.
    #[error("a model is compared with itself through one handle: expected two handles")]
    SameHandle,
    /// A model could not score a window.
    #[error("window {window}: the {model} failed: {source}")]
    Engine {
        /// Which model.
        model: Model,
        /// Number of the window, from 0.
        window: usize,
        /// Why.
        source: planish_engine::Error,
    },
    /// A model sent scores that do not follow each other.
    #[error("window {window}: scores of the {model}: expected position {expected}, found {found}")]
    Order {
        /// Which model.
        model: Model,
        /// Number of the window, from 0.
        window: usize,
        /// Position that was due.
        expected: usize,
        /// What came instead.
        found: String,
    },
    /// A probability is not a number.
    #[error("window {window}, position {position}: the {model} gave NaN")]
    NotANumber {
        /// Which model.
        model: Model,
        /// Number of the window, from 0.
        window: usize,
        /// Position in the window, from 0.
        position: usize,
    },
}

/// Result of measuring.
pub type Result<T, E = Error> = std::result::Result<T, E>;
