//! `/v1/models`, `/version`, health.
use serde::Serialize;
use utoipa::ToSchema;

/// What is served.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelList {
    /// `list`.
    pub object: &'static str,
    /// The models.
    pub data: Vec<ModelCard>,
}

/// One model.
#[derive(Debug, Serialize, ToSchema)]
pub struct ModelCard {
    /// Its name.
    pub id: String,
    /// `model`.
    pub object: &'static str,
    /// Seconds since 1970 at which it was ready.
    pub created: u64,
    /// `planish`.
    pub owned_by: &'static str,
    /// The same as `id`.
    pub root: String,
    /// Always null.
    pub parent: Option<String>,
    /// Longest sequence, prompt and answer together.
    pub max_model_len: usize,
}

/// The program's version.
#[derive(Debug, Serialize, ToSchema)]
pub struct Version {
    /// Such as `0.1.0`.
    pub version: &'static str,
}

/// Whether the server works.
#[derive(Debug, Serialize, ToSchema)]
pub struct Status {
    /// `ok`.
    pub status: &'static str,
}
