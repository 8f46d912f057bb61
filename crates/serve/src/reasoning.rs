//! Reasoning: what a model writes between `<think>` and `</think>` before it answers.

use crate::tools::{Delta, push_content};

const OPEN: &str = "<think>";
const CLOSE: &str = "</think>";

/// Whether a model whose chat template this is writes reasoning parts.
pub fn is_reasoning_template(template: &str) -> bool {
    template.contains(OPEN) || template.contains(CLOSE)
}

/// Whether the prompt has begun the reasoning already, as many templates do.
pub fn is_begun_by(prompt: &str) -> bool {
    prompt.trim_end().ends_with(OPEN)
}

/// Splits a text into reasoning and the answer behind it. The marks, and white space beside them, belong to neither.
#[derive(Debug, Clone)]
pub struct Splitter {
    place: Place,
    /// White space that counts only if more of the same part follows.
    space: String,
    /// What may be the beginning of a mark.
    mark: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Nothing but white space yet.
    Start,
    /// In the reasoning; before its first character, if `first`.
    Inside { first: bool },
    /// Behind the reasoning, before the first character of the answer.
    Behind,
    /// In the answer, which has no marks.
    Answer,
}

impl Splitter {
    /// For an answer to a prompt; `begun` if that ends with `<think>` (see [`is_begun_by`]).
    pub fn new(begun: bool) -> Splitter {
        let place = if begun { Place::Inside { first: true } } else { Place::Start };
        Splitter { place, space: String::new(), mark: String::new() }
    }

    /// Takes more of the text; the parts of it that became certain are added, as reasoning or content.
    pub fn push(&mut self, text: &str, deltas: &mut Vec<Delta>) {
        for (at, c) in text.char_indices() {
            if self.place == Place::Answer {
                return push_content(deltas, &text[at..]);
            }
            self.take(c, deltas);
        }
    }

    /// The text ends here.
    pub fn finish(&mut self, deltas: &mut Vec<Delta>) {
        let rest = std::mem::take(&mut self.space) + &std::mem::take(&mut self.mark);
        match self.place {
            Place::Inside { .. } => push_reasoning(deltas, rest.trim_end()),
            Place::Behind => {}
            Place::Start | Place::Answer => push_content(deltas, &rest),
        }
        self.place = Place::Answer;
    }

    fn take(&mut self, c: char, deltas: &mut Vec<Delta>) {
        let wanted = match self.place {
            Place::Start => OPEN,
            Place::Inside { .. } => CLOSE,
            Place::Behind | Place::Answer => return self.plain(c, deltas),
        };
        self.mark.push(c);
        while !self.mark.is_empty() {
            if self.mark == wanted {
                self.mark.clear();
                self.space.clear();
                let inside = self.place == Place::Start;
                self.place = if inside { Place::Inside { first: true } } else { Place::Behind };
                return;
            }
            if wanted.starts_with(&self.mark) {
                return;
            }
            let first = self.mark.remove(0);
            self.plain(first, deltas);
            if self.place == Place::Answer {
                push_content(deltas, &std::mem::take(&mut self.mark));
            }
        }
    }

    fn plain(&mut self, c: char, deltas: &mut Vec<Delta>) {
        if c.is_whitespace() {
            return self.space.push(c);
        }
        let space = std::mem::take(&mut self.space);
        let text = match self.place {
            // Only between two parts is white space nobody's.
            Place::Inside { first: true } | Place::Behind => String::from(c),
            _ => space + c.encode_utf8(&mut [0; 4]),
        };
        match self.place {
            Place::Inside { .. } => {
                self.place = Place::Inside { first: false };
                push_reasoning(deltas, &text);
            }
            _ => {
                self.place = Place::Answer;
                push_content(deltas, &text);
            }
        }
    }
}

fn push_reasoning(deltas: &mut Vec<Delta>, text: &str) {
    match deltas.last_mut() {
        _ if text.is_empty() => {}
        Some(Delta::Reasoning(old)) => old.push_str(text),
        _ => deltas.push(Delta::Reasoning(text.to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reasoning and content of a text, the same for every way to cut it in two.
    fn split(begun: bool, text: &str) -> (String, String) {
        let parts = |cut: usize| {
            let (mut splitter, mut deltas) = (Splitter::new(begun), Vec::new());
            splitter.push(&text[..cut], &mut deltas);
            splitter.push(&text[cut..], &mut deltas);
            splitter.finish(&mut deltas);
            let (mut reasoning, mut content) = (String::new(), String::new());
            for delta in deltas {
                match delta {
                    Delta::Reasoning(text) => reasoning += &text,
                    Delta::Content(text) => content += &text,
                    other => panic!("{other:?}"),
                }
            }
            (reasoning, content)
        };
        let whole = parts(0);
        text.char_indices().for_each(|(cut, _)| assert_eq!(parts(cut), whole, "{text:?} cut at {cut}"));
        whole
    }

    #[test]
    fn reasoning_and_answer_come_apart() {
        for (begun, text, reasoning, content) in [
            (false, "<think>\na < b\n\n</think>\n\nYes.\n", "a < b", "Yes.\n"),
            (true, "\nhm </thin\n</think>Yes </think>", "hm </thin", "Yes </think>"),
            (false, " plain <think>x</think>", "", " plain <think>x</think>"),
            (false, "<thing> is", "", "<thing> is"),
            (false, "\n<think>never ends", "never ends", ""),
            (true, "cut off </thi", "cut off </thi", ""),
            (false, "<think></think>ü", "", "ü"),
            (false, "<thi", "", "<thi"),
            (true, "<think>doubly</think>x", "<think>doubly", "x"),
            (false, "", "", ""),
        ] {
            assert_eq!(split(begun, text), (reasoning.to_owned(), content.to_owned()), "{text:?}");
        }
    }

    #[test]
    fn prompts_and_templates_show_it() {
        assert!(is_begun_by("<|im_start|>assistant\n<think>\n") && !is_begun_by("<think>\n\n</think>\n\n"));
        assert!(is_reasoning_template("{{ '<think>' }}") && !is_reasoning_template("{{ messages }}"));
    }
}
