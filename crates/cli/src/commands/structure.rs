//! Flags of structured output: what an answer must be.
use anyhow::{Context, Result, bail};
use clap::Args;
use planish_engine::GrammarSpec;
use std::path::{Path, PathBuf};

/// At most one of them.
#[derive(Args, Clone, Default)]
#[group(multiple = false)]
pub struct StructureFlags {
    /// Answer with JSON of this schema: a file, or the schema itself
    #[arg(long, value_name = "FILE|JSON")]
    json_schema: Option<String>,
    /// Answer with a JSON object
    #[arg(long)]
    json_object: bool,
    /// Answer with a text that this regular expression matches as a whole
    #[arg(long, value_name = "REGEX")]
    regex: Option<String>,
    /// Answer with a text of this Lark grammar, from its rule `start`
    #[arg(long, value_name = "FILE")]
    grammar: Option<PathBuf>,
}

impl StructureFlags {
    /// What they ask for, if anything; files are read here.
    pub fn spec(&self) -> Result<Option<GrammarSpec>> {
        if self.json_object {
            return Ok(Some(GrammarSpec::JsonObject));
        }
        if let Some(given) = &self.json_schema {
            return schema(given).map(Some);
        }
        if let Some(regex) = &self.regex {
            return Ok(Some(GrammarSpec::Regex(regex.clone())));
        }
        let Some(path) = &self.grammar else { return Ok(None) };
        let text = std::fs::read_to_string(path).with_context(|| format!("--grammar {}", path.display()))?;
        Ok(Some(GrammarSpec::Lark(text)))
    }
}

/// A JSON schema from a file, or from the command line itself.
pub fn schema(given: &str) -> Result<GrammarSpec> {
    let is_file = Path::new(given).is_file();
    let text = match is_file {
        true => std::fs::read_to_string(given).with_context(|| format!("--json-schema {given}"))?,
        false if given.trim_start().starts_with('{') || matches!(given, "true" | "false") => given.to_owned(),
        false => bail!("--json-schema: expected a file or a JSON schema, found {given:?}"),
    };
    let place = if is_file { format!("--json-schema {given}") } else { "--json-schema".into() };
    serde_json::from_str::<serde_json::Value>(&text).with_context(|| format!("{place}: not JSON"))?;
    Ok(GrammarSpec::JsonSchema(text))
}
