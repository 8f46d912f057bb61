//! Measures a model: perplexity, KL divergence, comparison. Every model is run through [`planish_engine::Handle`],
//! so that what is measured is what serves.
#![forbid(unsafe_code)]

pub mod compare;
pub mod divergence;
mod error;
pub mod html;
pub mod perplexity;
mod score;
mod statistics;
mod table;
mod window;

pub use error::{Error, Model, Result};
