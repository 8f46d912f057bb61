//! What a network is, and its one forward pass.
//! Names no device; knows W8A8 weights, but not how they were made.
#![forbid(unsafe_code)]

pub mod arch;
pub mod archs;
pub mod attention;
pub mod block;
pub mod decoder;
pub mod dummy;
pub mod error;
pub mod experts;
pub mod kv;
pub mod linear;
pub mod mlp;
pub mod moe;
pub mod norm;
pub mod packing;
pub mod plan;
pub mod quantized;
pub mod rope;
pub mod table;
pub mod tap;
pub mod weights;
pub mod workspace;

pub use arch::{Absorber, Arch, Input, Mlp, Place, Role};
pub use decoder::{Decoder, Ends, LoadOptions};
pub use error::{Error, Result};
pub use kv::KvPool;
pub use plan::Plan;
pub use workspace::Workspace;
