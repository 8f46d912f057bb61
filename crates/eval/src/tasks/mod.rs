//! Tasks of lm-evaluation-harness (version 0.4.13): the same prompts, few-shot examples, filters, metrics and standard
//! errors, measured through the engine's handle.
//!
//! A task is a declaration in [`list`]; documents come from its rows ([`read`]), prompts from documents ([`prompt`]),
//! tokens from prompts ([`encode`]), answers from the engine ([`run`]), numbers from answers ([`metric`]).
pub mod data;
mod detokenize;
mod encode;
mod filter;
pub mod journal;
pub mod list;
mod metric;
pub mod paired;
pub mod prompt;
mod python;
pub mod read;
pub mod recovery;
pub mod results;
pub mod run;
pub mod select;
mod stderr;
mod table;

use data::Dataset;
use read::Reader;

pub use read::Doc;

/// One task, as the harness' YAML file of that name declares it.
#[derive(Clone, Debug)]
pub struct Task {
    /// Its name.
    pub name: String,
    /// What it is called in tables, below its group.
    pub alias: String,
    /// What it asks, for `--help` and the documentation.
    pub about: &'static str,
    /// Version of the harness' declaration.
    pub version: &'static str,
    /// Where its rows are.
    pub dataset: Dataset,
    /// Few-shot examples.
    pub shots: Shots,
    /// What stands before everything else in a prompt; may be empty.
    pub description: String,
    /// From a row to a document.
    pub read: fn(&Reader<'_>) -> planish_checkpoint::Result<Doc>,
    /// What the model is asked for.
    pub output: Output,
    /// What is measured.
    pub metrics: &'static [Metric],
}

/// Where few-shot examples come from.
#[derive(Clone, Copy, Debug)]
pub struct Shots {
    /// How many unless the user says otherwise.
    pub default: usize,
    /// Split; none if the task has no examples of its own, and the documents to be answered serve.
    pub split: Option<&'static str>,
    /// How they are chosen.
    pub choice: Choice,
    /// Whether a document must not be its own example. (One more is drawn then.)
    pub excludes_itself: bool,
}

/// How few-shot examples are chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Choice {
    /// Drawn anew for each document.
    Random,
    /// The first of the split, for all.
    First,
}

/// What the model is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The likeliest of several continuations.
    MultipleChoice,
    /// The likelihood of one continuation.
    Likelihood,
    /// The likelihood of a whole text.
    Rolling,
    /// A text of up to `max_tokens` tokens, up to one of `until`; each filter makes a result of it.
    Generate {
        /// Texts that end it.
        until: &'static [&'static str],
        /// Most tokens.
        max_tokens: usize,
        /// Filters, in the harness' order.
        filters: &'static [Filter],
    },
}

/// From a generated text to an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter {
    /// Its name in results.
    pub name: &'static str,
    /// Which part of the text; the first group that is not empty counts.
    pub pattern: &'static str,
    /// Whether the last match counts, or the first.
    pub last: bool,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Metric {
    /// Share of documents whose likeliest continuation is the right one; of single continuations, those that are the
    /// likeliest tokens throughout.
    Acc,
    /// The same with log-likelihoods divided by the continuations' lengths in characters.
    AccNorm,
    /// Share of documents whose answer equals the right one.
    ExactMatch,
    /// `exp` of the mean negative log-likelihood of a document.
    Perplexity,
    /// `exp` of the negative log-likelihood of a word.
    WordPerplexity,
    /// The same of a byte.
    BytePerplexity,
    /// Its binary logarithm.
    BitsPerByte,
}

impl Metric {
    /// Its name in results.
    pub const fn name(self) -> &'static str {
        match self {
            Metric::Acc => "acc",
            Metric::AccNorm => "acc_norm",
            Metric::ExactMatch => "exact_match",
            Metric::Perplexity => "perplexity",
            Metric::WordPerplexity => "word_perplexity",
            Metric::BytePerplexity => "byte_perplexity",
            Metric::BitsPerByte => "bits_per_byte",
        }
    }

    /// Whether more is better.
    pub const fn higher_is_better(self) -> bool {
        matches!(self, Metric::Acc | Metric::AccNorm | Metric::ExactMatch)
    }
}

impl Task {
    /// The filters of its results: `none` where there are none.
    pub fn filters(&self) -> Vec<&'static str> {
        match self.output {
            Output::Generate { filters, .. } => filters.iter().map(|f| f.name).collect(),
            _ => vec!["none"],
        }
    }
}
