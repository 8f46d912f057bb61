//! Strict JSON: a key that appears twice in one object is an error, because readers disagree on which one counts.
use crate::{Error, Result, error::quoted};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use std::{fmt, path::Path};

/// Parses `bytes`, refusing duplicate keys at any depth.
pub(crate) fn parse(bytes: &[u8], path: &Path) -> Result<Value> {
    match serde_json::from_slice::<Strict>(bytes) {
        Ok(Strict(value)) => Ok(value),
        Err(e) => Err(Error::file(path, "JSON", e.to_string())),
    }
}

/// Parses `bytes` that must hold an object.
pub(crate) fn parse_object(bytes: &[u8], path: &Path) -> Result<Map<String, Value>> {
    match parse(bytes, path)? {
        Value::Object(map) => Ok(map),
        other => Err(Error::file(path, "a JSON object", shown(&other))),
    }
}

/// A value as shown in messages: compact and short.
pub(crate) fn shown(value: &Value) -> String {
    match value {
        Value::String(s) => quoted(s),
        Value::Array(a) if a.len() > 16 => format!("a list of {}", a.len()),
        Value::Object(o) if o.len() > 8 => format!("an object of {} fields", o.len()),
        other => {
            let text = other.to_string();
            if text.len() > 200 { "a large value".into() } else { text }
        }
    }
}

/// Two-space indented text with a final newline, as the Python tools write.
pub(crate) fn pretty(value: &Value) -> Vec<u8> {
    let mut text = serde_json::to_vec_pretty(value).expect("a Value always serializes");
    text.push(b'\n');
    text
}

struct Strict(Value);

impl<'de> Deserialize<'de> for Strict {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(StrictVisitor).map(Strict)
    }
}

struct StrictVisitor;

impl<'de> Visitor<'de> for StrictVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }
    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }
    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::Number(v.into()))
    }
    fn visit_f64<E>(self, v: f64) -> Result<Value, E> {
        Ok(Number::from_f64(v).map_or(Value::Null, Value::Number))
    }
    fn visit_str<E>(self, v: &str) -> Result<Value, E> {
        Ok(Value::String(v.into()))
    }
    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let mut out = Vec::new();
        while let Some(Strict(value)) = seq.next_element()? {
            out.push(value);
        }
        Ok(Value::Array(out))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut out = Map::new();
        while let Some(key) = map.next_key::<String>()? {
            let Strict(value) = map.next_value()?;
            if out.contains_key(&key) {
                return Err(de::Error::custom(format!("key {} twice", quoted(&key))));
            }
            out.insert(key, value);
        }
        Ok(Value::Object(out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn duplicates_are_refused_at_any_depth() {
        let path = Path::new("x.json");
        assert!(parse(br#"{"a": {"b": [1, {"c": 2}]}, "d": null}"#, path).is_ok());
        for text in [r#"{"a":1,"a":1}"#, r#"{"a":{"b":1,"b":2}}"#, r#"[{"a":1,"\u0061":2}]"#] {
            let error = parse(text.as_bytes(), path).unwrap_err().to_string();
            assert!(error.contains("twice") && error.starts_with("x.json: "), "{error}");
        }
        assert!(parse("[".repeat(100_000).as_bytes(), path).is_err(), "deep nesting must not overflow the stack");
    }
}
