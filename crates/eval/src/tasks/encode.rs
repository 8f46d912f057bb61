//! From texts to the tokens that are judged: where a continuation begins, what becomes of texts that are too long, and how
//! a long text is cut into windows.
use super::python::strip_end;
use super::run::Subject;
use crate::error::{Error, Result};
use planish_text::SpecialText;

/// Tokens of a context and of what follows.
pub(super) type Pair = (Vec<u32>, Vec<u32>);

/// Encodes the texts of one task.
pub(super) struct Encoder<'a> {
    pub subject: &'a Subject<'a>,
    pub task: &'a str,
}

impl Encoder<'_> {
    /// Tokens of a text, with what the tokenizer puts around it unless the text begins with it already.
    pub fn whole(&self, text: &str) -> Result<Vec<u32>> {
        let subject = self.subject;
        let prefixed = !subject.prefix_text.is_empty() && text.starts_with(&subject.prefix_text);
        let special = !prefixed && subject.add_bos != Some(false);
        let encoded = match special {
            true => subject.tokenizer.encode_with_special(text),
            false => subject.tokenizer.encode(text, SpecialText::Recognised),
        };
        encoded.map_err(|source| Error::Words { task: self.task.into(), source })
    }

    /// A context and each of its continuations. White space at the context's end belongs to what follows; without a
    /// context the model's first token is one.
    pub fn pairs(&self, texts: &[(String, String)]) -> Result<Vec<Pair>> {
        let mut last: Option<(&str, Vec<u32>)> = None;
        let mut found = Vec::with_capacity(texts.len());
        for (context, continuation) in texts {
            if context.is_empty() {
                found.push(self.without_context(continuation)?);
                continue;
            }
            let kept = strip_end(context);
            let whole = self.whole(&format!("{context}{continuation}"))?;
            if last.as_ref().is_none_or(|(text, _)| *text != kept) {
                last = Some((kept, self.whole(kept)?));
            }
            let context = last.as_ref().map(|(_, tokens)| tokens.clone()).unwrap_or_default();
            let continuation = whole.get(context.len()..).unwrap_or_default().to_vec();
            found.push((context, continuation));
        }
        found.into_iter().map(|pair| self.cut(pair)).collect()
    }

    fn without_context(&self, continuation: &str) -> Result<Pair> {
        let encoded = self.subject.tokenizer.encode(continuation, SpecialText::Recognised);
        let mut tokens = encoded.map_err(|source| Error::Words { task: self.task.into(), source })?;
        if tokens.first() == Some(&self.subject.prefix) {
            return Ok((vec![tokens.remove(0)], tokens));
        }
        Ok((vec![self.subject.prefix], tokens))
    }

    /// What the model has room for: the end. The last token is not read.
    fn cut(&self, (mut context, continuation): Pair) -> Result<Pair> {
        let room = self.subject.room + 1;
        let (least, most) = (1, self.subject.room);
        if continuation.len() < least || continuation.len() > most {
            let (task, found) = (self.task.into(), continuation.len());
            return Err(Error::Continuation { task, most, found });
        }
        // A context that was nothing but white space.
        if context.is_empty() {
            context.push(self.subject.prefix);
        }
        let over = (context.len() + continuation.len()).saturating_sub(room);
        context.drain(..over);
        Ok((context, continuation))
    }

    /// The end of a prompt, so that `answer` tokens find room after it.
    pub fn prompt(&self, text: &str, answer: usize) -> Result<Vec<u32>> {
        let Some(room) = self.subject.room.checked_sub(answer).filter(|&room| room > 0) else {
            let (task, expected, found) = (self.task.into(), answer + 1, self.subject.room);
            return Err(Error::Room { task, expected, found });
        };
        let mut tokens = self.whole(text)?;
        tokens.drain(..tokens.len().saturating_sub(room));
        match tokens.is_empty() {
            true => Ok(vec![self.subject.prefix]),
            false => Ok(tokens),
        }
    }

    /// A text in windows, each of which predicts what no other does: the first from the model's first token, the others from
    /// as much of what comes before as is needed to fill them.
    pub fn windows(&self, text: &str) -> Result<Vec<Pair>> {
        Ok(windows(&self.whole(text)?, self.subject.prefix, self.subject.room))
    }
}

fn windows(tokens: &[u32], prefix: u32, room: usize) -> Vec<Pair> {
    let (mut windows, mut predicted) = (Vec::new(), 0);
    while predicted < tokens.len() {
        let end = tokens.len().min(predicted + room);
        let context = match predicted {
            0 => vec![prefix],
            // The window is full: its other tokens are before those that it predicts.
            _ => tokens[end - room - 1..predicted].to_vec(),
        };
        windows.push((context, tokens[predicted..end].to_vec()));
        predicted = end;
    }
    windows
}

#[cfg(test)]
mod tests {
    use super::windows;

    /// Expected windows: `get_rolling_token_windows` and `make_disjoint_window` of lm_eval 0.4.13 with context_len 1.
    #[test]
    fn windows_are_the_harness() {
        let tokens: Vec<u32> = (0..10).collect();
        let expected = [(vec![99], vec![0, 1, 2, 3]), (vec![3], vec![4, 5, 6, 7]), (vec![5, 6, 7], vec![8, 9])];
        assert_eq!(windows(&tokens, 99, 4), expected);
        assert_eq!(windows(&tokens[..3], 99, 4), [(vec![99], vec![0, 1, 2])]);
        assert_eq!(windows(&tokens[..8], 99, 4), expected[..2]);
        assert_eq!(windows(&[], 99, 4), []);
    }
}
