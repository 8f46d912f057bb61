//! Speaks HTTP: an OpenAI-compatible server over engine handles. Here: what a model's text means (reasoning, tool
//! calls), as state machines without input or output.
#![forbid(unsafe_code)]

pub mod reasoning;
pub mod reply;
pub mod tools;
