//! Rows of data sets, from JSON lines, JSON, CSV or parquet: what evaluation measures on and calibration reads. An error
//! names the file, the row and the field.
mod csv;
mod json;
mod parquet;
mod split;

pub use split::split_files;

use crate::error::quoted;
use crate::nearest::nearest;
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Ends of the names of files that [`read`] understands, without the dot.
pub const EXTENSIONS: [&str; 5] = ["jsonl", "ndjson", "json", "csv", "parquet"];

/// One row: its fields by name.
#[derive(Clone, Debug, PartialEq)]
pub struct Row {
    /// Number for people, from 1: the line of a file of lines, else the record.
    pub number: usize,
    /// Fields in the file's order. Those of CSV are texts.
    pub fields: Map<String, Value>,
}

/// All rows of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct Rows {
    /// The file.
    pub path: PathBuf,
    /// In the file's order.
    pub rows: Vec<Row>,
}

/// Reads a file of rows; its name says what it is (one of [`EXTENSIONS`]).
///
/// # Errors
/// The file cannot be read, has another kind of name, or a row of it is not an object of that format.
pub fn read(path: &Path) -> Result<Rows> {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default().to_ascii_lowercase();
    let rows = match extension.as_str() {
        "jsonl" | "ndjson" => json::lines(path)?,
        "json" => json::whole(path)?,
        "csv" => csv::read(path)?,
        "parquet" => parquet::read(path)?,
        _ => {
            let expected = format!("a file named .{}", EXTENSIONS.join(", ."));
            return Err(Error::file(path, expected, quoted(&extension)));
        }
    };
    Ok(Rows { path: path.into(), rows })
}

impl Rows {
    /// The error for a field of a row: what was expected there, and what is.
    pub fn error(&self, row: &Row, field: &str, expected: &str) -> Error {
        let found = row.fields.get(field).map_or_else(|| missing(row, field), describe);
        Error::row(&self.path, row.number, Some(field), expected, found)
    }
}

/// Says that a field is not there, and what may be meant to be it.
fn missing(row: &Row, field: &str) -> String {
    let known: Vec<&str> = row.fields.keys().map(String::as_str).collect();
    match nearest(field, &known) {
        Some(near) => format!("no such field, but {}", quoted(near)),
        None => "no such field".into(),
    }
}

/// A value as an error shows it: its kind and the beginning of it.
fn describe(value: &Value) -> String {
    match value {
        Value::String(text) => format!("the text {}", quoted(text)),
        Value::Array(items) => format!("a list of {}", items.len()),
        Value::Object(_) => "an object".into(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests;
