//! Speaks HTTP: an OpenAI-compatible server over engine handles.
//!
//! A request takes a place, is read, checked and encoded, and goes to the engine; events come back through a queue and
//! leave as one JSON document or as server-sent events. A caller that goes away drops all of it, and its pages are free.
#![forbid(unsafe_code)]

mod app;
mod auth;
mod chat;
mod clock;
mod completions;
mod conversation;
mod convert;
mod counts;
mod desk;
mod error;
mod intake;
mod journal;
mod lag;
mod line;
mod lines;
mod listen;
mod logprobs;
mod messages;
mod metrics;
mod model;
mod models;
mod openapi;
mod options;
mod patience;
mod piece;
mod probes;
pub mod reasoning;
pub mod reply;
mod responses;
mod running;
mod service;
mod sse;
mod state;
mod tokens;
pub mod tools;
mod turn;
mod ui;
mod wire;

pub use auth::Keys;
pub use listen::{Address, Tls};
pub use model::Served;
pub use options::{LogStyle, Options};
pub use service::{ServeError, Service};
