//! Changes a model: calibration, SmoothQuant, GPTQ and round-to-nearest.
#![forbid(unsafe_code)]

pub mod error;
pub mod gptq;
mod grid;
pub mod recipe;
pub mod rtn;
pub mod samples;
pub mod smooth;

pub use error::{Error, Result};
