//! A prompt as Python's half of the package hands it over.
use crate::fields::value;
use anyhow::{Context, Result};
use planish::Pipeline;
use planish_text::ChatInput;
use pyo3::exceptions::PyTypeError;
use pyo3::prelude::*;
use serde_json::Value;

/// What is answered.
pub enum Prompt {
    /// A text as it is, with what the model puts before a text.
    Text(String),
    /// A conversation for the template: an object of `messages`, `tools` and `variables`.
    Chat(String),
    /// Token ids.
    Ids(Vec<u32>),
}

impl FromPyObject<'_, '_> for Prompt {
    type Error = PyErr;

    /// Reads `("text", TEXT)`, `("chat", JSON)` or `("ids", IDS)`.
    fn extract(given: Borrowed<'_, '_, PyAny>) -> PyResult<Prompt> {
        let (kind, content): (String, Bound<'_, PyAny>) = given.extract()?;
        match kind.as_str() {
            "text" => Ok(Prompt::Text(value(&content, "prompts", "a text")?)),
            "chat" => Ok(Prompt::Chat(value(&content, "prompts", "messages")?)),
            "ids" => Ok(Prompt::Ids(value(&content, "prompts", "token ids")?)),
            other => Err(PyTypeError::new_err(format!("prompts: expected text, chat or ids, found {other:?}"))),
        }
    }
}

impl Prompt {
    /// Its token ids.
    pub fn encode(self, pipeline: &Pipeline) -> Result<Vec<u32>> {
        match self {
            Prompt::Text(text) => pipeline.encode(&text),
            Prompt::Ids(ids) => Ok(ids),
            Prompt::Chat(json) => {
                let mut input: Value = serde_json::from_str(&json).context("messages")?;
                let tools = Some(input["tools"].take()).filter(|tools| !tools.is_null());
                let extra = match input["variables"].take() {
                    Value::Object(variables) => variables,
                    _ => Default::default(),
                };
                let messages = input["messages"].take();
                pipeline.encode_conversation(&ChatInput { messages, tools, add_generation_prompt: true, extra })
            }
        }
    }
}

/// The ids of several; an error says which, if there are several.
pub fn encode(pipeline: &Pipeline, prompts: Vec<Prompt>) -> Result<Vec<Vec<u32>>> {
    let count = prompts.len();
    let one = |(i, prompt): (usize, Prompt)| {
        let ids = prompt.encode(pipeline);
        if count > 1 { ids.with_context(|| format!("prompt {} of {count}", i + 1)) } else { ids }
    };
    prompts.into_iter().enumerate().map(one).collect()
}
