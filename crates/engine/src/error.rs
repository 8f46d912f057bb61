//! Errors of running requests.

/// What a request or the engine can fail with.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request cannot be run as it is; the message names the field, what was expected and what was found.
    #[error("{0}")]
    Request(String),
    /// The engine cannot be started with these settings.
    #[error("{0}")]
    Options(String),
    /// The model gave a number that is not finite; the request ends.
    #[error("the model produced NaN at position {position}: its weights or its quantization are broken")]
    NotANumber {
        /// Position of the token whose logits were not finite.
        position: usize,
    },
    /// The grammar of a request could not be followed.
    #[error("{0}")]
    Grammar(String),
    /// Grammar, logit bias and the minimum length leave no token to choose.
    #[error("no token is allowed at position {position}: grammar, logit_bias or min_new_tokens forbid them all")]
    NothingAllowed {
        /// Position of the token after which nothing may come.
        position: usize,
    },
    /// The engine's thread has ended, or is ending.
    #[error("the engine has stopped")]
    Stopped,
    /// The engine's or the device's thread panicked; the engine takes no more work.
    #[error("the engine has failed: {0}")]
    Panicked(String),
    /// The bookkeeping of the KV cache does not add up; the engine takes no more work.
    #[error("the engine's page tables are damaged: {0}")]
    Integrity(String),
    /// The device failed.
    #[error("{0}")]
    Device(String),
    /// The model could not be loaded.
    #[error("{0}")]
    Load(String),
}

/// Result of running requests.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// What a panic said.
    pub(crate) fn of_panic(payload: &(dyn std::any::Any + Send)) -> Error {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        Error::Panicked(text.unwrap_or("a panic without a message").into())
    }
}

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
