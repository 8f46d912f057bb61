//! Conversations in files: `{"messages": [{"role", "content"}, …]}`, as OpenAI's API takes them.
use super::Conversation;
use anyhow::{Context, Result, bail};
use planish_text::Message;
use serde_json::Value;
use std::path::Path;

/// Writes a conversation. A file that is something else is not overwritten.
pub fn save(path: &Path, talk: &Conversation) -> Result<()> {
    let place = || format!("/save {}", path.display());
    if path.exists() && read(path).is_err() {
        bail!("{}: expected a new file or a saved conversation, found another file", place());
    }
    std::fs::write(path, serde_json::to_string_pretty(&talk.document())? + "\n").with_context(place)
}

/// Reads a conversation in place of the present one.
pub fn load(path: &Path, talk: &mut Conversation) -> Result<()> {
    let (mut messages, temperature) = read(path).with_context(|| format!("load {}", path.display()))?;
    let first = messages.first().is_some_and(|first| first.role == "system");
    talk.system = first.then(|| messages.remove(0).content).or(talk.system.take());
    talk.messages = messages;
    talk.temperature = temperature.or(talk.temperature);
    Ok(())
}

fn read(path: &Path) -> Result<(Vec<Message>, Option<f32>)> {
    let text = std::fs::read_to_string(path)?;
    let value: Value = serde_json::from_str(&text).context("not JSON")?;
    let list = if value.is_array() { &value } else { &value["messages"] };
    let Some(list) = list.as_array() else { bail!("expected a list of messages, found none") };
    let message = |(at, value): (usize, &Value)| {
        serde_json::from_value(value.clone()).with_context(|| format!("messages[{at}]: expected role and content"))
    };
    let messages = list.iter().enumerate().map(message).collect::<Result<_>>()?;
    Ok((messages, value.get("temperature").and_then(Value::as_f64).map(|value| value as f32)))
}
