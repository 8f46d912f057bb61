//! The key-value section, in file order, with typed lookups whose errors name the key.
use super::cursor::Cursor;
use super::error::{GgufError, Result};
use super::value::{GgufArray, GgufValue};
use std::collections::HashMap;

/// The format's limit on a key.
const MAX_KEY_BYTES: usize = 65535;
/// Key length, one key byte, type, one value byte.
const MIN_ENTRY_BYTES: usize = 8 + 1 + 4 + 1;

/// All metadata of a file.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    entries: Vec<(String, GgufValue)>,
    index: HashMap<String, usize>,
}

impl Metadata {
    /// Keys and values in file order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &GgufValue)> {
        self.entries.iter().map(|(k, v)| (k.as_str(), v))
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&GgufValue> {
        self.index.get(key).map(|&i| &self.entries[i].1)
    }

    /// Reads the `count` entries of the section.
    pub(super) fn read(cursor: &mut Cursor<'_>, count: usize) -> Result<Metadata> {
        let mut out = Metadata { entries: Vec::new(), index: HashMap::new() };
        for _ in 0..count {
            let key = cursor.string("metadata key")?;
            if key.is_empty() || key.len() > MAX_KEY_BYTES {
                let found = format!("{} bytes", key.len());
                return Err(GgufError::malformed("metadata key", format!("1 to {MAX_KEY_BYTES} bytes"), found));
            }
            if out.index.contains_key(key) {
                return Err(GgufError::Duplicate { kind: "key", name: key.to_owned() });
            }
            let value = GgufValue::read(cursor, key)?;
            out.index.insert(key.to_owned(), out.entries.len());
            out.entries.push((key.to_owned(), value));
        }
        Ok(out)
    }

    /// The least bytes an entry takes.
    pub(super) const fn min_entry_bytes() -> usize {
        MIN_ENTRY_BYTES
    }

    /// Text, if the key is there; another type is an error.
    pub(super) fn text(&self, key: &str) -> Result<Option<&str>> {
        self.typed(key, "a string", GgufValue::as_str)
    }

    /// A boolean, if the key is there.
    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>> {
        self.typed(key, "a bool", GgufValue::as_bool)
    }

    /// A non-negative integer, if the key is there.
    pub(super) fn integer(&self, key: &str) -> Result<Option<u64>> {
        self.typed(key, "a non-negative integer", GgufValue::as_u64)
    }

    /// A finite real number, if the key is there.
    pub(super) fn real(&self, key: &str) -> Result<Option<f64>> {
        self.typed(key, "a finite real number", |v| v.as_f64().filter(|x| x.is_finite()))
    }

    /// An array, if the key is there.
    pub(super) fn array(&self, key: &str) -> Result<Option<&GgufArray>> {
        self.typed(key, "an array", GgufValue::as_array)
    }

    /// An integer that may be given once per layer, as long as all layers agree.
    pub(super) fn integer_of_all_layers(&self, key: &str) -> Result<Option<u64>> {
        let Some(GgufValue::Array(list)) = self.get(key) else {
            return self.integer(key);
        };
        let values: Vec<u64> = match list {
            GgufArray::U32(v) => v.iter().map(|&x| x.into()).collect(),
            GgufArray::I32(v) => v.iter().filter_map(|&x| x.try_into().ok()).collect(),
            _ => Vec::new(),
        };
        match values.first() {
            Some(&first) if values.len() == list.len() && values.iter().all(|&v| v == first) => Ok(Some(first)),
            _ => Err(GgufError::unsupported(key, "expected one value for all layers, found values that differ")),
        }
    }

    /// As [`Metadata::integer`], where the key must be there.
    pub(super) fn required_integer(&self, key: &str) -> Result<u64> {
        self.integer(key)?
            .ok_or_else(|| GgufError::MissingKey { key: key.to_owned(), expected: "a non-negative integer" })
    }

    fn typed<'a, T>(
        &'a self,
        key: &str,
        expected: &'static str,
        cast: impl Fn(&'a GgufValue) -> Option<T>,
    ) -> Result<Option<T>> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match cast(value) {
            Some(out) => Ok(Some(out)),
            None => Err(GgufError::malformed(key, expected, describe(value))),
        }
    }
}

/// Numbers by value, the rest by type: an error must not print a whole vocabulary.
fn describe(value: &GgufValue) -> String {
    match value {
        GgufValue::String(_) | GgufValue::Array(_) => value.type_name().to_owned(),
        number => format!("{number:?}"),
    }
}
