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

    /// How specifically a layer's name is meant: 0 by its name, 1 by an expression, 2 by the class `Linear`.
    pub fn rank(&self, name: &str) -> Option<u8> {
        match &self.regex {
            Some(regex) => regex.is_match(name).then_some(1),
            None if self.text == "Linear" => Some(2),
            None => (self.text == name).then_some(0),
        }
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Pattern) -> bool {
        self.text == other.text
    }
}
