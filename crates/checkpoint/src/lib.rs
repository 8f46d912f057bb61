//! Model files: HF directories, GGUF, the hub, and the durable writer.
pub mod gguf;
pub mod hub;
