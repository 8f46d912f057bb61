//! A request's way in: a place first, then its body within limits, then its fields; every refusal in the one shape.
use crate::auth::Tenant;
use crate::error::{ApiError, Result};
use crate::state::{Place, State};
use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::{BodyExt, Limited};
use serde::de::DeserializeOwned;
use std::sync::Arc;
use std::time::Duration;

/// A generation that may begin: it has a place.
pub struct Job<T> {
    /// Given back when dropped.
    pub place: Place,
    /// Whose part of the prefix cache is used.
    pub tenant: Tenant,
    /// What is asked.
    pub body: T,
}

/// A small question: a body without a place.
pub struct Question<T>(pub T);

impl<T: DeserializeOwned> FromRequest<Arc<State>> for Job<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Arc<State>) -> Result<Self> {
        let place = match state.enter() {
            Ok(place) => place,
            Err(error) => {
                drain(request.into_body()).await;
                return Err(error);
            }
        };
        let tenant = request.extensions().get::<Tenant>().cloned().unwrap_or_default();
        Ok(Job { place, tenant, body: read(request, state).await? })
    }
}

impl<T: DeserializeOwned> FromRequest<Arc<State>> for Question<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Arc<State>) -> Result<Self> {
        Ok(Question(read(request, state).await?))
    }
}

async fn read<T: DeserializeOwned>(request: Request, state: &State) -> Result<T> {
    let (limit, time) = (state.options.max_body, state.options.read_time);
    let checked = check_headers(request.headers(), limit);
    let body = request.into_body();
    if let Err(error) = checked {
        drain(body).await;
        return Err(error);
    }
    parse(&bytes(body, limit, time).await?)
}

fn check_headers(headers: &HeaderMap, limit: usize) -> Result<()> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let kind = text(header::CONTENT_TYPE).unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let json = kind.eq_ignore_ascii_case("application/json");
    if !json {
        let message = "Content-Type: expected application/json";
        return Err(ApiError::status(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    if text(header::CONTENT_ENCODING).is_some_and(|coding| !coding.eq_ignore_ascii_case("identity")) {
        let message = "Content-Encoding: expected a body that is not compressed";
        return Err(ApiError::status(StatusCode::UNSUPPORTED_MEDIA_TYPE, message));
    }
    let length = text(header::CONTENT_LENGTH).and_then(|n| n.parse::<u64>().ok());
    match length.is_some_and(|length| length > limit as u64) {
        true => Err(too_large(limit)),
        false => Ok(()),
    }
}

fn too_large(limit: usize) -> ApiError {
    let message = format!("the body is too large: expected at most {limit} bytes");
    ApiError::status(StatusCode::PAYLOAD_TOO_LARGE, message)
}

async fn bytes(body: Body, limit: usize, time: Duration) -> Result<Bytes> {
    let slow = |_| ApiError::status(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time");
    let read = tokio::time::timeout(time, Limited::new(body, limit).collect()).await.map_err(slow)?;
    match read {
        Ok(collected) => Ok(collected.to_bytes()),
        Err(error) if error.is::<http_body_util::LengthLimitError>() => Err(too_large(limit)),
        Err(_) => Err(ApiError::bad_request("the body could not be read to its end")),
    }
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let parsed = serde_path_to_error::deserialize(&mut json).map_err(|error| {
        let path = error.path().to_string();
        let inner = error.into_inner();
        // It may quote what was sent, at any length.
        let message: String = inner.to_string().chars().take(500).collect();
        match inner.classify() {
            serde_json::error::Category::Data if path != "." => ApiError::invalid(&path, format!("{path}: {message}")),
            serde_json::error::Category::Data => ApiError::bad_request(message),
            _ => ApiError::bad_request(format!("the body is not valid JSON: {message}")),
        }
    })?;
    json.end().map_err(|error| ApiError::bad_request(format!("the body is not valid JSON: {error}")))?;
    Ok(parsed)
}

/// Reads on a little after a refusal, so that a caller who is still sending gets to see the answer.
pub async fn drain(body: Body) {
    let rest = Limited::new(body, 1 << 20).collect();
    // What does not come is not waited for.
    let _ = tokio::time::timeout(Duration::from_secs(1), rest).await;
}
