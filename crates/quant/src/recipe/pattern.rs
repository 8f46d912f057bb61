//! Names of layers as recipes write them: exact, or `re:` and a regular expression that must match from the start.
use crate::error::{Error, Result};
use regex::Regex;

/// An exact name or a regular expression.
#[derive(Clone, Debug)]
pub struct Pattern {
    text: String,
    regex: Option<Regex>,
}

impl Pattern {
    /// Understands `name` or `re:expression`.
    ///
    /// # Errors
    /// The expression is not valid (look-around is not supported).
    pub fn new(text: &str) -> Result<Pattern> {
        let compile = |expression: &str| {
            Regex::new(&format!("^(?:{expression})")).map_err(|e| Error::Setting {
                name: format!("pattern {text}"),
                expected: "a regular expression without look-around".into(),
                found: e.to_string().lines().last().unwrap_or_default().into(),
            })
        };
        Ok(Pattern { text: text.into(), regex: text.strip_prefix("re:").map(compile).transpose()? })
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Whether a layer's full name matches: wholly for a name, from its start for an expression.
    pub fn matches(&self, name: &str) -> bool {
        self.regex.as_ref().map_or(self.text == name, |r| r.is_match(name))
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text
    }
}
