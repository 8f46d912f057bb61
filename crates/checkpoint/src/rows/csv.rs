//! CSV as RFC 4180 has it: a header, quotes around what needs them, doubled quotes inside.
use super::Row;
use crate::{Error, Result};
use serde_json::{Map, Value};
use std::path::Path;

pub(super) fn read(path: &Path) -> Result<Vec<Row>> {
    let text = std::fs::read_to_string(path).map_err(Error::io(path, "read"))?;
    let records = parse(text.trim_start_matches('\u{feff}'))
        .map_err(|record| Error::row(path, record, None, "a closing quote", "the end of the file"))?;
    let mut records = records.into_iter();
    let Some(header) = records.next() else {
        return Err(Error::file(path, "a header", "an empty file"));
    };
    let mut rows = Vec::new();
    for (i, record) in records.enumerate() {
        if record.len() != header.len() {
            let (expected, found) = (format!("{} fields", header.len()), record.len().to_string());
            return Err(Error::row(path, i + 1, None, expected, found));
        }
        let fields: Map<String, Value> = header.iter().cloned().zip(record.into_iter().map(Value::from)).collect();
        rows.push(Row { number: i + 1, fields });
    }
    Ok(rows)
}

/// All records; the number of the record whose quote does not end.
fn parse(text: &str) -> Result<Vec<Vec<String>>, usize> {
    let (mut records, mut record, mut field) = (Vec::new(), Vec::new(), String::new());
    let (mut quoted, mut chars) = (false, text.chars().peekable());
    while let Some(c) = chars.next() {
        match c {
            '"' if quoted && chars.peek() == Some(&'"') => field.extend(chars.next()),
            '"' if quoted || field.is_empty() => quoted = !quoted,
            c if quoted => field.push(c),
            ',' => record.push(std::mem::take(&mut field)),
            '\r' if chars.peek() == Some(&'\n') => {}
            '\n' => {
                record.push(std::mem::take(&mut field));
                records.push(std::mem::take(&mut record));
            }
            c => field.push(c),
        }
    }
    if quoted {
        return Err(records.len());
    }
    if !field.is_empty() || !record.is_empty() {
        record.push(field);
        records.push(record);
    }
    records.retain(|r| r.len() > 1 || !r[0].is_empty());
    Ok(records)
}

#[cfg(test)]
mod tests {
    use super::parse;

    #[test]
    fn quotes_newlines_and_empty_fields() {
        let found = parse("a,b\r\n\"x, \"\"y\"\"\nz\",\n,last").unwrap();
        assert_eq!(found, [vec!["a", "b"], vec!["x, \"y\"\nz", ""], vec!["", "last"]]);
        assert_eq!(parse("a\n\n\nb\n").unwrap(), [["a"], ["b"]]);
        assert_eq!(parse("a,b\n1,2\n3,\"4"), Err(2));
    }
}
