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
    /// The model does not load; if it does not fit, what could help.
    pub(crate) fn of_loading(error: &planish_model::Error) -> Error {
        match error {
            planish_model::Error::Tensor(planish_tensor::Error::OutOfMemory { .. }) => Error::Load(format!(
                "the model's weights do not fit: {error}; a quantized checkpoint takes half of a 16-bit one, and \
                 --device cpu uses the host's memory"
            )),
            _ => Error::Load(error.to_string()),
        }
    }

    /// As [`Error::of_loading`], of the KV cache and the buffers beside the weights.
    pub(crate) fn of_buffers(error: &planish_model::Error) -> Error {
        match error {
            planish_model::Error::Tensor(planish_tensor::Error::OutOfMemory { .. }) => Error::Load(format!(
                "the KV cache and the buffers of a step do not fit beside the weights: {error}; lower --kv-cache-memory, \
                 --max-batch or --max-model-len"
            )),
            _ => Error::Load(error.to_string()),
        }
    }

    /// Whether keys and values that the request has computed are in doubt: the model's numbers or the device are at fault,
    /// and not what the request asks for.
    pub(crate) fn spoils(&self) -> bool {
        match self {
            Error::NotANumber { .. } | Error::Panicked(_) | Error::Integrity(_) | Error::Device(_) => true,
            Error::Request(_) | Error::Options(_) | Error::Load(_) | Error::Stopped => false,
            Error::Grammar(_) | Error::NothingAllowed { .. } => false,
        }
    }

    /// What a panic said.
    pub(crate) fn of_panic(payload: &(dyn std::any::Any + Send)) -> Error {
        let text = payload.downcast_ref::<&str>().copied();
        let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
        Error::Panicked(text.unwrap_or("a panic without a message").into())
    }
}

impl From<planish_model::Error> for Error {
    fn from(e: planish_model::Error) -> Error {
        match e {
            planish_model::Error::Tensor(e) => e.into(),
            other => Error::Device(other.to_string()),
        }
    }
}

impl From<planish_tensor::Error> for Error {
    fn from(e: planish_tensor::Error) -> Error {
        Error::Device(match e {
            // Work space that grows while requests run.
            planish_tensor::Error::OutOfMemory { .. } => {
                format!("{e}; a lower --kv-cache-memory or --max-batch leaves more")
            }
            other => other.to_string(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_is_named_with_what_helps() {
        let full = || planish_tensor::Error::OutOfMemory { what: "a weight".into(), needed: 9, available: 3 };
        let weights = Error::of_loading(&full().into()).to_string();
        assert!(weights.contains("a weight needs 9 bytes, 3 are free") && weights.contains("weights do not fit"));
        let buffers = Error::of_buffers(&full().into()).to_string();
        assert!(buffers.contains("9 bytes") && buffers.contains("--kv-cache-memory"), "{buffers}");
        for running in [Error::from(full()), Error::from(planish_model::Error::from(full()))] {
            let running = running.to_string();
            assert!(running.contains("needs 9 bytes") && running.contains("--kv-cache-memory"), "{running}");
        }
    }
}
