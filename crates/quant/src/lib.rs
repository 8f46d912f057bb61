//! Changes a model: calibration, SmoothQuant, GPTQ and round-to-nearest.
#![forbid(unsafe_code)]

pub mod blocks;
pub mod budget;
pub mod calibrate;
pub mod clip;
pub mod error;
pub mod gptq;
mod grid;
pub mod html;
pub mod recipe;
pub mod report;
pub mod rtn;
pub mod samples;
pub mod search;
pub mod smooth;

pub use error::{Error, Result};
