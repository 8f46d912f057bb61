//! Text as Python's `str` sees it, where that differs from Rust's.

/// `str.isspace()` of one character: Unicode's white space and the four separators of ASCII.
pub fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// `str.strip()`.
pub fn strip(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// `str.rstrip()`.
pub fn strip_end(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

/// `str.capitalize()`: the first character large, all others small.
pub fn capitalize(text: &str) -> String {
    let mut chars = text.chars();
    let Some(first) = chars.next() else { return String::new() };
    let mut large = first.to_uppercase();
    let mut out: String = large.next().into_iter().collect();
    // A character that becomes several ("ß") is titled: only the first of them is large.
    out.extend(large.flat_map(char::to_lowercase));
    out + &chars.as_str().to_lowercase()
}

/// `len(re.split(r"\s+", text))`.
pub fn count_words(text: &str) -> usize {
    let (mut runs, mut within) = (0, false);
    for c in text.chars() {
        runs += (is_space(c) && !within) as usize;
        within = is_space(c);
    }
    runs + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_python_has_it() {
        assert_eq!(["", "he", "The Man", "ßx", "éA"].map(capitalize), ["", "He", "The man", "Ssx", "Éa"]);
        assert_eq!((strip("\u{1f} a b\u{a0}\n"), strip_end(" a \u{85}")), ("a b", " a"));
        assert_eq!(["", "a", " a  b\n", "\n"].map(count_words), [1, 1, 4, 2]);
    }
}
