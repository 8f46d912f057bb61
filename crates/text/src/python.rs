//! Values as Python writes them: `str`, `repr` and `json.dumps`, which templates rely on.
//!
//! The caller has measured the value, so it is finite and not too deep.

use std::fmt::{self, Write};

use minijinja::value::{Kwargs, ValueKind};
use minijinja::{Error, ErrorKind, Value};

use crate::budget::{Capped, MAX_TEXT, over};

/// Arguments of `json.dumps`.
#[derive(Debug, Clone)]
struct JsonStyle {
    indent: Option<usize>,
    item_separator: String,
    key_separator: String,
    ensure_ascii: bool,
    sort_keys: bool,
}

/// `str(value)`; an undefined value is the empty string, as in Jinja.
pub(crate) fn write_str(out: &mut dyn Write, value: &Value) -> fmt::Result {
    match value.as_str() {
        Some(text) => out.write_str(text),
        None => write_repr(out, value),
    }
}

/// `json.dumps(value)`.
fn write_json(out: &mut dyn Write, value: &Value, style: &JsonStyle, level: usize) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => out.write_str("null")?,
        ValueKind::Bool => out.write_str(if value.is_true() { "true" } else { "false" })?,
        ValueKind::Number => write_number(out, value)?,
        ValueKind::String => write_json_string(out, value.as_str().unwrap_or_default(), style.ensure_ascii)?,
        ValueKind::Seq | ValueKind::Iterable => {
            let mut list = JsonList::open(out, style, level, '[')?;
            for item in value.try_iter()? {
                list.next(out)?;
                write_json(out, &item, style, level + 1)?;
            }
            list.close(out, ']')?;
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.collect();
            if style.sort_keys {
                keys.sort();
            }
            let mut list = JsonList::open(out, style, level, '{')?;
            for key in keys {
                list.next(out)?;
                write_json_string(out, &json_key(&key)?, style.ensure_ascii)?;
                out.write_str(&style.key_separator)?;
                write_json(out, &value.get_item(&key)?, style, level + 1)?;
            }
            list.close(out, '}')?;
        }
        other => {
            let message = format!("tojson: expected a value that JSON has, found {other}");
            return Err(Error::new(ErrorKind::BadSerialization, message));
        }
    }
    Ok(())
}

/// The brackets, separators and line breaks of one JSON list or object.
struct JsonList<'a> {
    style: &'a JsonStyle,
    level: usize,
    empty: bool,
}

impl<'a> JsonList<'a> {
    fn open(out: &mut dyn Write, style: &'a JsonStyle, level: usize, bracket: char) -> Result<Self, fmt::Error> {
        out.write_char(bracket)?;
        Ok(Self { style, level, empty: true })
    }

    fn next(&mut self, out: &mut dyn Write) -> fmt::Result {
        if !std::mem::take(&mut self.empty) {
            out.write_str(&self.style.item_separator)?;
        }
        self.line(out, self.level + 1)
    }

    fn close(self, out: &mut dyn Write, bracket: char) -> fmt::Result {
        if !self.empty {
            self.line(out, self.level)?;
        }
        out.write_char(bracket)
    }

    fn line(&self, out: &mut dyn Write, level: usize) -> fmt::Result {
        match self.style.indent {
            Some(indent) => write!(out, "\n{:width$}", "", width = indent * level),
            None => Ok(()),
        }
    }
}

fn json_key(key: &Value) -> Result<String, Error> {
    let mut text = String::new();
    match key.kind() {
        ValueKind::String => text.push_str(key.as_str().unwrap_or_default()),
        ValueKind::None => text.push_str("null"),
        ValueKind::Bool => text.push_str(if key.is_true() { "true" } else { "false" }),
        ValueKind::Number => write_number(&mut text, key)?,
        other => {
            let message = format!("tojson: expected a key of text, found {other}");
            return Err(Error::new(ErrorKind::BadSerialization, message));
        }
    }
    Ok(text)
}

fn write_json_string(out: &mut dyn Write, text: &str, ensure_ascii: bool) -> fmt::Result {
    out.write_char('"')?;
    for c in text.chars() {
        match c {
            '"' => out.write_str("\\\"")?,
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            '\u{8}' => out.write_str("\\b")?,
            '\u{c}' => out.write_str("\\f")?,
            c if (c as u32) < 0x20 => write!(out, "\\u{:04x}", c as u32)?,
            c if ensure_ascii && !c.is_ascii() && c != '\u{7f}' => {
                for unit in c.encode_utf16(&mut [0; 2]) {
                    write!(out, "\\u{unit:04x}")?;
                }
            }
            c => out.write_char(c)?,
        }
    }
    out.write_char('"')
}

fn write_repr(out: &mut dyn Write, value: &Value) -> fmt::Result {
    match value.kind() {
        ValueKind::Undefined => Ok(()),
        ValueKind::None => out.write_str("None"),
        ValueKind::Bool => out.write_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => write_number(out, value),
        ValueKind::String => write_string_repr(out, value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable => {
            let (open, close) = if value.is_tuple() { ('(', ')') } else { ('[', ']') };
            out.write_char(open)?;
            for (index, item) in value.try_iter().map_err(|_| fmt::Error)?.enumerate() {
                out.write_str(if index == 0 { "" } else { ", " })?;
                write_repr(out, &item)?;
            }
            out.write_str(if value.is_tuple() && value.len() == Some(1) { "," } else { "" })?;
            out.write_char(close)
        }
        ValueKind::Map => {
            out.write_char('{')?;
            for (index, key) in value.try_iter().map_err(|_| fmt::Error)?.enumerate() {
                out.write_str(if index == 0 { "" } else { ", " })?;
                write_repr(out, &key)?;
                out.write_str(": ")?;
                write_repr(out, &value.get_item(&key).map_err(|_| fmt::Error)?)?;
            }
            out.write_char('}')
        }
        _ => write!(out, "{value}"),
    }
}

fn write_string_repr(out: &mut dyn Write, text: &str) -> fmt::Result {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.write_char(quote)?;
    for c in text.chars() {
        match c {
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            c if c == quote || c == '\\' => write!(out, "\\{c}")?,
            c if c.is_control() => write!(out, "\\x{:02x}", c as u32)?,
            c => out.write_char(c)?,
        }
    }
    out.write_char(quote)
}

/// Integers plainly, floats as the shortest text that reads back, with Python's exponents.
fn write_number(out: &mut dyn Write, value: &Value) -> fmt::Result {
    if value.is_integer() {
        return write!(out, "{value}");
    }
    let Ok(number) = f64::try_from(value.clone()) else {
        return write!(out, "{value}");
    };
    if number.is_nan() {
        return out.write_str("NaN");
    }
    if number.is_infinite() {
        return out.write_str(if number > 0.0 { "Infinity" } else { "-Infinity" });
    }
    let text = format!("{number:?}");
    match text.split_once('e') {
        None => out.write_str(&text),
        Some((mantissa, exponent)) => {
            let (sign, digits) = exponent.strip_prefix('-').map_or(('+', exponent), |digits| ('-', digits));
            write!(out, "{mantissa}e{sign}{digits:0>2}")
        }
    }
}

/// `tojson` as Hugging Face defines it: Python's `json.dumps`, with nothing escaped for HTML.
pub(crate) fn tojson(value: Value, kwargs: Kwargs) -> Result<Value, Error> {
    let indent: Option<usize> = kwargs.get("indent")?;
    let separators: Option<Vec<String>> = kwargs.get("separators")?;
    let between = if indent.is_some() { "," } else { ", " };
    let (item_separator, key_separator) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(other) => {
            let message = format!("tojson: separators: expected 2 texts, found {}", other.len());
            return Err(Error::new(ErrorKind::InvalidOperation, message));
        }
        None => (between.to_owned(), ": ".to_owned()),
    };
    let style = JsonStyle {
        indent: indent.map(|indent| indent.min(1024)),
        item_separator,
        key_separator,
        ensure_ascii: kwargs.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
        sort_keys: kwargs.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    kwargs.assert_all_used()?;
    let mut out = Capped::default();
    match write_json(&mut out, &value, &style, 0) {
        _ if out.full => Err(over(format!("{MAX_TEXT} bytes of JSON"))),
        Ok(()) => Ok(Value::from(out.text)),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(value: serde_json::Value) -> String {
        let mut out = String::new();
        write_str(&mut out, &Value::from(minijinja::value::Serde(value))).unwrap();
        out
    }

    #[test]
    fn values_print_as_in_python() {
        let value = serde_json::json!({"a": [1, 2.0, true, null, "it's", "q\"'\n"], "b": {}, "c": 1e-7, "d": 1e22, "e": 0.0001});
        assert_eq!(
            shown(value),
            r#"{'a': [1, 2.0, True, None, "it's", 'q"\'\n'], 'b': {}, 'c': 1e-07, 'd': 1e+22, 'e': 0.0001}"#
        );
        assert_eq!(shown(serde_json::json!(true)), "True");
        assert_eq!(shown(serde_json::json!("x'y")), "x'y");
    }
}
