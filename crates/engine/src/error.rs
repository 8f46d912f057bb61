//! Errors of running requests.

/// What a request or the engine can fail with.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request cannot be run as it is.
    #[error("{0}")]
    Request(String),
    /// The model gave a number that is not finite; the request ends.
    #[error("the model produced NaN at position {position}: its weights or its quantization are broken")]
    NotANumber {
        /// Position of the token whose logits were not finite.
        position: usize,
    },
    /// The grammar of a request could not be followed.
    #[error("{0}")]
    Grammar(String),
    /// The engine's thread has ended.
    #[error("the engine has stopped")]
    Stopped,
    /// The device failed.
    #[error("{0}")]
    Device(String),
    /// The model could not be loaded.
    #[error("{0}")]
    Load(String),
}

/// Result of running requests.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl From<planish_model::Error> for Error {
    fn from(e: planish_model::Error) -> Error {
        Error::Device(e.to_string())
    }
}

impl From<planish_tensor::Error> for Error {
    fn from(e: planish_tensor::Error) -> Error {
        Error::Device(e.to_string())
    }
}
