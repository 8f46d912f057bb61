//! Structured output: which tokens may come next so that the text stays within a JSON schema, a regular expression or a
//! Lark grammar. The rules are llguidance's (<https://github.com/guidance-ai/llguidance>); here are its limits, its
//! thread and its cache.
//!
//! Ownership: a [`Vocabulary`] owns the token trie, the cache of compiled grammars, the count of those being compiled and
//! one worker thread; a [`Grammar`] is compiled once on its caller's side and shared; a [`Guide`] is one text's place in
//! it. Masks are computed on the worker while the model's forward runs, never on the device's thread.
mod cache;
mod compile;
mod guide;
mod limits;
pub(crate) mod mask;
mod vocabulary;
mod worker;

pub use guide::Guide;
pub use mask::Mask;
pub use vocabulary::Vocabulary;

use crate::error::Result;
use std::sync::Arc;

/// What a text must be.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum GrammarSpec {
    /// Any JSON object.
    JsonObject,
    /// A JSON value that satisfies this JSON schema (its text).
    JsonSchema(String),
    /// A text that the regular expression matches as a whole (Rust `regex` syntax, no look-around).
    Regex(String),
    /// A text of a grammar in llguidance's dialect of Lark, from its rule `start`.
    Lark(String),
}

impl GrammarSpec {
    /// What kind it is, as error messages name it.
    pub const fn kind(&self) -> &'static str {
        match self {
            GrammarSpec::JsonObject => "JSON object",
            GrammarSpec::JsonSchema(_) => "JSON schema",
            GrammarSpec::Regex(_) => "regular expression",
            GrammarSpec::Lark(_) => "Lark grammar",
        }
    }

    fn text(&self) -> &str {
        match self {
            GrammarSpec::JsonObject => "",
            GrammarSpec::JsonSchema(text) | GrammarSpec::Regex(text) | GrammarSpec::Lark(text) => text,
        }
    }
}

/// A compiled grammar with its vocabulary; cheap to clone.
#[derive(Clone)]
pub struct Grammar {
    compiled: Arc<compile::Compiled>,
    vocabulary: Vocabulary,
}

impl Grammar {
    /// Compiles, or takes from the vocabulary's cache. Runs on the caller's side (tens of milliseconds for a large
    /// schema, a little more for the first grammar of a vocabulary) and must not be called on a device's thread.
    ///
    /// # Errors
    /// [`crate::Error::Grammar`] naming what is wrong, or which limit the grammar exceeds.
    pub fn compile(vocabulary: &Vocabulary, spec: &GrammarSpec) -> Result<Grammar> {
        let compiled = vocabulary.compiled(spec)?;
        Ok(Grammar { compiled, vocabulary: vocabulary.clone() })
    }
}

impl std::fmt::Debug for Grammar {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grammar").field("kind", &self.compiled.kind()).finish_non_exhaustive()
    }
}
