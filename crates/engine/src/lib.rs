//! Runs a model: requests, scheduler, pages, sampler, and the handle everything goes through.
//! Never changes weights.
#![forbid(unsafe_code)]

mod admit;
pub mod answer;
pub mod assemble;
mod caller;
mod choose;
pub mod config;
pub mod device;
pub mod error;
pub mod grammar;
mod judge;
mod mailbox;
pub mod metrics;
mod outlet;
mod overlap;
pub mod pages;
mod plain;
pub mod prefix;
mod recordings;
pub mod request;
mod runner;
pub mod sampler;
pub mod scheduler;
pub mod service;
pub mod speculate;

pub use admit::{MOST_CHOICES, MOST_LOGPROBS};
pub use config::{EngineConfig, EngineOptions};
pub use device::Machine;
pub use error::{Error, Result};
pub use grammar::{Grammar, GrammarSpec, Guide, Mask, Vocabulary};
pub use mailbox::{Cancel, Reader};
pub use metrics::Snapshot;
pub use planish_tensor::Courtesy;
pub use request::{
    Event, FinishReason, Likelihood, Likelihoods, Request, Sampling, ScoreChunk, Scores, Sink, Stream, TokenLogprobs,
};
pub use service::{Handle, Info};
