//! Numbers, the W8A8 definition and the trait every back end implements.
//! Opens no file, starts no thread, names no device.
#![forbid(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!("tensors are little-endian bytes, here as in every model file");

pub mod backend;
pub mod batch;
pub mod conformance;
pub mod dtype;
pub mod error;
pub mod float8;
pub mod grid;
pub mod host;
pub mod layout;
pub mod mixture;
pub mod q8;
pub mod sample;
pub mod solver;

pub use backend::{
    Activation, AttentionShape, Backend, FloatMath, KvLayer, LinearPart, LinearShape, Memory, Preferences, Q8Rows,
    Recording, RecordingKey, RopeTable, Tensor, kv_scale_bytes,
};
pub use batch::Batch;
pub use dtype::DType;
pub use error::{Error, Result};
pub use grid::{Grid, InputCodes};
pub use host::{HostTensor, SharedBytes};
pub use q8::Q8;
pub use sample::SampleRow;
pub use solver::{GramFactor, RowNumbers, SolvedRows, Solver};
