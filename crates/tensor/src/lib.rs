//! Numbers, the W8A8 definition and the trait every back end implements.
//! Opens no file, starts no thread, names no device.
#![forbid(unsafe_code)]

pub mod dtype;
pub mod error;
pub mod float8;
pub mod host;

pub use dtype::DType;
pub use error::{Error, Result};
pub use host::{HostTensor, SharedBytes};
