//! What a request says of tools: which there are, and whether the model may or must call them.

use serde_json::{Map, Value, json};
use thiserror::Error;

/// Most tools of a request.
const MOST_TOOLS: usize = 128;
/// Longest name of a tool, in bytes.
const LONGEST_NAME: usize = 64;

/// A function that the model may call.
#[derive(Debug, Clone, PartialEq)]
pub struct Tool {
    /// Letters, digits, `_`, `-` and `.`; unlike the others.
    pub name: String,
    /// What it does.
    pub description: Option<String>,
    /// A JSON schema of its arguments; none takes none.
    pub parameters: Option<Value>,
}

/// `tool_choice`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ToolChoice {
    /// No call: the model is not even shown the tools.
    None,
    /// As the model likes.
    #[default]
    Auto,
    /// One call at least.
    Required,
    /// This tool and no other.
    Named(String),
}

/// A wrong definition or choice; `field` is the place in the request.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field}: expected {expected}, found {found}")]
pub struct ToolError {
    /// Such as `tools[2].function.name`.
    pub field: String,
    /// What would be right.
    pub expected: &'static str,
    /// What was given.
    pub found: String,
}

impl Tool {
    /// The definition as OpenAI and chat templates write it.
    pub fn definition(&self) -> Value {
        let mut function = Map::new();
        function.insert("name".to_owned(), json!(self.name));
        if let Some(description) = &self.description {
            function.insert("description".to_owned(), json!(description));
        }
        function.insert("parameters".to_owned(), self.schema());
        json!({"type": "function", "function": function})
    }

    /// The schema of its arguments.
    pub(super) fn schema(&self) -> Value {
        self.parameters.clone().unwrap_or_else(|| json!({"type": "object", "properties": {}}))
    }
}

impl ToolChoice {
    /// Checks the definitions, and that the choice can be met.
    ///
    /// # Errors
    /// The first field that is wrong.
    pub fn check(&self, tools: &[Tool]) -> Result<(), ToolError> {
        let wrong = |field: String, expected, found: String| Err(ToolError { field, expected, found });
        if tools.len() > MOST_TOOLS {
            return wrong("tools".to_owned(), "at most 128 tools", tools.len().to_string());
        }
        for (at, tool) in tools.iter().enumerate() {
            let legal = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
            if tool.name.is_empty() || tool.name.len() > LONGEST_NAME || !tool.name.chars().all(legal) {
                let expected = "1 to 64 letters, digits, _, - or .";
                return wrong(format!("tools[{at}].function.name"), expected, format!("{:?}", tool.name));
            }
            if tools[..at].iter().any(|other| other.name == tool.name) {
                let expected = "a name that no other tool has";
                return wrong(format!("tools[{at}].function.name"), expected, format!("{:?}", tool.name));
            }
            if let Some(other) = tool.parameters.as_ref().filter(|schema| !schema.is_object()) {
                return wrong(format!("tools[{at}].function.parameters"), "a JSON schema", other.to_string());
            }
        }
        match self {
            ToolChoice::Required if tools.is_empty() => {
                wrong("tool_choice".to_owned(), "tools to choose from", "none".to_owned())
            }
            ToolChoice::Named(name) if tools.iter().all(|tool| tool.name != *name) => {
                wrong("tool_choice.function.name".to_owned(), "the name of one of the tools", format!("{name:?}"))
            }
            _ => Ok(()),
        }
    }
}
