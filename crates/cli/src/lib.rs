//! Planish from Rust: open a model, get answers. The `planish` command is a thin layer over this.
//!
//! ```no_run
//! let answers = planish::pipeline("dir")?.run(["Hi, pls intro yourself", "Shanghai is"])?;
//! # anyhow::Ok(())
//! ```
#![forbid(unsafe_code)]

pub mod answer;
pub mod feed;
pub mod pipeline;
pub mod source;
pub mod words;

pub use answer::{Answer, Answering};
pub use pipeline::{Generation, Pipeline, PipelineOptions, pipeline};
pub use source::Model;
pub use words::Words;
