//! Words: tokenizer, chat template, detokenizer, stop strings.
//!
//! Text in, token ids out, and back. Callers give bytes and JSON; no file is opened here and
//! nothing is known of checkpoints. What a user typed stays plain text: see [`Tokenizer::encode_chat`].
#![forbid(unsafe_code)]

mod budget;
mod chat;
mod clock;
mod detok;
mod error;
pub mod gguf;
mod marks;
mod methods;
mod plain;
mod python;
mod sandbox;
pub mod sentencepiece;
mod source;
mod stop;
mod tokenizer;
mod vocabulary;

pub use chat::{ChatInput, ChatTemplate, Message, RenderedChat};
pub use detok::Detokenizer;
pub use error::{Result, TextError};
pub use gguf::GgufVocab;
pub use stop::{StopResult, StopStrings};
pub use tokenizer::{SpecialText, Tokenizer};
pub use vocabulary::TokenBytes;
