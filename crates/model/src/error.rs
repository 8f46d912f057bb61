//! Errors of reading and running a network.

/// What building or running a network can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The files are not what they should be.
    #[error(transparent)]
    Checkpoint(#[from] planish_checkpoint::Error),
    /// The device refused.
    #[error(transparent)]
    Tensor(#[from] planish_tensor::Error),
    /// A tensor does not fit the configuration.
    #[error("tensor {name}: expected {expected}, found {found}")]
    Weight {
        /// The tensor.
        name: String,
        /// What the configuration says.
        expected: String,
        /// What the file holds.
        found: String,
    },
    /// The configuration asks for something that Planish does not do.
    #[error("{0}")]
    Unsupported(String),
}

/// Result of reading or running a network.
pub type Result<T, E = Error> = std::result::Result<T, E>;
