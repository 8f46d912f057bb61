//! Numbers, the W8A8 definition and the trait every back end implements.
//! Opens no file, starts no thread, names no device.
#![forbid(unsafe_code)]

#[cfg(target_endian = "big")]
compile_error!("tensors are little-endian bytes, here as in every model file");

pub mod backend;
pub mod batch;
pub mod conformance;
mod courtesy;
pub mod device;
pub mod dtype;
pub mod error;
pub mod float8;
pub mod grid;
pub mod host;
pub mod judge;
pub mod kv;
pub mod layout;
pub mod linear;
pub mod mixture;
pub mod network;
pub mod q8;
pub mod sample;
pub mod solver;
pub mod tensor;

pub use backend::Backend;
pub use batch::{Batch, CHOSEN};
pub use courtesy::Courtesy;
pub use device::{Memory, Preferences, Recording, RecordingKey, VendorProduct};
pub use dtype::DType;
pub use error::{Error, Result};
pub use grid::{Grid, InputCodes};
pub use host::{HostTensor, SharedBytes};
pub use judge::{Asked, Judged, Likely, Target};
pub use kv::{KvLayer, kv_scale_bytes};
pub use linear::{FloatMath, LinearPart, LinearShape};
pub use network::{Activation, Attended, AttentionShape, Projected, RopeTable};
pub use q8::Q8;
pub use sample::SampleRow;
pub use solver::{GramFactor, RowNumbers, SolvedRows, Solver};
pub use tensor::{Q8Rows, Tensor};
