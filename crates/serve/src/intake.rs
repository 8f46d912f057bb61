//! A request's way in: a place first, then its body within limits, then its fields; every refusal in the one shape.
use crate::auth::Tenant;
use crate::error::{ApiError, Result};
use crate::state::{Place, Seat, State};
use crate::wire::{self, Asked};
use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::http::{HeaderMap, StatusCode, header};
use http_body_util::BodyExt;
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

/// A small question: it runs nothing, and needs no place.
pub struct Question<T> {
    /// Given back when dropped.
    pub seat: Seat,
    /// What is asked.
    pub body: T,
}

/// Longer bodies are parsed on the desk: what is made of them takes longer than going there.
const SHORT: usize = 16 << 10;

impl<T: Asked> FromRequest<Arc<State>> for Job<T> {
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

impl<T: Asked> FromRequest<Arc<State>> for Question<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &Arc<State>) -> Result<Self> {
        let seat = match state.sit() {
            Ok(seat) => seat,
            Err(error) => {
                drain(request.into_body()).await;
                return Err(error);
            }
        };
        Ok(Question { seat, body: read(request, state).await? })
    }
}

async fn read<T: Asked>(request: Request, state: &State) -> Result<T> {
    let (limit, time) = (state.options.max_body, state.options.read_time);
    let checked = check_headers(request.headers(), limit);
    let body = request.into_body();
    if let Err(error) = checked {
        drain(body).await;
        return Err(error);
    }
    let bytes = bytes(body, limit, time).await?;
    match bytes.len() <= SHORT {
        true => parse(&bytes),
        false => state.desk.run(move || parse(&bytes)).await,
    }
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

async fn bytes(body: Body, limit: usize, time: Duration) -> Result<Vec<u8>> {
    let slow = |_| ApiError::status(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time");
    tokio::time::timeout(time, gather(body, limit)).await.map_err(slow)?
}

/// Copied into one piece: a frame holds on to the buffer that it was read into, however small it is.
async fn gather(mut body: Body, limit: usize) -> Result<Vec<u8>> {
    let mut all = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::bad_request("the body could not be read to its end"))?;
        let Some(data) = frame.data_ref() else { continue };
        if data.len() > limit - all.len() {
            return Err(too_large(limit));
        }
        all.extend_from_slice(data);
    }
    Ok(all)
}

fn parse<T: Asked>(bytes: &[u8]) -> Result<T> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    let mut track = serde_path_to_error::Track::new();
    let parsed = wire::read(serde_path_to_error::Deserializer::new(&mut json, &mut track)).map_err(|inner| {
        let path = track.path().to_string();
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
pub async fn drain(mut body: Body) {
    let rest = async {
        let mut most: usize = 1 << 20;
        while let (1.., Some(Ok(frame))) = (most, body.frame().await) {
            most = most.saturating_sub(frame.data_ref().map_or(0, |data| data.len()));
        }
    };
    // What does not come is not waited for.
    let _ = tokio::time::timeout(Duration::from_secs(1), rest).await;
}
