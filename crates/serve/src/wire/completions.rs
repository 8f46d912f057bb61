//! `/v1/completions`.
use super::Usage;
use super::generation::generation_request;
use super::whole::{Each, List, One, Single};
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt::{Formatter, Result as Written};
use std::marker::PhantomData;
use std::sync::Arc;
use utoipa::ToSchema;

generation_request! {
    /// Texts to continue.
    pub struct CompletionRequest {
        /// A text, several, token ids, or several lists of them.
        #[schema(required = true, value_type = Prompt)]
        pub prompt: Option<Prompt>,
        /// Most tokens of an answer; 16 unless told otherwise. 0 gives nothing but what `echo` shows.
        #[schema(minimum = 0)]
        #[serde(default, alias = "max_completion_tokens", deserialize_with = "super::whole::optional")]
        pub max_tokens: Option<u64>,
        /// Give the prompt back before the answer.
        pub echo: Option<bool>,
        /// Tell log-probabilities of so many of the likeliest tokens, and of the chosen one; with `echo` of the
        /// prompt's tokens too.
        #[schema(minimum = 0, maximum = 5)]
        #[serde(default, deserialize_with = "super::whole::optional")]
        pub logprobs: Option<u64>,
        /// As many as `n`, if given.
        #[schema(minimum = 1, maximum = 20)]
        #[serde(default, deserialize_with = "super::whole::optional")]
        pub best_of: Option<u64>,
        /// Text after the answer: not offered.
        pub suffix: Option<String>,
        /// Put what the model expects before a text; yes unless told otherwise.
        pub add_special_tokens: Option<bool>,
    }
}

/// What to continue.
#[derive(Clone, Debug, Serialize, ToSchema)]
#[serde(untagged)]
pub enum Prompt {
    /// A text.
    Text(String),
    /// Token ids.
    Ids(Vec<u32>),
    /// Several texts.
    Texts(Vec<String>),
    /// Several lists of token ids.
    IdLists(Vec<Vec<u32>>),
}

/// By hand: serde tries the variants of an untagged value on a copy that has many times its length.
impl<'de> Deserialize<'de> for Prompt {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Prompt, D::Error> {
        input.deserialize_any(AnyPrompt)
    }
}

struct AnyPrompt;

impl<'de> Visitor<'de> for AnyPrompt {
    type Value = Prompt;

    fn expecting(&self, f: &mut Formatter<'_>) -> Written {
        f.write_str("a text, a list of texts, token ids or a list of those")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Prompt, E> {
        Ok(Prompt::Text(text.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut input: A) -> Result<Prompt, A::Error> {
        Ok(match input.next_element::<Entry>()? {
            None => Prompt::Ids(Vec::new()),
            Some(Entry::Id(first)) => Prompt::Ids(others(first, input, |One(id)| id)?),
            Some(Entry::Text(first)) => Prompt::Texts(others(first, input, |text: String| text)?),
            Some(Entry::Ids(first)) => Prompt::IdLists(others(first, input, |Each(ids)| ids)?),
        })
    }
}

/// A list whose first entry is known.
fn others<'de, T, U: Deserialize<'de>, A: SeqAccess<'de>>(
    first: T,
    mut input: A,
    open: impl Fn(U) -> T,
) -> Result<Vec<T>, A::Error> {
    let mut list = vec![first];
    while let Some(next) = input.next_element()? {
        list.push(open(next));
    }
    Ok(list)
}

/// The first entry of a list, which says what the others are.
enum Entry {
    Id(u32),
    Text(String),
    Ids(Vec<u32>),
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(input: D) -> Result<Entry, D::Error> {
        input.deserialize_any(AnyEntry)
    }
}

struct AnyEntry;

impl<'de> Visitor<'de> for AnyEntry {
    type Value = Entry;

    fn expecting(&self, f: &mut Formatter<'_>) -> Written {
        f.write_str("a text, a token id or a list of those")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Entry, E> {
        Ok(Entry::Text(text.to_owned()))
    }

    fn visit_u64<E: Error>(self, id: u64) -> Result<Entry, E> {
        Single(PhantomData).visit_u64(id).map(Entry::Id)
    }

    fn visit_i64<E: Error>(self, id: i64) -> Result<Entry, E> {
        Single(PhantomData).visit_i64(id).map(Entry::Id)
    }

    fn visit_f64<E: Error>(self, id: f64) -> Result<Entry, E> {
        Single(PhantomData).visit_f64(id).map(Entry::Id)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, input: A) -> Result<Entry, A::Error> {
        List(PhantomData).visit_seq(input).map(Entry::Ids)
    }
}

/// The answers.
#[derive(Debug, Serialize, ToSchema)]
pub struct CompletionResponse {
    /// Of this request.
    #[schema(value_type = String)]
    pub id: Arc<str>,
    /// `text_completion`.
    pub object: &'static str,
    /// Seconds since 1970.
    pub created: u64,
    /// Which model.
    #[schema(value_type = String)]
    pub model: Arc<str>,
    /// `n` for each prompt, in order.
    pub choices: Vec<CompletionChoice>,
    /// Tokens. In a stream only if asked for: null until the last chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Usage>)]
    pub usage: Option<Option<Usage>>,
}

/// One answer, or a piece of one.
#[derive(Debug, Serialize, ToSchema)]
pub struct CompletionChoice {
    /// `prompt * n + choice`.
    pub index: usize,
    /// The text.
    pub text: String,
    /// Of its tokens, if asked for.
    pub logprobs: Option<CompletionLogprobs>,
    /// `stop` or `length`; null while it goes on.
    pub finish_reason: Option<&'static str>,
}

/// Log-probabilities, side by side.
#[derive(Debug, Default, Serialize, ToSchema)]
pub struct CompletionLogprobs {
    /// Texts of the tokens.
    pub tokens: Vec<String>,
    /// Null for the first token of a prompt.
    pub token_logprobs: Vec<Option<f64>>,
    /// The likeliest at each place, by text; null for the first token of a prompt.
    #[schema(value_type = Vec<Option<Object>>)]
    pub top_logprobs: Vec<Option<Map<String, Value>>>,
    /// Where each token begins in the text, in characters.
    pub text_offset: Vec<usize>,
}
