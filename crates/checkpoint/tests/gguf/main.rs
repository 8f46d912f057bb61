//! GGUF: the container against hostile files, block formats against ggml's Python package, the Hugging Face view.
mod blocks;
mod builder;
mod container;
mod model;
mod mutations;
