//! The safetensors header: 8 bytes of length, then JSON that must describe every byte of the file exactly once.
//! Format: safetensors 0.x. Stricter than its own parser: no duplicate keys, tighter limits.
use crate::{Error, Result, error::quoted};
use planish_tensor::DType;
use serde::de::{self, DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::{collections::HashSet, fmt, ops::Range, path::Path};

/// Longest header read or written, bytes.
pub(crate) const MAX_HEADER: usize = 25_000_000;
/// Most tensors in one file.
pub(crate) const MAX_TENSORS: usize = 200_000;
/// Longest tensor name, bytes.
pub(crate) const MAX_NAME: usize = 1024;
/// Most dimensions.
pub(crate) const MAX_RANK: usize = 8;
/// Largest product of the dimensions, each counted as at least 1: refuses `[0, 2^62]` too.
const MAX_EXTENT: u64 = 1 << 48;

/// An element type in a file: one that we compute with, or one that we only step over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Element {
    Known(DType),
    /// Name and bytes per element.
    Other(&'static str, usize),
}

impl Element {
    const OTHERS: [(&'static str, usize); 7] =
        [("BOOL", 1), ("I16", 2), ("U16", 2), ("U32", 4), ("U64", 8), ("F8_E8M0", 1), ("C64", 8)];

    fn from_name(name: &str) -> Option<Element> {
        let other = || Self::OTHERS.iter().find(|o| o.0 == name).map(|o| Element::Other(o.0, o.1));
        DType::from_name(name).map(Element::Known).or_else(other)
    }
    pub(crate) fn size(self) -> usize {
        match self {
            Element::Known(d) => d.size(),
            Element::Other(_, size) => size,
        }
    }
    pub(crate) fn name(self) -> &'static str {
        match self {
            Element::Known(d) => d.name(),
            Element::Other(name, _) => name,
        }
    }
}

/// One tensor of a file; `range` counts from the start of the file.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) element: Element,
    pub(crate) shape: Vec<usize>,
    pub(crate) range: Range<usize>,
}

/// Reads the header of a whole file; the entries come in file order and cover every byte after the header.
pub(crate) fn parse(file: &[u8], path: &Path) -> Result<Vec<Entry>> {
    let bad = |expected: &str, found: String| Error::file(path, expected, found);
    let length = file.first_chunk::<8>().ok_or_else(|| bad("a safetensors file", format!("{} bytes", file.len())))?;
    let length = u64::from_le_bytes(*length);
    if length > MAX_HEADER as u64 || length as usize > file.len() - 8 {
        let limit = MAX_HEADER.min(file.len() - 8);
        return Err(bad(&format!("a safetensors header of at most {limit} bytes"), format!("length {length}")));
    }
    let start = 8 + length as usize;
    let text = &file[8..start];
    if text.first() != Some(&b'{') {
        return Err(bad("a safetensors header", "a header that is no JSON object".into()));
    }
    let mut json = serde_json::Deserializer::from_slice(text);
    let raw = json
        .deserialize_map(HeaderVisitor)
        .and_then(|raw| json.end().map(|()| raw))
        .map_err(|e| bad("a safetensors header", e.to_string()))?;
    place(raw, start, file.len(), path)
}

/// The header of a file whose data is `tensors` in this order, without gaps: length, JSON, padding to 8 bytes.
pub(crate) fn compose(tensors: &[(&str, DType, &[usize])]) -> Vec<u8> {
    let text = |s: &str| serde_json::to_string(s).expect("a string always serializes");
    let mut json = String::from(r#"{"__metadata__":{"format":"pt"}"#);
    let mut offset = 0;
    for (name, dtype, shape) in tensors {
        let end = offset + shape.iter().product::<usize>() * dtype.size();
        let dims = shape.iter().map(usize::to_string).collect::<Vec<_>>().join(",");
        json += &format!(r#",{}:{{"dtype":"{dtype}","shape":[{dims}],"data_offsets":[{offset},{end}]}}"#, text(name));
        offset = end;
    }
    json.push('}');
    while json.len() % 8 != 0 {
        json.push(' ');
    }
    let mut out = (json.len() as u64).to_le_bytes().to_vec();
    out.extend_from_slice(json.as_bytes());
    out
}

/// Says what is wrong with a tensor name, if anything.
pub(crate) fn check_name(name: &str) -> Result<(), String> {
    if name.is_empty() || name.len() > MAX_NAME || name == "__metadata__" || name.chars().any(char::is_control) {
        return Err(format!("name {}", quoted(name)));
    }
    Ok(())
}

/// Bytes of a tensor, if its extent is sane.
pub(crate) fn byte_count(shape: &[usize], size: usize) -> Option<usize> {
    let extent = shape.iter().try_fold(1u64, |n, &d| n.checked_mul(d.max(1) as u64))?;
    (extent <= MAX_EXTENT).then(|| shape.iter().product::<usize>() * size)
}

struct Raw {
    name: String,
    dtype: String,
    shape: Vec<u64>,
    offsets: (u64, u64),
}

/// Checks types, shapes and offsets, and turns offsets into ranges of the file.
fn place(mut raw: Vec<Raw>, start: usize, end: usize, path: &Path) -> Result<Vec<Entry>> {
    raw.sort_by_key(|t| t.offsets);
    let mut next = start;
    let mut out = Vec::with_capacity(raw.len());
    for t in raw {
        let wrong = |expected: String, found: String| Error::tensor(path, &t.name, expected, found);
        let element =
            Element::from_name(&t.dtype).ok_or_else(|| wrong("a known element type".into(), quoted(&t.dtype)))?;
        let shape: Option<Vec<usize>> = t.shape.iter().map(|&d| usize::try_from(d).ok()).collect();
        let bytes = shape.as_deref().and_then(|s| byte_count(s, element.size()));
        let (Some(shape), Some(bytes)) = (shape, bytes) else {
            return Err(wrong("a shape that fits in memory".into(), format!("{:?}", t.shape)));
        };
        let expected = (next - start, (next - start).saturating_add(bytes));
        if (expected.0 as u64, expected.1 as u64) != t.offsets {
            let what = format!("offsets {expected:?} ({} {shape:?} after the tensor before it)", element.name());
            return Err(wrong(what, format!("{:?}", t.offsets)));
        }
        if bytes > end - next {
            return Err(wrong(format!("data within the file's {} bytes", end - start), format!("{:?}", t.offsets)));
        }
        out.push(Entry { name: t.name, element, shape, range: next..next + bytes });
        next += bytes;
    }
    if next != end {
        return Err(Error::file(path, format!("{next} bytes as the header says"), format!("{end} bytes")));
    }
    Ok(out)
}

struct HeaderVisitor;

impl<'de> Visitor<'de> for HeaderVisitor {
    type Value = Vec<Raw>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of tensors")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Vec<Raw>, A::Error> {
        let mut out: Vec<Raw> = Vec::new();
        let mut seen = HashSet::new();
        let mut metadata = false;
        while let Some(name) = map.next_key::<String>()? {
            if name == "__metadata__" {
                if std::mem::replace(&mut metadata, true) {
                    return Err(de::Error::custom("__metadata__ twice"));
                }
                map.next_value_seed(StringMap)?;
                continue;
            }
            check_name(&name).map_err(de::Error::custom)?;
            if out.len() == MAX_TENSORS {
                return Err(de::Error::custom(format!("more than {MAX_TENSORS} tensors")));
            }
            if !seen.insert(name.clone()) {
                return Err(de::Error::custom(format!("tensor {} twice", quoted(&name))));
            }
            out.push(map.next_value_seed(TensorVisitor(name))?);
        }
        Ok(out)
    }
}

/// `__metadata__`: strings by distinct names, none of which means anything to us.
struct StringMap;

impl<'de> DeserializeSeed<'de> for StringMap {
    type Value = ();
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for StringMap {
    type Value = ();
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object of strings in __metadata__")
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut seen = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            map.next_value::<String>()?;
            if !seen.insert(key) {
                return Err(de::Error::custom("a key of __metadata__ twice"));
            }
        }
        Ok(())
    }
}

/// One tensor's object; holds its name.
struct TensorVisitor(String);

impl<'de> DeserializeSeed<'de> for TensorVisitor {
    type Value = Raw;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Raw, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for TensorVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "dtype, shape and data_offsets of tensor {}", quoted(&self.0))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Raw, A::Error> {
        let wrong = |what: &str| de::Error::custom(format!("tensor {}: {what}", quoted(&self.0)));
        let (mut dtype, mut shape, mut offsets) = (None, None, None);
        while let Some(key) = map.next_key::<String>()? {
            let twice = match key.as_str() {
                "dtype" => dtype.replace(map.next_value::<String>()?).is_some(),
                "shape" => shape.replace(map.next_value_seed(Dims(MAX_RANK))?).is_some(),
                "data_offsets" => offsets.replace(map.next_value_seed(Dims(2))?).is_some(),
                other => return Err(wrong(&format!("unknown field {}", quoted(other)))),
            };
            if twice {
                return Err(wrong(&format!("{key} twice")));
            }
        }
        let dtype = dtype.ok_or_else(|| wrong("no dtype"))?;
        let shape = shape.ok_or_else(|| wrong("no shape"))?;
        let offsets = offsets.ok_or_else(|| wrong("no data_offsets"))?;
        let &[from, to] = offsets.as_slice() else { return Err(wrong("data_offsets are not two numbers")) };
        Ok(Raw { name: self.0, dtype, shape, offsets: (from, to) })
    }
}

/// At most this many unsigned integers.
struct Dims(usize);

impl<'de> DeserializeSeed<'de> for Dims {
    type Value = Vec<u64>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Vec<u64>, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Dims {
    type Value = Vec<u64>;
    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "at most {} unsigned integers", self.0)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Vec<u64>, A::Error> {
        let mut out = Vec::new();
        while out.len() < self.0 {
            match seq.next_element::<u64>()? {
                Some(v) => out.push(v),
                None => return Ok(out),
            }
        }
        match seq.next_element::<IgnoredAny>()? {
            None => Ok(out),
            Some(_) => Err(de::Error::custom(format!("more than {} numbers", self.0))),
        }
    }
}

#[cfg(test)]
mod tests;
