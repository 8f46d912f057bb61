//! Cutting a text's tokens into windows.
use crate::error::{Error, Result};

/// Fewest tokens of a text: with fewer, the figures mean nothing.
const FEWEST_TOKENS: usize = 16;

/// The first `windows` non-overlapping windows of `window_len` tokens each; what is left at the end is not used. A
/// text shorter than one window is one window as it is (see [`shortage`]).
///
/// # Errors
/// `windows` is 0, `window_len` is below 2 (one token predicts nothing), or the text has fewer than 16 tokens.
pub fn windows(tokens: &[u32], windows: usize, window_len: usize) -> Result<Vec<&[u32]>> {
    for (field, expected, found) in [("windows", 1, windows), ("window_len", 2, window_len)] {
        if found < expected {
            return Err(Error::TooSmall { field, expected, found });
        }
    }
    if tokens.len() < FEWEST_TOKENS {
        return Err(Error::ShortText { expected: FEWEST_TOKENS, found: tokens.len() });
    }
    if tokens.len() < window_len {
        return Ok(vec![tokens]);
    }
    Ok(tokens.chunks_exact(window_len).take(windows).collect())
}

/// What to tell the user when the text was too short for `windows` windows of `window_len` tokens.
pub fn shortage(cut: &[&[u32]], windows: usize, window_len: usize) -> Option<String> {
    match cut {
        [only] if only.len() < window_len => {
            Some(format!("the text has {} tokens, less than one window of {window_len}: it is one window", only.len()))
        }
        _ if cut.len() < windows => {
            Some(format!("the text is enough for {} windows of {window_len} tokens, not {windows}", cut.len()))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_do_not_overlap_and_the_rest_is_left() {
        let tokens: Vec<u32> = (0..50).collect();
        let cut = windows(&tokens, 40, 16).unwrap();
        assert_eq!(cut, [&tokens[..16], &tokens[16..32], &tokens[32..48]]);
        assert_eq!(windows(&tokens, 2, 16).unwrap(), cut[..2]);
        assert_eq!(shortage(&cut[..2], 2, 16), None);
        assert!(shortage(&cut, 40, 16).unwrap().contains("3 windows of 16 tokens, not 40"));
    }

    #[test]
    fn a_short_text_is_one_window() {
        let tokens = [7; 16];
        let cut = windows(&tokens, 40, 2048).unwrap();
        assert_eq!(cut, [&tokens[..]]);
        assert!(shortage(&cut, 40, 2048).unwrap().contains("16 tokens, less than one window of 2048"));
    }

    #[test]
    fn impossible_sizes_are_named() {
        let text = |n, w, l| windows(&vec![1; n], w, l).unwrap_err().to_string();
        assert_eq!(text(15, 1, 8), "the text is too short: expected at least 16 tokens, found 15");
        assert_eq!(text(99, 0, 8), "windows: expected at least 1, found 0");
        assert_eq!(text(99, 1, 1), "window_len: expected at least 2, found 1");
    }
}
