//! JSON lines, and a JSON list of objects.
use super::Row;
use crate::{Error, Result};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

/// One object a line; empty lines are passed over.
pub(super) fn lines(path: &Path) -> Result<Vec<Row>> {
    let file = File::open(path).map_err(Error::io(path, "open"))?;
    let mut rows = Vec::new();
    for (i, line) in BufReader::new(file).lines().enumerate() {
        let line = line.map_err(Error::io(path, "read"))?;
        // A byte-order mark is no part of the first object.
        let line = line.trim_start_matches('\u{feff}').trim();
        if !line.is_empty() {
            let value = serde_json::from_str(line);
            let value = value.map_err(|e| Error::row(path, i + 1, None, "a JSON object", format!("{e}")))?;
            rows.push(row(path, i + 1, value)?);
        }
    }
    Ok(rows)
}

/// A list of objects.
pub(super) fn whole(path: &Path) -> Result<Vec<Row>> {
    let file = File::open(path).map_err(Error::io(path, "open"))?;
    let value: Value = serde_json::from_reader(BufReader::new(file))
        .map_err(|e| Error::file(path, "a JSON list of objects", e.to_string()))?;
    match value {
        Value::Array(items) => items.into_iter().enumerate().map(|(i, v)| row(path, i + 1, v)).collect(),
        _ => Err(Error::file(path, "a JSON list of objects", "another JSON value")),
    }
}

fn row(path: &Path, number: usize, value: Value) -> Result<Row> {
    match value {
        Value::Object(fields) => Ok(Row { number, fields }),
        other => Err(Error::row(path, number, None, "a JSON object", super::describe(&other))),
    }
}
