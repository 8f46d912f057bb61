//! Conversations as a load: ShareGPT's format (or plain prompt and answer), with lengths as the model's tokenizer
//! counts them and the filters of vLLM's benchmark.
use super::Random;
use super::drive::job;
use anyhow::{Context, Error, Result, anyhow, bail};
use planish_engine::Request;
use planish_text::{SpecialText, Tokenizer};
use serde_json::Value;
use std::path::Path;

/// Shorter prompts and answers are left out.
const LEAST: usize = 4;
/// Longer prompts are left out.
const MOST_PROMPT: usize = 1024;
/// So are longer prompts and answers together.
const MOST_TOTAL: usize = 2048;

/// A conversation's first question and the first answer to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Exchange {
    /// What is asked.
    pub prompt: String,
    /// Empty where none is needed.
    pub answer: String,
}

/// Reads a file: a JSON list, or one JSON object in each line. Conversations without an answer are left out.
pub fn read(path: &Path) -> Result<Vec<Exchange>> {
    read_prompts(path, false)
}

/// The same; `alone` takes prompts without an answer too.
pub fn read_prompts(path: &Path, alone: bool) -> Result<Vec<Exchange>> {
    let name = || format!("--dataset {}", path.display());
    let text = std::fs::read_to_string(path).with_context(name)?;
    let entries: Vec<(String, Value)> = match text.trim_start().starts_with('[') {
        true => {
            let list: Vec<Value> = serde_json::from_str(&text).with_context(name)?;
            (1..).zip(list).map(|(at, entry)| (format!("entry {at}"), entry)).collect()
        }
        false => {
            let lines = (1..).zip(text.lines()).filter(|(_, line)| !line.trim().is_empty());
            let parse = |(at, line): (usize, &str)| {
                let entry = serde_json::from_str(line).with_context(|| format!("{}: line {at}: not JSON", name()))?;
                Ok((format!("line {at}"), entry))
            };
            lines.map(parse).collect::<Result<_>>()?
        }
    };
    let mut found = Vec::new();
    for (place, entry) in entries {
        found.extend(exchange(&entry, alone).with_context(|| format!("{}: {place}", name()))?);
    }
    if found.is_empty() {
        bail!("{}: expected conversations with a question and an answer, found none", name());
    }
    Ok(found)
}

/// At most `count` of them, in an order that the seed decides, as prompts and lengths; none longer than `longest`.
pub fn jobs(
    mut exchanges: Vec<Exchange>,
    tokenizer: &Tokenizer,
    count: usize,
    longest: usize,
    random: &mut Random,
) -> Result<Vec<Request>> {
    random.shuffle(&mut exchanges);
    let mut jobs = Vec::new();
    for exchange in exchanges {
        if jobs.len() == count {
            break;
        }
        let prompt = tokenizer.encode_with_special(&exchange.prompt)?;
        let output = tokenizer.encode(&exchange.answer, SpecialText::Plain)?.len();
        if is_of_use(prompt.len(), output, false, longest) {
            jobs.push(job(prompt, output));
        }
    }
    if jobs.is_empty() {
        return Err(none_of_use(longest));
    }
    Ok(jobs)
}

/// Whether lengths are within the limits, and together at most `longest`; an answer whose length is `fixed` may be
/// shorter.
pub fn is_of_use(prompt: usize, output: usize, fixed: bool, longest: usize) -> bool {
    let short = prompt < LEAST || (output < LEAST && !fixed);
    !short && prompt <= MOST_PROMPT && prompt + output <= MOST_TOTAL.min(longest)
}

/// No lengths are within the limits.
pub fn none_of_use(longest: usize) -> Error {
    anyhow!(
        "--dataset: expected a prompt and an answer of {LEAST} tokens or more, prompts up to {MOST_PROMPT} and {} \
         together; found none",
        MOST_TOTAL.min(longest)
    )
}

/// `conversations` (ShareGPT), or `prompt` with `output` or `completion`; `None` if nothing was answered.
fn exchange(entry: &Value, alone: bool) -> Result<Option<Exchange>> {
    if !entry.is_object() {
        bail!("expected an object with conversations, or with prompt and output");
    }
    if let Some(turns) = entry.get("conversations") {
        return conversation(turns);
    }
    let answer = if entry.get("output").is_some() { "output" } else { "completion" };
    let prompt = string(entry, "prompt", "prompt")?;
    if alone && entry.get(answer).is_none() {
        return Ok(Some(Exchange { prompt, answer: String::new() }));
    }
    Ok(Some(Exchange { prompt, answer: string(entry, answer, answer)? }))
}

fn conversation(turns: &Value) -> Result<Option<Exchange>> {
    let Some(turns) = turns.as_array() else { bail!("field conversations: expected a list, found {}", kind(turns)) };
    let mut prompt = None;
    for (i, turn) in turns.iter().enumerate() {
        let field = |name: &str| format!("conversations[{i}].{name}");
        let from = string(turn, "from", &field("from"))?;
        let value = string(turn, "value", &field("value"))?;
        match (from.as_str(), prompt.take()) {
            ("human" | "user", None) => prompt = Some(value),
            ("gpt" | "assistant" | "chatgpt" | "bing" | "bard", Some(prompt)) => {
                return Ok(Some(Exchange { prompt, answer: value }));
            }
            // Somebody else spoke, such as a system prompt: the question still waits.
            (_, waiting) => prompt = waiting,
        }
    }
    Ok(None)
}

fn string(object: &Value, name: &str, field: &str) -> Result<String> {
    match object.get(name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => bail!("field {field}: expected a string, found {}", kind(other)),
        None => bail!("field {field}: expected a string, found nothing"),
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_text(text: &str) -> Result<Vec<Exchange>> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data.json");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    fn pair(prompt: &str, answer: &str) -> Exchange {
        Exchange { prompt: prompt.into(), answer: answer.into() }
    }

    #[test]
    fn both_formats_as_a_list_or_in_lines() {
        let talk = r#"{"id": 1, "conversations": [{"from": "system", "value": "s"}, {"from": "human", "value": "q"},
            {"from": "gpt", "value": "a"}, {"from": "human", "value": "more"}]}"#;
        let plain = r#"{"prompt": "p", "completion": "c"}"#;
        let other = r#"{"prompt": "p", "output": "o", "completion": "c"}"#;
        let unanswered = r#"{"conversations": [{"from": "gpt", "value": "a"}, {"from": "human", "value": "q"}]}"#;
        let all = [pair("q", "a"), pair("p", "c"), pair("p", "o")];
        assert_eq!(read_text(&format!(" [{talk}, {plain}, {unanswered}, {other}]")).unwrap(), all);
        let line = talk.replace('\n', " ");
        assert_eq!(read_text(&format!("{line}\n\n{plain}\n{unanswered}\n{other}\n")).unwrap(), all);
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (text, pieces) in [
            ("{\"prompt\": \"p\", \"output\": \"o\"}\n{", ["line 2", "not JSON"]),
            ("{\"prompt\": \"p\"}", ["line 1", "field completion"]),
            ("[{\"prompt\": 3, \"output\": \"o\"}]", ["entry 1", "field prompt: expected a string, found a number"]),
            ("[{\"conversations\": 3}]", ["entry 1", "field conversations: expected a list"]),
            ("[{\"conversations\": [{\"from\": \"human\"}]}]", ["entry 1", "field conversations[0].value"]),
            ("[7]", ["entry 1", "expected an object"]),
            ("[", ["--dataset", "EOF"]),
            ("[]", ["--dataset", "found none"]),
        ] {
            let error = format!("{:#}", read_text(text).unwrap_err());
            assert!(pieces.iter().all(|p| error.contains(p)), "{text}: {error}");
        }
    }
}
