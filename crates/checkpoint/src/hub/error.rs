//! What fetching from the hub can fail with.
use std::path::{Path, PathBuf};

/// Errors of the hub client. Messages name the repository, file or address; addresses come without their query,
/// which may hold a signature, and the token is never in them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// A repository id, revision, file name, endpoint or token that must not be used.
    #[error("{what} '{found}': expected {expected}")]
    BadName {
        /// `repository id`, `revision`, `file name`, ...
        what: &'static str,
        /// The refused text.
        found: String,
        /// What is accepted.
        expected: &'static str,
    },
    /// A setting that cannot be used, whose value is not shown.
    #[error("{what}: expected {expected}")]
    BadSetting {
        /// The environment variable.
        what: &'static str,
        /// What is accepted.
        expected: &'static str,
    },
    /// Offline, and the cache has no complete copy.
    #[error("{repo} at '{revision}' is not complete in the cache ({missing}) and HF_HUB_OFFLINE forbids downloading")]
    Offline {
        /// The repository.
        repo: String,
        /// The revision.
        revision: String,
        /// What is missing, and where it was looked for.
        missing: String,
    },
    /// The server refused access.
    #[error(
        "{url}: access refused (HTTP {status}): the repository does not exist, or is private or gated; set HF_TOKEN to a token that may read it"
    )]
    Unauthorized {
        /// The address, without query.
        url: String,
        /// 401 or 403.
        status: u16,
    },
    /// No such repository, revision or file.
    #[error("{url}: not found (HTTP 404): check the repository id and the revision")]
    NotFound {
        /// The address, without query.
        url: String,
    },
    /// Another HTTP status.
    #[error("{url}: expected success, found HTTP {status}")]
    Status {
        /// The address, without query.
        url: String,
        /// The status.
        status: u16,
    },
    /// The connection failed or broke, after all attempts.
    #[error("{url}: {message} (a cached copy can be used with HF_HUB_OFFLINE=1)")]
    Transport {
        /// The address, without query.
        url: String,
        /// What happened.
        message: String,
    },
    /// An answer that the protocol does not allow.
    #[error("{url}: expected {expected}, found {found}")]
    Protocol {
        /// The address, without query.
        url: String,
        /// What was expected.
        expected: &'static str,
        /// What came.
        found: String,
    },
    /// A download of the wrong contents; it has been deleted.
    #[error("{file}: expected SHA-256 {expected}, found {found}; the download was deleted")]
    Digest {
        /// The file.
        file: String,
        /// As announced.
        expected: String,
        /// As received.
        found: String,
    },
    /// A repository without weights that can be read.
    #[error("{repo} has no weights that can be read: {reason}")]
    NoWeights {
        /// The repository.
        repo: String,
        /// What it has instead.
        reason: String,
    },
    /// The file system failed.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
}

impl HubError {
    /// For `map_err` on file operations.
    pub(super) fn io(path: &Path) -> impl FnOnce(std::io::Error) -> HubError {
        let path = path.to_owned();
        move |source| HubError::Io { path, source }
    }

    /// A [`HubError::Transport`], its address without the query.
    pub(super) fn transport(url: &str, message: impl std::fmt::Display) -> HubError {
        HubError::Transport { url: without_query(url), message: message.to_string() }
    }

    /// A [`HubError::Protocol`], its address without the query.
    pub(super) fn protocol(url: &str, expected: &'static str, found: impl Into<String>) -> HubError {
        HubError::Protocol { url: without_query(url), expected, found: found.into() }
    }

    /// The error for an unsuccessful status.
    pub(super) fn status(url: &str, status: u16) -> HubError {
        let url = without_query(url);
        match status {
            401 | 403 => HubError::Unauthorized { url, status },
            404 => HubError::NotFound { url },
            _ => HubError::Status { url, status },
        }
    }

    /// True when the same request may succeed later.
    pub(super) fn is_transient(&self) -> bool {
        match self {
            HubError::Transport { .. } => true,
            HubError::Status { status, .. } => matches!(status, 408 | 425 | 429 | 500..=599),
            _ => false,
        }
    }
}

/// Signed addresses carry their signature in the query.
fn without_query(url: &str) -> String {
    url.split(['?', '#']).next().unwrap_or_default().to_owned()
}

/// Result of the hub client.
pub(super) type Result<T> = std::result::Result<T, HubError>;
