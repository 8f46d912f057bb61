//! Errors of model files. Every message names the file, what was expected and what was found.
use std::{io, path::Path, path::PathBuf};

/// What reading or writing a model can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{}: cannot {action}: {source}", .path.display())]
    Io {
        /// File or directory.
        path: PathBuf,
        /// What was tried, such as `open`.
        action: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// A file or directory is not what it should be.
    #[error("{}: expected {expected}, found {found}", .path.display())]
    File {
        /// File or directory.
        path: PathBuf,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// A JSON field is missing, of another type, or out of bounds.
    #[error("{}: field {field}: expected {expected}, found {found}", .path.display())]
    Field {
        /// The JSON file.
        path: PathBuf,
        /// Dotted path of the field.
        field: String,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// A tensor is missing or does not fit its description.
    #[error("{}: tensor {tensor}: expected {expected}, found {found}", .path.display())]
    Tensor {
        /// The file that holds, or should hold, the tensor.
        path: PathBuf,
        /// Quoted name of the tensor.
        tensor: String,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
    /// A row of a data set is not what it should be.
    #[error("{}: row {row}: {}expected {expected}, found {found}", .path.display(), place(.field))]
    Row {
        /// The file.
        path: PathBuf,
        /// Number of the row, from 1.
        row: usize,
        /// The field, if one of them is meant.
        field: Option<String>,
        /// What was expected.
        expected: String,
        /// What was found.
        found: String,
    },
}

fn place(field: &Option<String>) -> String {
    field.as_ref().map_or(String::new(), |field| format!("field {field}: "))
}

/// Result of reading or writing a model.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An [`Error::File`].
    pub fn file(path: &Path, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Error::File { path: path.into(), expected: expected.into(), found: found.into() }
    }

    /// An [`Error::Field`].
    pub fn field(path: &Path, field: impl Into<String>, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Error::Field { path: path.into(), field: field.into(), expected: expected.into(), found: found.into() }
    }

    /// An [`Error::Tensor`]; the name is quoted and shortened here.
    pub fn tensor(path: &Path, tensor: &str, expected: impl Into<String>, found: impl Into<String>) -> Self {
        Error::Tensor { path: path.into(), tensor: quoted(tensor), expected: expected.into(), found: found.into() }
    }

    /// An [`Error::Row`].
    pub fn row(
        path: &Path,
        row: usize,
        field: Option<&str>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) -> Self {
        let field = field.map(str::to_owned);
        Error::Row { path: path.into(), row, field, expected: expected.into(), found: found.into() }
    }

    /// Turns an [`io::Error`] into an [`Error::Io`], for `map_err`.
    pub fn io(path: &Path, action: &'static str) -> impl FnOnce(io::Error) -> Error {
        move |source| Error::Io { path: path.into(), action, source }
    }
}

/// A name from a file, quoted, control characters escaped, and cut to a length fit for one line.
pub(crate) fn quoted(name: &str) -> String {
    const LIMIT: usize = 120;
    if name.chars().count() <= LIMIT {
        return format!("{name:?}");
    }
    let head: String = name.chars().take(LIMIT).collect();
    format!("{head:?}… ({} bytes)", name.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_stay_on_one_short_line() {
        let error = Error::tensor(Path::new("a.safetensors"), &"x\n".repeat(5000), "a", "b");
        let text = error.to_string();
        assert!(text.starts_with("a.safetensors: tensor \"x\\nx"), "{text}");
        assert!(!text.contains('\n') && text.len() < 300 && text.contains("10000 bytes"), "{text}");
    }
}
