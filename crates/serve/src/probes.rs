//! Whether the server lives, whether it takes requests, and which one it is.
use crate::error::{ApiError, ErrorBody, Result};
use crate::state::{Phase, State};
use crate::wire::lists::{Status, Version};
use axum::Json;
use axum::extract::State as Shared;
use std::sync::Arc;

/// Lives: 200 unless an engine has failed for good.
#[utoipa::path(get, path = "/health", tag = "Operation", responses(
    (status = 200, description = "Alive", body = Status),
    (status = 503, description = "An engine has failed: restart", body = ErrorBody)
))]
pub async fn health(Shared(state): Shared<Arc<State>>) -> Result<Json<Status>> {
    for model in state.models() {
        // The engine's own words are for the log.
        model.served.handle.health().map_err(|_| ApiError::unavailable("an engine has failed").code("engine_dead"))?;
    }
    Ok(Json(Status { status: "ok" }))
}

/// Takes requests: 503 while loading and draining.
#[utoipa::path(get, path = "/ready", tag = "Operation", responses(
    (status = 200, description = "Ready", body = Status),
    (status = 503, description = "Loading, draining or failed", body = ErrorBody)
))]
pub async fn ready(shared: Shared<Arc<State>>) -> Result<Json<Status>> {
    match shared.phase() {
        Phase::Loading => Err(ApiError::unavailable("the model is being loaded")),
        Phase::Draining => Err(ApiError::unavailable("the server is shutting down")),
        Phase::Ready => health(shared).await,
    }
}

/// Which version.
#[utoipa::path(get, path = "/version", tag = "Operation", responses(
    (status = 200, description = "The version", body = Version),
    (status = "4XX", description = "No key", body = ErrorBody)
))]
pub async fn version() -> Json<Version> {
    Json(Version { version: env!("CARGO_PKG_VERSION") })
}
