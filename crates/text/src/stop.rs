//! Stop strings in streamed text: nothing that may be the beginning of one is let out.
//!
//! The stop string that ends first wins, and of those that end together the longest, so the
//! outcome does not depend on how the text was cut into pieces.

use crate::{Result, TextError};
use std::sync::Arc;

/// What may be shown after a piece of text was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StopResult {
    /// Text that is certainly before any stop string (often empty).
    Text(String),
    /// A stop string was completed: the last text before it. What follows it is dropped.
    Stopped {
        /// Text before the stop string that had not been let out yet.
        text: String,
        /// Index into the list given to [`StopStrings::new`].
        stop: usize,
    },
}

/// Looks for stop strings in one stream of text. Clones share the list.
#[derive(Debug, Clone, Default)]
pub struct StopStrings {
    stops: Arc<[String]>,
    /// The end of the text so far that begins at least one stop string; shorter than the longest.
    held: String,
    stopped: Option<usize>,
}

impl StopStrings {
    /// A search for any of `stops`; with an empty list all text passes.
    ///
    /// # Errors
    /// [`TextError::EmptyStop`] if one of them is empty.
    pub fn new<S: Into<String>>(stops: impl IntoIterator<Item = S>) -> Result<Self> {
        let stops: Arc<[String]> = stops.into_iter().map(Into::into).collect();
        match stops.iter().position(String::is_empty) {
            Some(index) => Err(TextError::EmptyStop(index)),
            None => Ok(Self { stops, held: String::new(), stopped: None }),
        }
    }

    /// Takes the next piece of the stream. After a stop every call returns
    /// [`StopResult::Stopped`] with no text.
    pub fn push(&mut self, piece: &str) -> StopResult {
        if let Some(stop) = self.stopped {
            return StopResult::Stopped { text: String::new(), stop };
        }
        self.held.push_str(piece);
        if let Some((start, stop)) = self.first_match() {
            self.stopped = Some(stop);
            self.held.truncate(start);
            return StopResult::Stopped { text: std::mem::take(&mut self.held), stop };
        }
        let keep = self.pending_len();
        let rest = self.held.split_off(self.held.len() - keep);
        StopResult::Text(std::mem::replace(&mut self.held, rest))
    }

    /// Ends the stream: the text that was held back, since no stop string came of it.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }

    /// The string at `index` of the list.
    pub fn get(&self, index: usize) -> Option<&str> {
        self.stops.get(index).map(String::as_str)
    }

    /// Start and index of the match that ends first; the longest of those that end together.
    fn first_match(&self) -> Option<(usize, usize)> {
        self.stops
            .iter()
            .enumerate()
            .filter_map(|(index, stop)| self.held.find(stop).map(|start| (start + stop.len(), start, index)))
            .min()
            .map(|(_, start, index)| (start, index))
    }

    /// Length of the longest end of the held text that begins a stop string.
    fn pending_len(&self) -> usize {
        let longest = self.stops.iter().map(String::len).max().unwrap_or(0);
        let from = self.held.len().saturating_sub(longest.saturating_sub(1));
        (from..self.held.len())
            .filter(|&at| self.held.is_char_boundary(at))
            .find(|&at| self.stops.iter().any(|stop| stop.starts_with(&self.held[at..])))
            .map_or(0, |at| self.held.len() - at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The text that passes and the stop that was found, for a stream of `pieces`.
    fn run(stops: &[&str], pieces: &[&str]) -> (String, Option<usize>) {
        let mut search = StopStrings::new(stops.iter().copied()).unwrap();
        let mut shown = String::new();
        for piece in pieces {
            match search.push(piece) {
                StopResult::Text(text) => shown.push_str(&text),
                StopResult::Stopped { text, stop } => return (shown + &text, Some(stop)),
            }
        }
        let rest = search.finish();
        (shown + &rest, None)
    }

    #[test]
    fn every_split_point_gives_the_same_text() {
        let text = "a<|im_ennd|> 中文<|im_end|>tail\n\nUser:";
        let stops = ["User:", "<|im_end|>"];
        for first in text.char_indices().map(|(at, _)| at) {
            for second in text.char_indices().map(|(at, _)| at).filter(|&at| at >= first) {
                let pieces = [&text[..first], &text[first..second], &text[second..]];
                assert_eq!(run(&stops, &pieces), ("a<|im_ennd|> 中文".to_owned(), Some(1)));
            }
        }
    }

    #[test]
    fn the_match_that_ends_first_wins() {
        assert_eq!(run(&["abc", "b"], &["zabc"]), ("za".to_owned(), Some(1)));
        assert_eq!(run(&["bc", "abc"], &["zabc"]), ("z".to_owned(), Some(1)));
    }

    #[test]
    fn text_is_held_only_while_it_may_become_a_stop() {
        let mut search = StopStrings::new(["END"]).unwrap();
        assert_eq!(search.push("the E"), StopResult::Text("the ".to_owned()));
        assert_eq!(search.push("N"), StopResult::Text(String::new()));
        assert_eq!(search.push("x"), StopResult::Text("ENx".to_owned()));
        assert_eq!(search.push("E"), StopResult::Text(String::new()));
        assert_eq!(search.finish(), "E");
    }

    #[test]
    fn nothing_passes_after_a_stop() {
        let mut search = StopStrings::new(["."]).unwrap();
        assert_eq!(search.push("a.b"), StopResult::Stopped { text: "a".to_owned(), stop: 0 });
        assert_eq!(search.push("c"), StopResult::Stopped { text: String::new(), stop: 0 });
        assert_eq!(search.finish(), "");
        assert_eq!(search.get(0), Some("."));
    }

    #[test]
    fn an_empty_stop_string_is_refused() {
        let error = StopStrings::new(["a", ""]).unwrap_err();
        assert!(error.to_string().contains("stop string 1"), "{error}");
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(
            text in "[ab中]{0,24}",
            stops in prop::collection::vec("[ab中]{1,4}", 0..4),
            cuts in prop::collection::vec(0usize..80, 0..6),
        ) {
            let stops: Vec<&str> = stops.iter().map(String::as_str).collect();
            let mut cuts: Vec<usize> =
                cuts.into_iter().filter(|&at| at <= text.len() && text.is_char_boundary(at)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&str> = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]).collect();
            let whole = run(&stops, &[&text]);
            prop_assert_eq!(&run(&stops, &pieces), &whole);
            // The shown text never holds a stop string, and is a prefix of the text.
            prop_assert!(text.starts_with(&whole.0));
            prop_assert!(stops.iter().all(|stop| !whole.0.contains(stop)));
        }
    }
}
