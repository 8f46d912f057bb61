//! One JSON value, read character by character, let out as soon as it is certain to be valid.
//!
//! Models write JSON with small slips. Two of them are put right on the way, because what was meant is plain: raw
//! control characters inside strings become escapes, and Python's `True`, `False` and `None` become JSON's words.

/// Deepest nesting; the readers of most clients stop near this.
const MAX_DEPTH: usize = 120;

/// What a character did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// The value goes on.
    More,
    /// The value ended with this character.
    Done,
    /// The value had ended before this character, which belongs to whatever comes next.
    DoneBefore,
    /// No JSON value continues so. What was let out is still the beginning of one.
    Bad,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// A value must begin; after `[` it may also end.
    Value {
        or_end: bool,
    },
    /// A key must begin; after `{` the object may also end.
    Key {
        or_end: bool,
    },
    Colon,
    Text {
        key: bool,
    },
    /// Behind a backslash, with so many hex digits to come.
    Escape {
        key: bool,
        digits: u8,
    },
    /// In a number or a literal, which is let out as a whole.
    Word,
    /// Behind an element: `,` or the end of what holds it.
    After,
}

/// The reader of one value.
#[derive(Debug, Clone)]
pub struct Value {
    /// The brackets that are open.
    open: Vec<char>,
    place: Place,
    word: String,
}

impl Value {
    /// Nothing read yet; leading white space is let out too.
    pub fn new() -> Value {
        Value { open: Vec::new(), place: Place::Value { or_end: false }, word: String::new() }
    }

    /// Takes a character and appends to `out` what became certain.
    pub fn push(&mut self, c: char, out: &mut String) -> Progress {
        match self.place {
            Place::Text { key } => self.in_text(c, key, out),
            Place::Escape { key, digits } => self.in_escape(c, key, digits, out),
            Place::Word => self.in_word(c, out),
            _ if is_space(c) => {
                out.push(c);
                Progress::More
            }
            Place::Value { or_end: true } if c == ']' => self.close(c, out),
            Place::Value { .. } => self.begin(c, out),
            Place::Key { or_end: true } if c == '}' => self.close(c, out),
            Place::Key { .. } if c == '"' => self.go(c, Place::Text { key: true }, out),
            Place::Colon if c == ':' => self.go(c, Place::Value { or_end: false }, out),
            Place::After => self.after(c, out),
            Place::Key { .. } | Place::Colon => Progress::Bad,
        }
    }

    /// What was read of a number or literal and is not out yet.
    pub fn held(&self) -> &str {
        &self.word
    }

    fn go(&mut self, c: char, place: Place, out: &mut String) -> Progress {
        out.push(c);
        self.place = place;
        Progress::More
    }

    fn begin(&mut self, c: char, out: &mut String) -> Progress {
        match c {
            '{' | '[' if self.open.len() == MAX_DEPTH => Progress::Bad,
            '{' => {
                self.open.push('}');
                self.go(c, Place::Key { or_end: true }, out)
            }
            '[' => {
                self.open.push(']');
                self.go(c, Place::Value { or_end: true }, out)
            }
            '"' => self.go(c, Place::Text { key: false }, out),
            '-' | '0'..='9' | 'a'..='z' | 'A'..='Z' => {
                self.word.push(c);
                self.place = Place::Word;
                Progress::More
            }
            _ => Progress::Bad,
        }
    }

    fn in_text(&mut self, c: char, key: bool, out: &mut String) -> Progress {
        match c {
            '\\' => {
                // The backslash waits: alone it would not be the beginning of a text for certain.
                self.place = Place::Escape { key, digits: 0 };
                Progress::More
            }
            '"' if key => self.go(c, Place::Colon, out),
            '"' => {
                out.push(c);
                self.ended(Progress::Done)
            }
            '\n' => self.go_on(out, "\\n"),
            '\r' => self.go_on(out, "\\r"),
            '\t' => self.go_on(out, "\\t"),
            c if (c as u32) < 0x20 => self.go_on(out, &format!("\\u{:04x}", c as u32)),
            _ => {
                out.push(c);
                Progress::More
            }
        }
    }

    fn go_on(&mut self, out: &mut String, text: &str) -> Progress {
        out.push_str(text);
        Progress::More
    }

    fn in_escape(&mut self, c: char, key: bool, digits: u8, out: &mut String) -> Progress {
        let digits = match (digits, c) {
            (0, 'u') => {
                out.push('\\');
                4
            }
            (0, '"' | '\\' | '/' | 'b' | 'f' | 'n' | 'r' | 't') => {
                out.push('\\');
                0
            }
            (1.., c) if c.is_ascii_hexdigit() => digits - 1,
            _ => return Progress::Bad,
        };
        let place = if digits == 0 { Place::Text { key } } else { Place::Escape { key, digits } };
        self.go(c, place, out)
    }

    fn in_word(&mut self, c: char, out: &mut String) -> Progress {
        if c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.') {
            self.word.push(c);
            return Progress::More;
        }
        let word = match self.word.as_str() {
            "true" | "True" => "true",
            "false" | "False" => "false",
            "null" | "None" => "null",
            number if is_number(number) => number,
            _ => return Progress::Bad,
        };
        out.push_str(word);
        self.word.clear();
        match self.ended(Progress::DoneBefore) {
            Progress::More => self.push(c, out),
            done => done,
        }
    }

    fn after(&mut self, c: char, out: &mut String) -> Progress {
        match (c, self.open.last()) {
            (',', Some('}')) => self.go(c, Place::Key { or_end: false }, out),
            (',', Some(_)) => self.go(c, Place::Value { or_end: false }, out),
            (c, Some(&end)) if c == end => self.close(c, out),
            _ => Progress::Bad,
        }
    }

    fn close(&mut self, c: char, out: &mut String) -> Progress {
        out.push(c);
        self.open.pop();
        self.ended(Progress::Done)
    }

    /// A value ended: the whole one, or an element.
    fn ended(&mut self, done: Progress) -> Progress {
        self.place = Place::After;
        if self.open.is_empty() { done } else { Progress::More }
    }
}

/// White space of JSON.
pub fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\n' | '\r' | '\t')
}

/// JSON's numbers, of any size.
fn is_number(text: &str) -> bool {
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    let text = text.strip_prefix('-').unwrap_or(text);
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (text, None),
    };
    let (whole, part) = match mantissa.split_once('.') {
        Some((whole, part)) => (whole, Some(part)),
        None => (mantissa, None),
    };
    let exponent = exponent.map(|e| e.strip_prefix(['+', '-']).unwrap_or(e));
    let leading = whole.len() > 1 && whole.starts_with('0');
    digits(whole) && !leading && part.is_none_or(digits) && exponent.is_none_or(digits)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How the text ends, and what was let out of it.
    fn read(text: &str) -> (Progress, String) {
        let (mut value, mut out) = (Value::new(), String::new());
        let mut progress = Progress::More;
        for c in text.chars() {
            assert_eq!(progress, Progress::More, "{text}: it goes on after its end");
            progress = value.push(c, &mut out);
        }
        (progress, out)
    }

    #[test]
    fn valid_values_come_out_as_they_are() {
        for text in [
            r#"{"a": [1, -2.5e+10, true, {"b\u00e9\"\\": null}], "c": "}]{[" }"#,
            "[]",
            "{}",
            r#""text""#,
            "[0, 0.5, 1E5, 123456789012345678901234567890]",
            " \n[ ]",
        ] {
            assert_eq!(read(text), (Progress::Done, text.to_owned()));
            assert!(serde_json::from_str::<serde_json::Value>(text).is_ok());
        }
        assert_eq!(read("12 "), (Progress::DoneBefore, "12".to_owned()));
        assert_eq!(read("true}"), (Progress::DoneBefore, "true".to_owned()));
    }

    #[test]
    fn small_slips_are_put_right() {
        assert_eq!(read("[True,False, None]").1, "[true,false, null]");
        assert_eq!(read("\"a\nb\tc\u{1}\"").1, r#""a\nb\tc\u0001""#);
    }

    #[test]
    fn what_is_no_json_ends_where_it_fails() {
        for (text, kept) in [
            ("{a", "{"),
            ("[1,]", "[1,"),
            ("{\"a\":1,}", "{\"a\":1,"),
            ("[01 ", "["),
            ("[1. ", "["),
            ("[nope]", "["),
            ("[\"\\x", "[\""),
            ("[\"\\u12g", "[\"\\u12"),
            ("]", ""),
            ("{\"a\" 1", "{\"a\" "),
            ("[1}", "[1"),
        ] {
            assert_eq!(read(text), (Progress::Bad, kept.to_owned()), "{text}");
        }
        assert_eq!(read(&"[".repeat(MAX_DEPTH)).0, Progress::More);
        assert_eq!(read(&"[".repeat(MAX_DEPTH + 1)).0, Progress::Bad);
    }
}
