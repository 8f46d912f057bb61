//! GGUF files (versions 2 and 3, little endian): the container, ggml's block formats, and a view of a whole file
//! as a Hugging Face model. Format: the GGUF specification of the ggml project (`docs/gguf.md`).
//!
//! A file is hostile until checked: every count is compared with the bytes left before anything is allocated.

mod cursor;
mod dequant;
mod error;
mod factors;
mod file;
mod hf_config;
mod metadata;
mod model;
mod names;
mod source;
mod tokenizer;
mod types;
mod value;

pub use dequant::dequantize;
pub use error::GgufError;
pub use file::{GgufFile, GgufTensor};
pub use metadata::Metadata;
pub use model::{GgufDtype, GgufModel};
pub use source::GgufSource;
pub use tokenizer::GgufTokenizer;
pub use types::GgmlType;
pub use value::{GgufArray, GgufValue};
