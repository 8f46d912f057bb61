//! What reading a GGUF file can fail with.
use std::path::PathBuf;

/// Errors of the GGUF reader. Messages name the key or tensor, what was expected and what was found.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GgufError {
    /// The file could not be opened or mapped.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// An error inside the named file.
    #[error("{path}: {source}", path = path.display())]
    InFile {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: Box<GgufError>,
    },
    /// Not a GGUF file, or a version or byte order that is not read.
    #[error("not a readable GGUF file: expected {expected}, found {found}")]
    NotGguf {
        /// What was expected.
        expected: &'static str,
        /// What was found.
        found: String,
    },
    /// The file ends inside a value, or a count asks for more than is left.
    #[error("{what}: needs {needed} bytes at offset {offset}, {left} are left")]
    Truncated {
        /// What was being read.
        what: String,
        /// Bytes asked for (at least).
        needed: u64,
        /// Where in the file.
        offset: u64,
        /// Bytes left there.
        left: u64,
    },
    /// A size computed from the file does not fit the machine.
    #[error("{what}: size overflows")]
    Overflow {
        /// What was being sized.
        what: String,
    },
    /// A field of the container that breaks the format.
    #[error("{what}: expected {expected}, found {found}")]
    Malformed {
        /// The field, key or tensor.
        what: String,
        /// What the format asks for.
        expected: String,
        /// What the file has.
        found: String,
    },
    /// The same key or tensor name twice.
    #[error("duplicate {kind} '{name}'")]
    Duplicate {
        /// `key` or `tensor`.
        kind: &'static str,
        /// The repeated name.
        name: String,
    },
    /// An element type that is not read.
    #[error("tensor '{tensor}': element type {found} is not supported; supported: {supported}")]
    TensorType {
        /// The tensor.
        tensor: String,
        /// Name and number of the type.
        found: String,
        /// The list of supported types.
        supported: String,
    },
    /// A key the model needs is absent.
    #[error("metadata key '{key}' is missing: expected {expected}")]
    MissingKey {
        /// The key.
        key: String,
        /// What it should hold.
        expected: &'static str,
    },
    /// No tensor of this (Hugging Face) name.
    #[error("no tensor '{name}' in this GGUF model")]
    MissingTensor {
        /// The name asked for.
        name: String,
    },
    /// A model that cannot be shown as a Hugging Face one.
    #[error("{what}: {reason}")]
    Unsupported {
        /// The key, tensor or architecture.
        what: String,
        /// Why, and what would be accepted.
        reason: String,
    },
    /// A tensor could not be made.
    #[error(transparent)]
    Tensor(#[from] planish_tensor::Error),
}

impl GgufError {
    /// A [`GgufError::Malformed`].
    pub(super) fn malformed(
        what: impl Into<String>,
        expected: impl Into<String>,
        found: impl std::fmt::Display,
    ) -> Self {
        GgufError::Malformed { what: what.into(), expected: expected.into(), found: found.to_string() }
    }

    /// A [`GgufError::Unsupported`].
    pub(super) fn unsupported(what: impl Into<String>, reason: impl Into<String>) -> Self {
        GgufError::Unsupported { what: what.into(), reason: reason.into() }
    }

    /// A [`GgufError::Overflow`].
    pub(super) fn overflow(what: impl Into<String>) -> Self {
        GgufError::Overflow { what: what.into() }
    }
}

/// Result of the GGUF reader.
pub(super) type Result<T> = std::result::Result<T, GgufError>;
