//! Blanks comments and literals out of Rust source, byte for byte, so that rules about code
//! are not fooled by prose. Lines and columns stay where they were.

/// `source` with every comment, string and character literal replaced by spaces; newlines are kept.
pub fn mask(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        match prose_end(bytes, at) {
            Some(end) => {
                out[at..end].iter_mut().filter(|b| **b != b'\n').for_each(|b| *b = b' ');
                at = end;
            }
            None => at += 1,
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The end of the comment or literal that starts at `at`, if one does.
fn prose_end(bytes: &[u8], at: usize) -> Option<usize> {
    match bytes[at] {
        b'/' if bytes.get(at + 1) == Some(&b'/') => Some(find(bytes, at, |b| b == b'\n').unwrap_or(bytes.len())),
        b'/' if bytes.get(at + 1) == Some(&b'*') => Some(block_comment_end(bytes, at)),
        b'"' => Some(quoted_end(bytes, at, b'"')),
        b'\'' => character_end(bytes, at),
        b'r' | b'b' | b'c' if at == 0 || !is_word(bytes[at - 1]) => raw_string_end(bytes, at),
        _ => None,
    }
}

/// Block comments nest.
fn block_comment_end(bytes: &[u8], start: usize) -> usize {
    let (mut depth, mut at) = (0usize, start);
    while at + 1 < bytes.len() {
        match &bytes[at..at + 2] {
            b"/*" => (depth, at) = (depth + 1, at + 2),
            b"*/" if depth == 1 => return at + 2,
            b"*/" => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
    }
    bytes.len()
}

fn quoted_end(bytes: &[u8], start: usize, quote: u8) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b if b == quote => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// A quote opens a character when one character and a quote follow it; otherwise it is a lifetime.
fn character_end(bytes: &[u8], start: usize) -> Option<usize> {
    let first = *bytes.get(start + 1)?;
    if first == b'\\' {
        return Some(quoted_end(bytes, start, b'\''));
    }
    let width = match first {
        0..0x80 => 1,
        0x80..0xe0 => 2,
        0xe0..0xf0 => 3,
        _ => 4,
    };
    let close = start + 1 + width;
    (bytes.get(close) == Some(&b'\'')).then_some(close + 1)
}

/// `r"…"`, `r#"…"#`, and the same after `b` or `c`. A raw identifier (`r#type`) is no string.
fn raw_string_end(bytes: &[u8], start: usize) -> Option<usize> {
    let r = if bytes[start] == b'r' { start } else { start + 1 };
    if bytes.get(r) != Some(&b'r') {
        return None;
    }
    let open = find(bytes, r + 1, |b| b != b'#')?;
    if bytes[open] != b'"' {
        return None;
    }
    let hashes = open - (r + 1);
    let closes = |at: usize| {
        let tail = bytes.get(at + 1..at + 1 + hashes);
        bytes[at] == b'"' && tail.is_some_and(|tail| tail.iter().all(|b| *b == b'#'))
    };
    let close = (open + 1..bytes.len()).find(|at| closes(*at));
    Some(close.map_or(bytes.len(), |at| at + 1 + hashes))
}

fn find(bytes: &[u8], from: usize, wanted: impl Fn(u8) -> bool) -> Option<usize> {
    bytes.get(from..)?.iter().position(|b| wanted(*b)).map(|at| from + at)
}

fn is_word(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric()
}

/// Byte offsets at which `word` stands alone in masked source.
pub fn find_word<'a>(masked: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let bytes = masked.as_bytes();
    masked.match_indices(word).map(|(at, _)| at).filter(move |at| {
        let end = at + word.len();
        let before = *at == 0 || !is_word(bytes[at - 1]);
        before && (end == bytes.len() || !is_word(bytes[end]))
    })
}

/// The line of a byte offset, counted from 1.
pub fn line_of(text: &str, offset: usize) -> usize {
    1 + text.as_bytes()[..offset].iter().filter(|b| **b == b'\n').count()
}

#[cfg(test)]
mod tests {
    use super::{find_word, line_of, mask};

    #[test]
    fn prose_is_blanked_and_code_is_kept() {
        for (source, masked) in [
            ("a // b\nc", "a     \nc"),
            ("a /* b /* c */ d */ e", "a                   e"),
            (r#"f("x \" y", 1)"#, "f(        , 1)"),
            (r##"f(r#"x " y"#, 1)"##, "f(          , 1)"),
            (r#"f(b"x", br"y\")"#, "f(b   ,       )"),
            (r"f('x', '\'', 'é')", "f(   ,     ,     )"),
            ("fn f<'a>(r#type: &'a str)", "fn f<'a>(r#type: &'a str)"),
            ("\"open", "     "),
        ] {
            assert_eq!(mask(source), masked, "{source}");
        }
    }

    #[test]
    fn words_stand_alone() {
        let masked = "unsafe_code unsafe { x.unsafe_y }";
        assert_eq!(find_word(masked, "unsafe").collect::<Vec<_>>(), vec![12]);
        assert_eq!(line_of("a\nb\nc", 4), 3);
    }
}
