//! Which tokens a text holds, kept up to date token by token for the penalties.
use std::collections::HashMap;
use std::sync::Arc;

/// The distinct tokens of a prompt and its continuation, and how often each was generated. Clones share the prompt's.
#[derive(Clone, Debug, Default)]
pub struct History {
    prompt: Arc<Prompt>,
    /// Distinct generated tokens, in order of first appearance.
    entries: Vec<Entry>,
    places: HashMap<u32, usize>,
    generated: usize,
    /// Which tokens they are is not kept.
    lengths_only: bool,
}

/// The distinct tokens of a prompt, in order of first appearance.
#[derive(Debug, Default)]
struct Prompt {
    tokens: Vec<u32>,
    places: HashMap<u32, usize>,
    len: usize,
}

#[derive(Clone, Debug)]
struct Entry {
    id: u32,
    times: u32,
    /// Its place among the prompt's tokens, if it is there.
    in_prompt: Option<usize>,
}

impl History {
    /// The history of a text that has its prompt and nothing more. Linear in the prompt.
    pub fn new(prompt: &[u32]) -> History {
        let mut of_prompt = Prompt { len: prompt.len(), ..Prompt::default() };
        for &token in prompt {
            let next = of_prompt.tokens.len();
            if *of_prompt.places.entry(token).or_insert(next) == next {
                of_prompt.tokens.push(token);
            }
        }
        History { prompt: Arc::new(of_prompt), ..History::default() }
    }

    /// The same where nobody will ask which tokens the text holds: only its length is kept.
    pub fn of_length(prompt: usize) -> History {
        let prompt = Arc::new(Prompt { len: prompt, ..Prompt::default() });
        History { prompt, lengths_only: true, ..History::default() }
    }

    /// Appends a generated token.
    pub fn push(&mut self, token: u32) {
        self.generated += 1;
        if self.lengths_only {
            return;
        }
        let place = *self.places.entry(token).or_insert_with(|| {
            let in_prompt = self.prompt.places.get(&token).copied();
            self.entries.push(Entry { id: token, times: 0, in_prompt });
            self.entries.len() - 1
        });
        self.entries[place].times += 1;
    }

    /// Length of the text: the position of the token to be chosen next.
    pub fn position(&self) -> usize {
        self.prompt.len + self.generated
    }

    /// How many tokens were generated.
    pub fn generated(&self) -> usize {
        self.generated
    }

    /// Each distinct token once, with how often it was generated (0: only in the prompt), in order of first appearance.
    pub fn seen(&self) -> impl Iterator<Item = (u32, u32)> + use<> {
        let mut seen = Vec::with_capacity(self.prompt.tokens.len() + self.entries.len());
        seen.extend(self.prompt.tokens.iter().map(|&id| (id, 0)));
        for entry in &self.entries {
            match entry.in_prompt {
                Some(place) => seen[place].1 = entry.times,
                None => seen.push((entry.id, entry.times)),
            }
        }
        seen.into_iter()
    }

    /// Whether both have the prompt's tokens in one place.
    #[cfg(test)]
    pub fn shares_prompt_with(&self, other: &History) -> bool {
        Arc::ptr_eq(&self.prompt, &other.prompt)
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

    #[test]
    fn a_length_alone_names_no_tokens() {
        let mut history = History::of_length(3);
        for token in [3, 9, 3] {
            history.push(token);
        }
        assert_eq!((history.seen().count(), history.position(), history.generated()), (0, 6, 3));
        assert!(history.entries.is_empty() && history.places.is_empty());
    }

    #[test]
    fn clones_count_for_themselves() {
        let first = History::new(&[7, 3]);
        let mut other = first.clone();
        other.push(3);
        assert_eq!(first.seen().collect::<Vec<_>>(), [(7, 0), (3, 0)]);
        assert_eq!(other.seen().collect::<Vec<_>>(), [(7, 0), (3, 1)]);
    }
}
