//! Errors of tensors and back ends.

/// What a tensor operation can fail with. Messages name the operation, what was expected and what was found.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Sizes that do not fit together.
    #[error("{0}")]
    Shape(String),
    /// An element type that this operation does not take.
    #[error("{0}")]
    DType(String),
    /// Device memory ran out.
    #[error("out of memory: {what} needs {needed} bytes, {available} are free")]
    OutOfMemory {
        /// What was being allocated.
        what: String,
        /// Bytes asked for.
        needed: u64,
        /// Bytes free on the device.
        available: u64,
    },
    /// The device cannot do this at all.
    #[error("{0}")]
    Unsupported(String),
    /// The device or its driver failed.
    #[error("{0}")]
    Device(String),
}

impl Error {
    /// A [`Error::Shape`].
    pub fn shape(message: impl Into<String>) -> Self {
        Error::Shape(message.into())
    }
    /// A [`Error::DType`].
    pub fn dtype(message: impl Into<String>) -> Self {
        Error::DType(message.into())
    }
    /// A [`Error::Unsupported`].
    pub fn unsupported(message: impl Into<String>) -> Self {
        Error::Unsupported(message.into())
    }
}

/// Result of a tensor operation.
pub type Result<T, E = Error> = std::result::Result<T, E>;
