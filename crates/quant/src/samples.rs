//! Calibration data: files of text, conversations or token ids become token sequences, the same for the same seed.
//!
//! Records are shuffled and tokenized one after another until there are enough sequences. Text and conversations are
//! packed: their tokens are joined and cut every `seqlen` tokens, so that short ones fill whole sequences. Records of
//! token ids stay as they are, cut to `seqlen`. Plain text is first split at line ends into pieces of about one
//! sequence, so that the sequences come from all over the file.
mod read;
mod shuffle;

pub use read::{KINDS, Source};
pub use shuffle::{SplitMix64, permutation};

use crate::error::{Error, Result};
use read::{File, Record};
use serde_json::Value;
use sha2::{Digest, Sha256};

/// Fewer tokens than this in all say nothing about a model.
const MIN_TOKENS: usize = 16;

/// What turns text into token ids; the tokenizer of the model to be quantized.
pub trait SampleTokenizer {
    /// Ids of plain text, as the model's own inputs would begin.
    ///
    /// # Errors
    /// A sentence that says why the text cannot be tokenized.
    fn text(&self, text: &str) -> std::result::Result<Vec<u32>, String>;
    /// Ids of a conversation: a list of objects with the strings `role` and `content`.
    ///
    /// # Errors
    /// A sentence that says why the conversation cannot be rendered.
    fn chat(&self, messages: &Value) -> std::result::Result<Vec<u32>, String>;
    /// Ids are below this.
    fn vocab_size(&self) -> usize;
}

/// How many sequences, and how they are made.
#[derive(Clone, Debug, PartialEq)]
pub struct SampleOptions {
    /// Sequences at most.
    pub samples: usize,
    /// Tokens of a sequence at most.
    pub seqlen: usize,
    /// Seed of the shuffle.
    pub seed: u64,
    /// Whether records are shuffled; otherwise they come in the order of the file.
    pub shuffle: bool,
    /// Whether short texts share a sequence; otherwise each is one, cut to `seqlen`.
    pub pack: bool,
}

impl Default for SampleOptions {
    fn default() -> Self {
        SampleOptions { samples: 512, seqlen: 2048, seed: 42, shuffle: true, pack: true }
    }
}

/// Token sequences to calibrate on.
#[derive(Clone, Debug, PartialEq)]
pub struct Samples {
    /// Sequences, none longer than asked for, none empty.
    pub ids: Vec<Vec<u32>>,
    /// Where they come from and how they were made, in one sentence.
    pub description: String,
    /// SHA-256, in hexadecimal, of every sequence's length and ids as little-endian 32-bit numbers.
    pub sha256: String,
}

impl Samples {
    /// Tokens in all.
    pub fn tokens(&self) -> usize {
        self.ids.iter().map(Vec::len).sum()
    }
}

/// Loads calibration data.
///
/// # Errors
/// Names the file and the line: unreadable, of an unknown kind, not JSON, without a known field, with a field of the
/// wrong type or an id outside the vocabulary, or with too little text in all.
pub fn load(source: &Source, options: &SampleOptions, tokenizer: &dyn SampleTokenizer) -> Result<Samples> {
    for (name, value) in [("--calib-samples", options.samples), ("--calib-seqlen", options.seqlen)] {
        if value == 0 {
            let (expected, found) = ("a number above 0".to_string(), "0".to_string());
            return Err(Error::Setting { name: name.into(), expected, found });
        }
    }
    let file = File::open(source, options.seqlen)?;
    let order = match options.shuffle {
        true => permutation(file.records(), options.seed),
        false => (0..file.records()).collect(),
    };
    let (ids, used) = gather(&file, &order, options, tokenizer)?;
    let tokens: usize = ids.iter().map(Vec::len).sum();
    if tokens < MIN_TOKENS {
        let problem = format!("expected at least {MIN_TOKENS} tokens of calibration data, found {tokens}");
        return Err(file.problem(None, problem));
    }
    Ok(Samples { description: describe(&file, used, ids.len(), tokens, options), sha256: digest(&ids), ids })
}

/// Sequences from the records in this order, and how many records they took.
fn gather(
    file: &File,
    order: &[usize],
    options: &SampleOptions,
    tokenizer: &dyn SampleTokenizer,
) -> Result<(Vec<Vec<u32>>, usize)> {
    let (mut out, mut joined, mut used) = (Vec::new(), Vec::new(), 0);
    for &record in order {
        if out.len() >= options.samples {
            break;
        }
        used += 1;
        let (mut ids, whole) = tokenize(file, record, tokenizer)?;
        if whole || !options.pack {
            ids.truncate(options.seqlen);
            out.extend((!ids.is_empty()).then_some(ids));
            continue;
        }
        joined.append(&mut ids);
        while joined.len() >= options.seqlen && out.len() < options.samples {
            let rest = joined.split_off(options.seqlen);
            out.push(std::mem::replace(&mut joined, rest));
        }
    }
    // What is left at the end of the data is a sequence too, unless it is a mere remainder.
    if out.len() < options.samples && !joined.is_empty() && (out.is_empty() || joined.len() * 2 >= options.seqlen) {
        out.push(joined);
    }
    Ok((out, used))
}

/// Ids of one record, and whether they are to stay one sequence.
fn tokenize(file: &File, index: usize, tokenizer: &dyn SampleTokenizer) -> Result<(Vec<u32>, bool)> {
    let wrap = |r: std::result::Result<Vec<u32>, String>| r.map_err(|e| file.problem(Some(index), e));
    let (ids, whole) = match file.record(index)? {
        Record::Text(text) => (wrap(tokenizer.text(&text))?, false),
        Record::Chat(messages) => (wrap(tokenizer.chat(&messages))?, false),
        Record::Ids(ids) => (ids, true),
    };
    let vocabulary = tokenizer.vocab_size();
    if let Some(id) = ids.iter().find(|&&id| id as usize >= vocabulary) {
        let problem = format!("expected token ids below the vocabulary's {vocabulary}, found {id}");
        return Err(file.problem(Some(index), problem));
    }
    Ok((ids, whole))
}

fn describe(file: &File, used: usize, sequences: usize, tokens: usize, options: &SampleOptions) -> String {
    let order = if options.shuffle { format!("shuffled with seed {}", options.seed) } else { "in order".into() };
    let fewer = match sequences < options.samples {
        true => format!(" ({} were asked for; that is all the data)", options.samples),
        false => String::new(),
    };
    format!(
        "{}: {sequences} sequences of at most {} tokens{fewer}, {tokens} tokens in all, from {used} of {} {}, {order}",
        file.name(),
        options.seqlen,
        file.records(),
        file.record_kind(),
    )
}

fn digest(ids: &[Vec<u32>]) -> String {
    let mut hash = Sha256::new();
    for sequence in ids {
        hash.update((sequence.len() as u32).to_le_bytes());
        sequence.iter().for_each(|id| hash.update(id.to_le_bytes()));
    }
    hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
