//! Answers piece by piece, as server-sent events. A stream ends with `[DONE]`, or with an error event and never cleanly.
//!
//! Nothing is sent ahead of its reader: pieces are made when the connection takes them, all that are there at once.
use crate::error::ApiError;
use crate::running::{Output, Running};
use crate::state::Place;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use hyper::body::{Body as HttpBody, Frame};
use serde::Serialize;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::time::{Instant, Sleep};

/// Bytes after which a frame is sent even if there is more.
const FRAME: usize = 16 << 10;

/// How one kind of API tells its answers.
pub trait Voice: Send + Unpin + 'static {
    /// Before the first piece.
    fn begin(&mut self, _out: &mut Events) {}
    /// A piece.
    fn tell(&mut self, output: Output, running: &mut Running, out: &mut Events) -> Result<(), ApiError>;
    /// After the last.
    fn end(&mut self, running: &Running, out: &mut Events);
    /// Instead of an end.
    fn fail(&mut self, error: &ApiError, out: &mut Events) {
        out.data(&error.body());
    }
}

/// Events on their way out.
#[derive(Default)]
pub struct Events(Vec<u8>);

impl Events {
    /// An event without a name.
    pub fn data<T: Serialize>(&mut self, value: &T) {
        self.0.extend_from_slice(b"data: ");
        self.json(value);
    }

    /// An event with a name.
    pub fn named<T: Serialize>(&mut self, name: &str, value: &T) {
        self.0.extend_from_slice(format!("event: {name}\ndata: ").as_bytes());
        self.json(value);
    }

    /// The end of a stream as OpenAI marks it.
    pub fn done(&mut self) {
        self.0.extend_from_slice(b"data: [DONE]\n\n");
    }

    fn json<T: Serialize>(&mut self, value: &T) {
        let start = self.0.len();
        // Our own types always can be written; whatever could not leaves an empty object.
        if serde_json::to_writer(&mut self.0, value).is_err() {
            self.0.truncate(start);
            self.0.extend_from_slice(b"{}");
        }
        self.0.extend_from_slice(b"\n\n");
    }
}

/// The body of a stream.
struct Stream<V> {
    running: Running,
    voice: V,
    begun: bool,
    over: bool,
    silence: Pin<Box<Sleep>>,
    keep_alive: Duration,
    _place: Place,
}

/// An answer that streams; its place is taken until it ends.
pub fn respond<V: Voice>(running: Running, voice: V, keep_alive: Duration, place: Place) -> Response {
    let silence = Box::pin(tokio::time::sleep(keep_alive));
    let stream = Stream { running, voice, begun: false, over: false, silence, keep_alive, _place: place };
    let mut response = Body::new(stream).into_response();
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Asks proxies not to collect what is meant to arrive piece by piece.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    response
}

impl<V: Voice> Stream<V> {
    /// Everything that is there now.
    fn gather(&mut self, cx: &mut Context<'_>) -> Events {
        let mut out = Events::default();
        while !self.over && out.0.len() < FRAME {
            match self.running.poll(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(result)) => {
                    if !std::mem::replace(&mut self.begun, true) {
                        self.voice.begin(&mut out);
                    }
                    let told = result.and_then(|output| self.voice.tell(output, &mut self.running, &mut out));
                    if let Err(error) = told {
                        self.voice.fail(&error, &mut out);
                        self.over = true;
                    }
                }
                Poll::Ready(None) => {
                    self.voice.end(&self.running, &mut out);
                    self.over = true;
                }
            }
        }
        out
    }
}

impl<V: Voice> HttpBody for Stream<V> {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.over {
            return Poll::Ready(None);
        }
        let out = self.gather(cx);
        if out.0.is_empty() {
            if self.silence.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
            self.rest();
            // Asks the timer to wake us again.
            let _ = self.silence.as_mut().poll(cx);
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b": keep-alive\n\n")))));
        }
        self.rest();
        Poll::Ready(Some(Ok(Frame::data(out.0.into()))))
    }
}

impl<V> Stream<V> {
    fn rest(&mut self) {
        let until = Instant::now() + self.keep_alive;
        self.silence.as_mut().reset(until);
    }
}
