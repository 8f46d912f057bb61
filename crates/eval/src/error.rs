//! Errors of measuring.
use std::fmt;

/// Which of the two models of a comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Model {
    /// The one measured against; the only one when there is one.
    Original,
    /// The one measured.
    Quantized,
}

impl fmt::Display for Model {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Model::Original => "original model",
            Model::Quantized => "quantized model",
        })
    }
}

/// What measuring can fail with.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The text cannot be measured.
    #[error("the text is too short: expected at least {expected} tokens, found {found}")]
    ShortText {
        /// Fewest tokens.
        expected: usize,
        /// Tokens of the text.
        found: usize,
    },
    /// Cutting was asked for with impossible sizes, or a window cannot be scored.
    #[error("{field}: expected at least {expected}, found {found}")]
    TooSmall {
        /// Name of the setting.
        field: &'static str,
        /// Smallest value.
        expected: usize,
        /// Given value.
        found: usize,
    },
    /// The two models do not speak of the same tokens.
    #[error("vocab_size: the original model has {original}, the quantized model {quantized}; expected equal sizes")]
    Vocabulary {
        /// Tokens of the original.
        original: usize,
        /// Tokens of the quantized model.
        quantized: usize,
    },
    /// One engine cannot score two texts in lockstep: it would wait for itself.
    #[error("a model is compared with itself through one handle: expected two handles")]
    SameHandle,
    /// A model could not score a window.
    #[error("window {window}: the {model} failed: {source}")]
    Engine {
        /// Which model.
        model: Model,
        /// Number of the window, from 0.
        window: usize,
        /// Why.
        source: planish_engine::Error,
    },
    /// A model sent scores that do not follow each other.
    #[error("window {window}: scores of the {model}: expected position {expected}, found {found}")]
    Order {
        /// Which model.
        model: Model,
        /// Number of the window, from 0.
        window: usize,
        /// Position that was due.
        expected: usize,
        /// What came instead.
        found: String,
    },
    /// A probability is not a number.
    #[error("window {window}, position {position}: the {model} gave NaN")]
    NotANumber {
        /// Which model.
        model: Model,
        /// Number of the window, from 0.
        window: usize,
        /// Position in the window, from 0.
        position: usize,
    },
    /// Rows of a task cannot be read.
    #[error(transparent)]
    Rows(#[from] planish_checkpoint::Error),
    /// A name that is no task.
    #[error("--tasks: unknown task {found}{hint}; `planish eval --list` shows all",
        hint = nearest.as_ref().map_or(String::new(), |near| format!(": did you mean {near}?")))]
    UnknownTask {
        /// As given.
        found: String,
        /// A similar one.
        nearest: Option<String>,
    },
    /// No task at all.
    #[error("--tasks: expected names of tasks, separated by commas, found none; `planish eval --list` shows all")]
    NoTask,
    /// A task's rows are not there.
    #[error("task {task}: expected rows of its {split} split in {place}, found none")]
    NoRows {
        /// The task.
        task: String,
        /// The split.
        split: String,
        /// Where they were looked for.
        place: String,
    },
    /// Rows of a task are not what it needs.
    #[error("{first}{}", and_others(others))]
    BadRows {
        /// What is wrong with the first of them.
        first: Box<planish_checkpoint::Error>,
        /// Numbers of the others in the same file.
        others: Vec<usize>,
    },
    /// A task's rows cannot be fetched.
    #[error("task {task}: data set {repo}: {source}; --data-dir takes local files")]
    Hub {
        /// The task.
        task: String,
        /// The data set.
        repo: String,
        /// Why.
        source: Box<planish_checkpoint::hub::HubError>,
    },
    /// Too few documents to take examples from.
    #[error("task {task}: --num-fewshot: expected at least {expected} documents to take examples from, found {found}")]
    FewExamples {
        /// The task.
        task: String,
        /// Fewest.
        expected: usize,
        /// There are.
        found: usize,
    },
    /// A text cannot be tokenized, or no conversation be made of it.
    #[error("task {task}: {source}")]
    Words {
        /// The task.
        task: String,
        /// Why.
        source: planish_text::TextError,
    },
    /// A continuation that cannot be judged.
    #[error("task {task}: a continuation of {found} tokens: expected 1 to {most} (--max-model-len)")]
    Continuation {
        /// The task.
        task: String,
        /// Most tokens.
        most: usize,
        /// Its tokens.
        found: usize,
    },
    /// The model's context is too short for an answer.
    #[error("task {task}: --max-model-len: expected at least {expected} tokens for question and answer, found {found}")]
    Room {
        /// The task.
        task: String,
        /// Fewest tokens.
        expected: usize,
        /// Tokens that there are.
        found: usize,
    },
    /// The model failed at a question.
    #[error("task {task}, document {item}: {source}")]
    Asked {
        /// The task.
        task: String,
        /// Number of the document, from 0.
        item: usize,
        /// Why.
        source: planish_engine::Error,
    },
    /// An answer of another kind than its question, as from a journal of another program.
    #[error("task {task}, document {item}: expected an answer to its question, found one to another kind")]
    Mismatch {
        /// The task.
        task: String,
        /// Number of the document, from 0.
        item: usize,
    },
    /// A filter of a task is not a pattern.
    #[error("a filter: {reason}")]
    Pattern {
        /// Why.
        reason: String,
    },
    /// The journal cannot be read or written.
    #[error("--journal {path}: {source}", path = path.display())]
    Journal {
        /// The file.
        path: std::path::PathBuf,
        /// The system's error.
        source: std::io::Error,
    },
    /// The journal is of another run.
    #[error("--journal {path}: expected {expected}, found {found}: give another file, or the same settings", path = path.display())]
    OtherJournal {
        /// The file.
        path: std::path::PathBuf,
        /// Its first line in this run.
        expected: String,
        /// Its first line.
        found: String,
    },
    /// Two runs of tasks cannot be compared.
    #[error("task {task}: expected the same documents from both models, found {original} and {quantized}")]
    Unpaired {
        /// The task.
        task: String,
        /// Documents of the original.
        original: usize,
        /// Documents of the quantized model.
        quantized: usize,
    },
}

/// Result of measuring.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Says which other rows are bad, up to a few.
fn and_others(rows: &[usize]) -> String {
    const SHOWN: usize = 10;
    let numbers: Vec<String> = rows.iter().take(SHOWN).map(usize::to_string).collect();
    let more = if rows.len() > SHOWN { ", …" } else { "" };
    match rows.len() {
        0 => String::new(),
        1 => format!(" (row {} is bad too)", numbers[0]),
        n => format!(" ({n} more rows are bad: {}{more})", numbers.join(", ")),
    }
}
