//! Files of calibration data as records: jsonl, json, parquet, csv and plain text.
use crate::error::{Error, Result};
use planish_checkpoint::rows;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const BUILT_IN: &str = include_str!("../../assets/calibration.jsonl");
/// Larger files are refused: they are read whole.
const MAX_BYTES: u64 = 4 << 30;

/// Where calibration data comes from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// The small sample in the binary: 175 conversations.
    BuiltIn,
    /// A file whose name ends in one of [`KINDS`].
    File(PathBuf),
    /// Such a file of a data set with this name.
    Named(String, PathBuf),
}

/// Ends of the names of files that can be read, without the dot.
pub const KINDS: [&str; 6] = ["jsonl", "ndjson", "json", "parquet", "csv", "txt"];

/// One record of a file.
pub(super) enum Record {
    Text(String),
    /// List of `{"role", "content"}`.
    Chat(Value),
    Ids(Vec<u32>),
}

enum Content {
    /// Byte ranges of the lines that are not blank, with their numbers.
    Lines(String, Vec<(usize, std::ops::Range<usize>)>),
    Items(Vec<Value>),
    /// Rows with their numbers.
    Rows(Vec<(usize, Value)>),
    Pieces(Vec<String>),
}

/// A file whose records are understood one at a time.
pub(super) struct File {
    name: String,
    content: Content,
}

impl File {
    /// Reads a file; plain text is cut into pieces of about `seqlen` tokens.
    pub fn open(source: &Source, seqlen: usize) -> Result<File> {
        let (name, path) = match source {
            Source::BuiltIn => return Ok(File::lines("built-in sample".into(), BUILT_IN.into())),
            Source::File(path) => (path.display().to_string(), path),
            Source::Named(name, path) => (name.clone(), path),
        };
        let kind = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
        let fail = |problem: String| Error::Samples { path: name.clone(), line: 0, problem };
        if !KINDS.contains(&kind.as_str()) {
            let kinds = KINDS.join(", .");
            return Err(fail(format!("expected a file of calibration data named .{kinds}, found .{kind}")));
        }
        check_size(path).map_err(fail)?;
        if matches!(kind.as_str(), "parquet" | "csv") {
            let rows = rows::read(path)?.rows.into_iter().map(|mut row| {
                if kind == "csv" {
                    row.fields.iter_mut().for_each(|(name, cell)| unfold(name, cell));
                }
                (row.number, Value::Object(row.fields))
            });
            return Ok(File { name, content: Content::Rows(rows.collect()) });
        }
        let text = read_text(path).map_err(fail)?;
        match kind.as_str() {
            "jsonl" | "ndjson" => Ok(File::lines(name, text)),
            "txt" => Ok(File { name, content: Content::Pieces(pieces(&text, seqlen)) }),
            _ => {
                let items = serde_json::from_str(&text).map_err(|e| fail(format!("not JSON: {e}"))).map(items)?;
                let expected = "expected a list of records or of lists of token ids";
                Ok(File { content: Content::Items(items.ok_or_else(|| fail(expected.into()))?), name })
            }
        }
    }

    fn lines(name: String, text: String) -> File {
        let (mut lines, mut at) = (Vec::new(), 0);
        for (number, line) in text.split_inclusive('\n').enumerate() {
            if !line.trim().is_empty() {
                lines.push((number + 1, at..at + line.len()));
            }
            at += line.len();
        }
        File { name, content: Content::Lines(text, lines) }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn records(&self) -> usize {
        match &self.content {
            Content::Lines(_, lines) => lines.len(),
            Content::Items(items) => items.len(),
            Content::Rows(rows) => rows.len(),
            Content::Pieces(pieces) => pieces.len(),
        }
    }

    pub fn record_kind(&self) -> &'static str {
        if matches!(self.content, Content::Pieces(_)) { "pieces" } else { "records" }
    }

    pub fn record(&self, index: usize) -> Result<Record> {
        let fail = |problem| self.problem(Some(index), problem);
        match &self.content {
            Content::Pieces(pieces) => Ok(Record::Text(pieces[index].clone())),
            Content::Items(items) => understand(&items[index]).map_err(fail),
            Content::Rows(rows) => understand(&rows[index].1).map_err(fail),
            Content::Lines(text, lines) => {
                let value = serde_json::from_str(&text[lines[index].1.clone()]);
                value.map_err(|e| format!("not JSON: {e}")).and_then(|v| understand(&v)).map_err(fail)
            }
        }
    }

    /// An error at a record, or of the whole file.
    pub fn problem(&self, record: Option<usize>, problem: String) -> Error {
        let (line, problem) = match (&self.content, record) {
            (Content::Lines(_, lines), Some(index)) => (lines[index].0, problem),
            (Content::Rows(rows), Some(index)) => (0, format!("row {}: {problem}", rows[index].0)),
            (Content::Items(_), Some(index)) => (0, format!("record {index} (from 0): {problem}")),
            _ => (0, problem),
        };
        Error::Samples { path: self.name.clone(), line, problem }
    }
}

fn check_size(path: &Path) -> std::result::Result<(), String> {
    let bytes = std::fs::metadata(path).map_err(|e| format!("cannot be read: {e}"))?.len();
    if bytes > MAX_BYTES {
        return Err(format!("expected at most {MAX_BYTES} bytes of calibration data, found {bytes}"));
    }
    Ok(())
}

fn read_text(path: &Path) -> std::result::Result<String, String> {
    let bytes = std::fs::read(path).map_err(|e| format!("cannot be read: {e}"))?;
    String::from_utf8(bytes)
        .map_err(|e| format!("expected UTF-8 text, found another byte at offset {}", e.utf8_error().valid_up_to()))
}

/// A list, or an object with a list of lists (or of objects) in it.
fn items(value: Value) -> Option<Vec<Value>> {
    match value {
        Value::Array(items) => Some(items),
        Value::Object(fields) => fields.into_iter().find_map(|(_, v)| match v {
            Value::Array(items) if items.iter().any(|i| i.is_array() || i.is_object()) => Some(items),
            _ => None,
        }),
        _ => None,
    }
}

/// Whole lines, at least about one sequence each (a token is four to five bytes of English; eight leave some over).
fn pieces(text: &str, seqlen: usize) -> Vec<String> {
    let enough = seqlen.saturating_mul(8);
    let mut out = vec![String::new()];
    for line in text.split_inclusive('\n') {
        if out.last().is_some_and(|piece| piece.len() >= enough) {
            out.push(String::new());
        }
        out.last_mut().into_iter().for_each(|piece| piece.push_str(line));
    }
    out.retain(|piece| !piece.trim().is_empty());
    out
}

/// A cell of CSV is a text; of a column of lists it is a list as JSON, and nothing where the row has none.
fn unfold(column: &str, cell: &mut Value) {
    if !["input_ids", "messages", "conversations"].contains(&column) {
        return;
    }
    let text = cell.as_str().unwrap_or_default().trim();
    let list = if text.is_empty() { Some(Value::Null) } else { serde_json::from_str(text).ok() };
    // Anything else stays, and is refused with its beginning.
    if let Some(list @ (Value::Array(_) | Value::Null)) = list {
        *cell = list;
    }
}

fn understand(value: &Value) -> std::result::Result<Record, String> {
    if let Value::Array(_) = value {
        return ids("token ids", value).map(Record::Ids);
    }
    let fields = value.as_object().ok_or_else(|| format!("expected an object, found {}", short(value)))?;
    let present = |name: &str| fields.get(name).filter(|v| !v.is_null());
    if let Some(list) = present("input_ids") {
        return ids("input_ids", list).map(Record::Ids);
    }
    for name in ["messages", "conversations"] {
        if let Some(list) = present(name) {
            return chat(name, list).map(Record::Chat);
        }
    }
    match present("text") {
        Some(Value::String(text)) => Ok(Record::Text(text.clone())),
        Some(other) => Err(format!("field text: expected a string, found {}", short(other))),
        None => {
            let found: Vec<_> = fields.keys().map(String::as_str).collect();
            let expected = "expected one of the fields text, messages, conversations and input_ids";
            Err(format!("{expected}, found {}", if found.is_empty() { "none".into() } else { found.join(", ") }))
        }
    }
}

fn ids(name: &str, value: &Value) -> std::result::Result<Vec<u32>, String> {
    let list = value.as_array().ok_or_else(|| format!("field {name}: expected a list, found {}", short(value)))?;
    if list.is_empty() {
        return Err(format!("field {name}: expected token ids, found an empty list"));
    }
    let id = |v: &Value| v.as_u64().and_then(|id| u32::try_from(id).ok());
    list.iter().map(|v| id(v).ok_or_else(|| format!("field {name}: expected token ids, found {}", short(v)))).collect()
}

/// Messages in either spelling: `role` and `content`, or ShareGPT's `from` and `value`.
fn chat(name: &str, value: &Value) -> std::result::Result<Value, String> {
    let list = value.as_array().filter(|list| !list.is_empty());
    let list = list.ok_or_else(|| format!("field {name}: expected a list of messages, found {}", short(value)))?;
    let text = |message: &Value, keys: [&str; 2]| {
        let found = keys.iter().find_map(|key| message.get(key)).and_then(Value::as_str);
        let expected =
            || format!("field {name}: expected messages with the string {}, found {}", keys[0], short(message));
        found.map(str::to_string).ok_or_else(expected)
    };
    let mut out = Vec::with_capacity(list.len());
    for message in list {
        let role = text(message, ["role", "from"])?;
        let role = match role.as_str() {
            "human" => "user",
            "gpt" | "chatgpt" | "bot" => "assistant",
            other => other,
        };
        out.push(json!({"role": role, "content": text(message, ["content", "value"])?}));
    }
    Ok(Value::Array(out))
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    if text.chars().count() > 60 { format!("{}…", text.chars().take(60).collect::<String>()) } else { text }
}
