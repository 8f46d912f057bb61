//! Measures a model: perplexity, KL divergence, comparison, the tasks of lm-evaluation-harness. Every model is run through [`planish_engine::Handle`],
//! so that what is measured is what serves.
#![forbid(unsafe_code)]

pub mod compare;
pub mod divergence;
mod error;
pub mod html;
pub mod perplexity;
pub mod random;
mod score;
mod statistics;
mod table;
pub mod tasks;
mod window;

pub use error::{Error, Model, Result};
