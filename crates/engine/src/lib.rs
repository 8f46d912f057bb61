//! Runs a model: requests, scheduler, pages, sampler, and the handle everything goes through.
//! Never changes weights.
#![forbid(unsafe_code)]

pub mod assemble;
pub mod config;
pub mod error;
pub mod grammar;
pub mod pages;
pub mod request;
pub mod runner;
pub mod sampler;
pub mod scheduler;
pub mod service;

pub use config::{EngineConfig, EngineOptions};
pub use error::{Error, Result};
pub use grammar::{Grammar, GrammarSpec, Guide, Mask, Vocabulary};
pub use request::{Event, FinishReason, Request, Sampling, ScoreChunk, Stream, TokenLogprobs};
pub use service::{Handle, Info};
