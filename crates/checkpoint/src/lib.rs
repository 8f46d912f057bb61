//! Model files: HF directories, GGUF, the hub, and the durable writer; and the rows of data sets.
//! The only crate that knows HF field names, safetensors and GGUF.
#![deny(unsafe_code)]

pub mod companions;
pub mod config;
pub mod convert;
pub mod digests;
pub mod error;
pub mod generation;
pub mod gguf;
pub mod hub;
pub mod journal;
pub mod nearest;
pub mod rope;
pub mod rows;
pub mod scheme;
pub mod shards;
pub mod source;
pub mod writer;

mod durable;
mod entry;
mod header;
mod json;
mod mapping;

pub use entry::read_model_file;
pub use error::{Error, Result};

/// Folder inside an output directory that holds unfinished work. Nothing in it can be loaded.
pub const STAGING: &str = ".planish-partial";
