//! Planish from Rust: open a model, get answers. The `planish` command is a thin layer over this.
//!
//! ```no_run
//! let answers = planish::pipeline("dir")?.run(["Hi, pls intro yourself", "Shanghai is"])?;
//! # anyhow::Ok(())
//! ```
#![forbid(unsafe_code)]

pub mod answer;
pub mod batch;
pub mod feed;
pub mod line;
pub mod machine;
pub mod notice;
pub mod pipeline;
pub mod quantize;
pub mod source;
pub mod words;

pub use answer::{Answer, Answering};
pub use batch::{Batch, Step};
pub use pipeline::{Generation, Pipeline, PipelineOptions, pipeline};
pub use source::Model;
pub use words::Words;
