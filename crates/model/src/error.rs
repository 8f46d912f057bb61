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
    /// The files hold other tensors than the network has.
    #[error("tensors of a {family} model: {}", describe(missing, left_over))]
    Tensors {
        /// The family.
        family: &'static str,
        /// Names that are not there.
        missing: Vec<String>,
        /// Names that nothing reads.
        left_over: Vec<String>,
    },
    /// The configuration asks for something that Planish does not do.
    #[error("{0}")]
    Unsupported(String),
}

/// Result of reading or running a network.
pub type Result<T, E = Error> = std::result::Result<T, E>;

fn describe(missing: &[String], left_over: &[String]) -> String {
    let list = |names: &[String]| match names.len() {
        0 => "none".to_owned(),
        n if n > 12 => format!("{} and {} more", names[..10].join(", "), n - 10),
        _ => names.join(", "),
    };
    format!("missing: {}; left over: {}", list(missing), list(left_over))
}
