//! What a run has answered, kept as it goes: a run that was broken off goes on where it was. One line of JSON an answer,
//! after a line with the settings that the answers hold for; a torn last line is dropped.
use super::run::Answer;
use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};

#[derive(Serialize, Deserialize)]
struct Line {
    task: String,
    item: usize,
    /// Digest of the texts: an answer to another question is none to this one.
    texts: String,
    answer: Answer,
}

/// An open journal.
pub struct Journal {
    path: PathBuf,
    file: File,
    known: HashMap<(String, usize), (String, Answer)>,
}

impl Journal {
    /// Opens or begins a journal of answers under these settings (one line of text).
    ///
    /// # Errors
    /// The file cannot be written, is none of ours, or was begun under other settings.
    pub fn open(path: &Path, settings: &str) -> Result<Journal> {
        let failed = |source| Error::Journal { path: path.into(), source };
        let text = match std::fs::read_to_string(path) {
            Ok(text) => text,
            Err(e) if e.kind() == ErrorKind::NotFound => String::new(),
            Err(e) => return Err(failed(e)),
        };
        let head = format!("{}\n", serde_json::json!({"planish eval": settings}));
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        let (mut known, mut length) = (HashMap::new(), 0);
        // A first line that was cut short is the beginning of ours.
        let ours = if whole > 0 { text.starts_with(&head) } else { head.starts_with(&text) };
        if !ours {
            let found = text.lines().next().unwrap_or_default().to_owned();
            return Err(Error::OtherJournal { path: path.into(), expected: head.trim_end().into(), found });
        }
        if whole > 0 {
            length = head.len();
            for line in text[length..whole].split_inclusive('\n') {
                let Ok(line) = read(line, &mut known) else { break };
                length += line;
            }
        }
        let file = OpenOptions::new().create(true).write(true).truncate(false).open(path).map_err(failed)?;
        file.set_len(length as u64).map_err(failed)?;
        drop(file);
        let mut file = OpenOptions::new().append(true).open(path).map_err(failed)?;
        if length == 0 {
            file.write_all(head.as_bytes()).map_err(failed)?;
        }
        Ok(Journal { path: path.into(), file, known })
    }

    /// Answers that were there when it was opened.
    pub fn known(&self) -> usize {
        self.known.len()
    }

    pub(super) fn recall(&self, task: &str, item: usize, texts: &str) -> Option<Answer> {
        let (of, answer) = self.known.get(&(task.to_owned(), item))?;
        (of == texts).then(|| answer.clone())
    }

    pub(super) fn enter(&mut self, task: &str, item: usize, texts: &str, answer: &Answer) -> Result<()> {
        let line = Line { task: task.into(), item, texts: texts.into(), answer: answer.clone() };
        let failed = |source| Error::Journal { path: self.path.clone(), source };
        let text = serde_json::to_string(&line).map_err(|e| failed(e.into()))? + "\n";
        // One write a line, so that only the last can be torn.
        self.file.write_all(text.as_bytes()).map_err(failed)
    }
}

/// Takes a line in; its length.
fn read(line: &str, known: &mut HashMap<(String, usize), (String, Answer)>) -> Result<usize, serde_json::Error> {
    let Line { task, item, texts, answer } = serde_json::from_str(line)?;
    known.insert((task, item), (texts, answer));
    Ok(line.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_survive_and_a_torn_line_does_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        let (text, total) = (Answer::Text { text: "a\nb".into() }, Answer::Rolling { total: -0.1 - 0.2 });
        let both = Answer::Likelihoods { ll: vec![-1.1, f64::MIN_POSITIVE], greedy: vec![true, false] };
        let mut journal = Journal::open(&path, "of a model").unwrap();
        journal.enter("t", 0, "aa", &text).unwrap();
        journal.enter("t", 1, "bb", &total).unwrap();
        journal.enter("u", 0, "cc", &both).unwrap();
        drop(journal);
        let whole = std::fs::read(&path).unwrap();
        std::fs::write(&path, &whole[..whole.len() - 3]).unwrap();
        let mut journal = Journal::open(&path, "of a model").unwrap();
        assert_eq!(
            (journal.known(), journal.recall("t", 0, "aa"), journal.recall("t", 0, "xx")),
            (2, Some(text), None)
        );
        assert_eq!(journal.recall("t", 1, "bb"), Some(total));
        journal.enter("u", 0, "cc", &both).unwrap();
        drop(journal);
        assert_eq!(std::fs::read(&path).unwrap(), whole);
        assert_eq!(Journal::open(&path, "of a model").unwrap().recall("u", 0, "cc"), Some(both));
    }

    #[test]
    fn other_settings_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("journal");
        drop(Journal::open(&path, "of a model").unwrap());
        let error = Journal::open(&path, "of another").err().unwrap().to_string();
        assert!(
            error.contains("journal: expected ") && error.contains("of another") && error.contains("of a model"),
            "{error}"
        );
        assert!(Journal::open(&dir.path().join("no/such"), "x").err().unwrap().to_string().contains("no/such"));
    }
}
