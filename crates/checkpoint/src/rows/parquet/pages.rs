//! The pages of a column: levels and values of all its rows in a group.
use super::footer::{Chunk, Kind, Node};
use super::thrift::Thrift;
use super::values::{Values, plain};
use super::{Check, Fault, damaged, levels, snappy};
use serde_json::Value;
use std::borrow::Cow;

/// One column of one group, a triplet a value: where it stands, and what it is.
pub(super) struct Column {
    pub repetition: Vec<u32>,
    pub definition: Vec<u32>,
    /// Only of the triplets whose definition is that of the column.
    pub values: Vec<Value>,
}

/// A page being read.
struct Page<'a> {
    bytes: Cow<'a, [u8]>,
    count: usize,
    encoding: i64,
    /// Bytes of levels before the values, uncompressed and without their lengths, as version 2 stores them.
    v2: Option<(usize, usize)>,
}

const DATA: i64 = 0;
const DICTIONARY: i64 = 2;
const DATA_V2: i64 = 3;

pub(super) fn read(file: &[u8], chunk: &Chunk, leaf: &Node) -> Check<Column> {
    let Kind::Leaf(_, physical) = leaf.kind else { return damaged("a column") };
    let end = chunk.start.checked_add(chunk.length).filter(|&end| end <= file.len());
    let Some(end) = end else { return damaged("pages inside the file") };
    let (mut at, mut dictionary) = (chunk.start, Vec::new());
    let mut column = Column { repetition: Vec::new(), definition: Vec::new(), values: Vec::new() };
    while column.definition.len() < chunk.values {
        let (head, used) = Thrift::parse(&file[at..end])?;
        at += used;
        let stored = head.size(3)?;
        let Some(body) = file[at..end].get(..stored) else { return damaged("pages inside the file") };
        at += stored;
        match head.int(1) {
            Some(DICTIONARY) => {
                let count = head.get(7).map_or_else(|| damaged("a dictionary's head"), |d| d.size(1))?;
                let bytes = unpacked(body, chunk.codec, head.size(2)?)?;
                dictionary = plain(&bytes, physical, count)?;
            }
            Some(DATA | DATA_V2) => data_page(&head, body, chunk)?.read(leaf, physical, &dictionary, &mut column)?,
            _ => {}
        }
    }
    Ok(column)
}

fn data_page<'a>(head: &Thrift, body: &'a [u8], chunk: &Chunk) -> Check<Page<'a>> {
    let size = head.size(2)?;
    if let Some(v1) = head.get(5) {
        let bytes = unpacked(body, chunk.codec, size)?;
        return Ok(Page { bytes, count: v1.size(1)?, encoding: v1.int(2).unwrap_or(-1), v2: None });
    }
    let Some(v2) = head.get(8) else { return damaged("a page's head") };
    let (definition, repetition) = (v2.size(5)?, v2.size(6)?);
    let plain = definition.saturating_add(repetition);
    let (Some(levels), Some(rest)) = (body.get(..plain), size.checked_sub(plain)) else {
        return damaged("a page that holds its levels");
    };
    let compressed = !matches!(v2.get(7), Some(Thrift::Bool(false)));
    let codec = if compressed { chunk.codec } else { 0 };
    let values = unpacked(&body[plain..], codec, rest)?;
    let bytes = Cow::Owned([levels, &values].concat());
    Ok(Page { bytes, count: v2.size(1)?, encoding: v2.int(4).unwrap_or(-1), v2: Some((repetition, definition)) })
}

fn unpacked(body: &[u8], codec: i64, size: usize) -> Check<Cow<'_, [u8]>> {
    match codec {
        0 => Ok(Cow::Borrowed(body)),
        1 => Ok(Cow::Owned(snappy::unpack(body, size)?)),
        other => {
            let name = ["", "", "gzip", "LZO", "Brotli", "LZ4", "Zstandard", "LZ4"].get(other as usize);
            Err(Fault::new("Snappy or no compression", *name.unwrap_or(&"an unknown compression")))
        }
    }
}

impl Page<'_> {
    fn read(&self, leaf: &Node, physical: i64, dictionary: &[Value], column: &mut Column) -> Check<()> {
        let mut at = 0;
        let sizes = self.v2.map_or((None, None), |(r, d)| (Some(r), Some(d)));
        let repetition = self.levels(leaf.repetition, sizes.0, &mut at)?;
        let definition = self.levels(leaf.definition, sizes.1, &mut at)?;
        let there = definition.iter().filter(|&&d| d == leaf.definition).count();
        let values = Values { bytes: &self.bytes[at..], encoding: self.encoding, physical };
        column.values.extend(values.read(there, dictionary, &leaf.name)?);
        column.repetition.extend(repetition);
        column.definition.extend(definition);
        if self.count == 0 { damaged("a page with values") } else { Ok(()) }
    }

    /// Levels up to `most`, from `at` on; their length stands before them unless it is known.
    fn levels(&self, most: u32, size: Option<usize>, at: &mut usize) -> Check<Vec<u32>> {
        if most == 0 {
            *at += size.unwrap_or(0);
            return self.in_bounds(vec![0; self.checked_count()?], *at);
        }
        let size = match size {
            Some(size) => size,
            None => {
                let Some(four) = self.bytes.get(*at..*at + 4) else { return damaged("the length of levels") };
                *at += 4;
                u32::from_le_bytes([four[0], four[1], four[2], four[3]]) as usize
            }
        };
        let Some(bytes) = self.bytes.get(*at..at.saturating_add(size)) else { return damaged("levels in their page") };
        *at += size;
        let levels = levels::hybrid(bytes, 32 - most.leading_zeros(), self.checked_count()?)?;
        if levels.iter().any(|&l| l > most) { damaged("levels of the schema") } else { Ok(levels) }
    }

    fn in_bounds(&self, levels: Vec<u32>, at: usize) -> Check<Vec<u32>> {
        if at <= self.bytes.len() { Ok(levels) } else { damaged("levels in their page") }
    }

    /// Values of the page; more than a run of nulls could ever state are a lie.
    fn checked_count(&self) -> Check<usize> {
        const MOST: usize = 1 << 24;
        if self.count <= MOST { Ok(self.count) } else { damaged("a page of at most 16 million values") }
    }
}
