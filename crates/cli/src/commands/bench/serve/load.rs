//! What is asked: random tokens of given lengths, or conversations of a file.
use super::super::lengths::{self, Span};
use super::super::{Random, dataset};
use crate::commands::client::connection::Connection;
use anyhow::{Context, Result, anyhow};
use planish::Model;
use planish_text::{SpecialText, Tokenizer};
use serde_json::{Value, json};
use std::path::Path;

/// Answers to random prompts.
const OUTPUT: usize = 1000;

/// One request.
#[derive(Clone, Debug, PartialEq)]
pub struct Job {
    /// A text, or token ids.
    pub prompt: Value,
    /// Its tokens, as far as they are known here.
    pub input: usize,
    /// Tokens of the answer.
    pub output: usize,
}

/// Counts tokens: here, or by asking the server.
pub enum Counter<'a> {
    /// With a model's tokenizer.
    Here(Box<Tokenizer>),
    /// With the server's `/tokenize`.
    There(&'a Connection, &'a str),
}

impl<'a> Counter<'a> {
    /// A model's tokenizer, if one is named.
    pub fn new(tokenizer: Option<&str>, connection: &'a Connection, model: &'a str) -> Result<Counter<'a>> {
        let Some(name) = tokenizer else { return Ok(Counter::There(connection, model)) };
        let words = Model::open(name, connection.talks)?.words().context("--tokenizer")?.clone();
        Ok(Counter::Here(Box::new(words.tokenizer)))
    }

    /// Tokens of a text; `whole` if it is a prompt of its own.
    pub fn count(&self, text: &str, whole: bool) -> Result<usize> {
        match self {
            Counter::Here(tokenizer) if whole => Ok(tokenizer.encode_with_special(text)?.len()),
            Counter::Here(tokenizer) => Ok(tokenizer.encode(text, SpecialText::Plain)?.len()),
            Counter::There(connection, model) => {
                let body = json!({"model": model, "prompt": text, "add_special_tokens": whole});
                let counted = connection.ask_root("tokenize", &body).context("give --tokenizer MODEL")?;
                let count = counted["count"].as_u64();
                Ok(count.ok_or_else(|| anyhow!("/tokenize: expected a count, found {counted}"))? as usize)
            }
        }
    }
}

/// Pairs of lengths.
pub fn lengths(
    given: Option<&str>,
    input: Span,
    output: Option<Span>,
    count: usize,
    random: &mut Random,
) -> Result<Vec<(usize, usize)>> {
    if let Some(given) = given {
        return Ok(lengths::repeat(&lengths::pairs(given)?, count, random));
    }
    let output = output.unwrap_or(Span { least: OUTPUT, most: OUTPUT });
    Ok((0..count).map(|_| (input.draw(random), output.draw(random))).collect())
}

/// Random token ids below `vocab`; as text, where a server takes no ids, a short word for each.
pub fn random(lengths: &[(usize, usize)], text: bool, vocab: usize, random: &mut Random) -> Vec<Job> {
    let word = |random: &mut Random| ["the", "one", "time", "and", "for", "is", "not", "you"][random.below(8)];
    let job = |&(input, output): &(usize, usize)| {
        let prompt = match text {
            true => json!((0..input).map(|_| word(random)).collect::<Vec<_>>().join(" ")),
            false => json!(random.ids(input, vocab)),
        };
        Job { prompt, input, output }
    };
    lengths.iter().map(job).collect()
}

/// Conversations of a file, in an order that the seed decides, within vLLM's limits of length.
pub fn conversations(
    path: &Path,
    count: usize,
    output: Option<Span>,
    counter: &mut Counter<'_>,
    random: &mut Random,
) -> Result<Vec<Job>> {
    let mut exchanges = dataset::read_prompts(path, output.is_some())?;
    random.shuffle(&mut exchanges);
    let mut jobs = Vec::new();
    for exchange in exchanges {
        if jobs.len() == count {
            break;
        }
        let input = counter.count(&exchange.prompt, true)?;
        let (output, fixed) = match output {
            Some(span) => (span.draw(random), true),
            None => (counter.count(&exchange.answer, false)?, false),
        };
        if dataset::is_of_use(input, output, fixed, usize::MAX) {
            jobs.push(Job { prompt: json!(exchange.prompt), input, output });
        }
    }
    if jobs.is_empty() {
        return Err(dataset::none_of_use(usize::MAX));
    }
    Ok(jobs)
}
