//! The log: one line on stderr for each request, when its answer has ended. Never a word of a prompt or an answer, and
//! never a key.
use crate::lines::Lines;
use crate::options::LogStyle;
use crate::state::State;
use axum::body::{Body, Bytes};
use axum::extract::{MatchedPath, Request, State as Shared};
use axum::http::{HeaderMap, HeaderName, HeaderValue};
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use serde_json::json;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest label of a caller's own that is kept.
const LABEL: usize = 64;

/// The log of a server, if it is to have one.
pub fn open(style: LogStyle) -> Option<Lines> {
    let left_out: fn(u64) -> String = match style {
        LogStyle::Off => return None,
        LogStyle::Json => |lines| json!({"at": crate::clock::unix_seconds(), "left_out": lines}).to_string(),
        LogStyle::Text => |lines| format!("{lines} lines are left out here: this log was not read in time"),
    };
    Some(Lines::start(std::io::stderr(), left_out))
}

/// Gives every request an id, counts its answer and writes it down.
pub async fn keep(Shared(state): Shared<Arc<State>>, request: Request, next: Next) -> Response {
    let id = state.ids.label("req-");
    let entry = state.log.clone().map(|lines| Entry::new(lines, state.options.log, id.clone(), &request));
    let mut response = next.run(request).await;
    let status = response.status().as_u16();
    state.counts.answered(status);
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    let Some(mut entry) = entry else { return response };
    entry.status = status;
    entry.head_ms = Some(entry.start.elapsed().as_secs_f64() * 1e3);
    response.map(|body| Body::new(Watched { body, entry }))
}

/// One line in the making: written when it is dropped, which is when the answer has ended or its caller has gone.
struct Entry {
    lines: Lines,
    style: LogStyle,
    start: Instant,
    id: String,
    label: Option<String>,
    method: String,
    path: String,
    status: u16,
    head_ms: Option<f64>,
    bytes: u64,
    complete: bool,
}

impl Entry {
    fn new(lines: Lines, style: LogStyle, id: String, request: &Request) -> Entry {
        // A path that no route knows is a caller's own text: it stays out.
        let path = request.extensions().get::<MatchedPath>().map_or("(no route)", MatchedPath::as_str);
        Entry {
            lines,
            style,
            start: Instant::now(),
            id,
            label: label(request.headers()),
            method: request.method().to_string(),
            path: path.to_owned(),
            status: 499,
            head_ms: None,
            bytes: 0,
            complete: false,
        }
    }

    fn line(&self) -> String {
        let ms = self.start.elapsed().as_secs_f64() * 1e3;
        let head = self.head_ms.unwrap_or(ms);
        let status = if self.complete { self.status } else { 499 };
        match self.style {
            LogStyle::Json => json!({
                "at": crate::clock::unix_seconds(), "id": self.id, "label": self.label, "method": self.method,
                "path": self.path, "status": status, "head_ms": round(head), "ms": round(ms), "bytes": self.bytes,
            })
            .to_string(),
            _ => format!("{status} {} {} {:.1} ms {} bytes {}", self.method, self.path, ms, self.bytes, self.id),
        }
    }
}

fn round(ms: f64) -> f64 {
    (ms * 1e3).round() / 1e3
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.lines.push(self.line());
    }
}

/// A caller's own name for its request, if it is a plain word.
fn label(headers: &HeaderMap) -> Option<String> {
    let given = headers.get(REQUEST_ID)?.to_str().ok()?;
    let plain = given.chars().all(|c| c.is_ascii_alphanumeric() || "-_.:".contains(c));
    (plain && given.len() <= LABEL).then(|| given.to_owned())
}

/// A body that is watched to its end.
struct Watched {
    body: Body,
    entry: Entry,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                self.entry.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
                // A body of known length is not polled again after its last byte.
                self.entry.complete |= self.body.is_end_stream();
            }
            Poll::Ready(None) => self.entry.complete = true,
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
