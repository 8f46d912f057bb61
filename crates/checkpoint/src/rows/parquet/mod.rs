//! Parquet, as the hub's data sets are stored: any nesting, plain or dictionary encoding, Snappy or no compression.
//! Follows the format's description (parquet-format 2.11). Every length that a file states is checked before it is used.
mod assemble;
mod footer;
mod levels;
mod pages;
mod snappy;
mod thrift;
mod values;

use super::Row;
use crate::{Error, Result};
use std::path::Path;

/// What is wrong with a file, without its name.
type Check<T> = std::result::Result<T, Fault>;

/// A damaged or unknown part of a file.
#[derive(Debug)]
pub(super) struct Fault {
    expected: String,
    found: String,
}

impl Fault {
    fn new(expected: impl Into<String>, found: impl Into<String>) -> Fault {
        Fault { expected: expected.into(), found: found.into() }
    }
}

/// A damaged part: `what` was expected.
fn damaged<T>(what: &str) -> Check<T> {
    Err(Fault::new(what, "a damaged file"))
}

pub(super) fn read(path: &Path) -> Result<Vec<Row>> {
    let bytes = std::fs::read(path).map_err(Error::io(path, "read"))?;
    let rows = rows(&bytes).map_err(|fault| Error::file(path, fault.expected, fault.found))?;
    let number = |(i, fields)| Row { number: i + 1, fields };
    Ok(rows.into_iter().enumerate().map(number).collect())
}

fn rows(bytes: &[u8]) -> Check<Vec<serde_json::Map<String, serde_json::Value>>> {
    let footer = footer::read(bytes)?;
    let mut rows = Vec::new();
    for group in &footer.groups {
        let mut columns = Vec::with_capacity(group.columns.len());
        for (chunk, leaf) in group.columns.iter().zip(footer.schema.leaves()) {
            columns.push(pages::read(bytes, chunk, leaf)?);
        }
        assemble::records(&footer.schema, &columns, group.rows, &mut rows)?;
    }
    match rows.len() == footer.rows {
        true => Ok(rows),
        false => damaged("as many rows as the footer says"),
    }
}
