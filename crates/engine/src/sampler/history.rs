//! Which tokens a text holds, kept up to date token by token for the penalties.
use std::collections::HashMap;

/// The distinct tokens of a prompt and its continuation, and how often each was generated.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// `(id, times generated)`, in order of first appearance.
    entries: Vec<(u32, u32)>,
    places: HashMap<u32, usize>,
    prompt: usize,
    generated: usize,
}

impl History {
    /// The history of a text that has its prompt and nothing more. Linear in the prompt.
    pub fn new(prompt: &[u32]) -> History {
        let mut history = History { prompt: prompt.len(), ..History::default() };
        for &token in prompt {
            history.place(token);
        }
        history
    }

    /// Appends a generated token.
    pub fn push(&mut self, token: u32) {
        let place = self.place(token);
        self.entries[place].1 += 1;
        self.generated += 1;
    }

    /// Length of the text: the position of the token to be chosen next.
    pub fn position(&self) -> usize {
        self.prompt + self.generated
    }

    /// How many tokens were generated.
    pub fn generated(&self) -> usize {
        self.generated
    }

    /// Each distinct token once, with how often it was generated (0: only in the prompt).
    pub fn seen(&self) -> impl Iterator<Item = (u32, u32)> + '_ {
        self.entries.iter().copied()
    }

    fn place(&mut self, token: u32) -> usize {
        *self.places.entry(token).or_insert_with(|| {
            self.entries.push((token, 0));
            self.entries.len() - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_only_what_was_generated() {
        let mut history = History::new(&[7, 3, 7]);
        for token in [3, 9, 3] {
            history.push(token);
        }
        assert_eq!(history.seen().collect::<Vec<_>>(), [(7, 0), (3, 2), (9, 1)]);
        assert_eq!((history.position(), history.generated()), (6, 3));
    }
}
