//! From documents to what the model reads: description, few-shot examples, the question; as plain text or as a chat.
use super::data::Docs;
use super::{Choice, Doc, Output, Task};
use crate::error::{Error, Result};
use crate::random::Random;
use planish_text::{ChatInput, ChatTemplate, Message};

/// The harness' seed of few-shot examples.
const SEED: u32 = 1234;
/// Between a question and its answer, and after the answer of an example.
const TARGET: &str = " ";
const EXAMPLE: &str = "\n\n";

/// How prompts are made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Style<'a> {
    /// The model's chat template, to make conversations of prompts.
    pub chat: Option<&'a ChatTemplate>,
    /// Whether examples are turns of the conversation; else all stands in one message.
    pub multiturn: bool,
}

/// What the model is asked for one document.
#[derive(Clone, Debug, PartialEq)]
pub enum Question {
    /// How likely each of these continuations is after its context.
    Likelihoods(Vec<(String, String)>),
    /// How likely this text is.
    Rolling(String),
    /// How this text goes on.
    Generate(String),
}

/// A message in the making: its text, and what follows it where messages become one text.
#[derive(Clone, Debug)]
struct Turn {
    role: &'static str,
    text: String,
    end: &'static str,
}

/// The questions of all documents up to `limit`. `pool` are the documents that examples come from, if any are wanted.
///
/// # Errors
/// There are fewer documents than examples wanted, or the chat template fails.
pub fn questions(
    task: &Task,
    docs: &Docs,
    pool: &Docs,
    shots: usize,
    limit: usize,
    style: Style<'_>,
) -> Result<Vec<Question>> {
    let needed = shots + (task.shots.excludes_itself && shots > 0) as usize;
    if pool.docs.len() < needed && shots > 0 {
        return Err(Error::FewExamples { task: task.name.clone(), expected: needed, found: pool.docs.len() });
    }
    let mut random = Random::new(SEED);
    let mut found = Vec::with_capacity(docs.docs.len().min(limit));
    for (doc, fields) in docs.docs.iter().zip(&docs.fields).take(limit) {
        let examples = match shots {
            0 => Vec::new(),
            _ => examples(task, pool, shots, fields, &mut random)?,
        };
        found.push(question(task, doc, &examples, style)?);
    }
    Ok(found)
}

/// Places of a document's examples in the pool.
fn draw(
    task: &Task,
    pool: &Docs,
    shots: usize,
    own: &serde_json::Map<String, serde_json::Value>,
    random: &mut Random,
) -> Vec<usize> {
    let size = pool.docs.len();
    if task.shots.choice == Choice::First {
        return (0..shots).collect();
    }
    if !task.shots.excludes_itself {
        return random.sample(size, shots);
    }
    let other = |&i: &usize| pool.fields[i] != *own;
    let drawn: Vec<usize> = random.sample(size, shots + 1).into_iter().filter(other).take(shots).collect();
    if drawn.len() == shots {
        return drawn;
    }
    // Copies of the document took its places.
    let others: Vec<usize> = (0..size).filter(other).collect();
    random.sample(others.len(), shots).into_iter().map(|i| others[i]).collect()
}

fn examples<'a>(
    task: &Task,
    pool: &'a Docs,
    shots: usize,
    own: &serde_json::Map<String, serde_json::Value>,
    random: &mut Random,
) -> Result<Vec<&'a Doc>> {
    let drawn = draw(task, pool, shots, own, random);
    match drawn.len() == shots {
        true => Ok(drawn.into_iter().map(|i| &pool.docs[i]).collect()),
        false => Err(Error::FewExamples { task: task.name.clone(), expected: shots, found: drawn.len() }),
    }
}

fn question(task: &Task, doc: &Doc, examples: &[&Doc], style: Style<'_>) -> Result<Question> {
    let mut turns = Vec::new();
    if !task.description.is_empty() {
        turns.push(Turn { role: "system", text: task.description.clone(), end: "" });
    }
    examples.iter().for_each(|doc| turns.extend(example(doc)));
    let context = |query: &str| {
        let last = Turn { role: "user", text: query.to_owned(), end: "" };
        context(&task.name, [&turns[..], &[last]].concat(), style)
    };
    // A chat template ends with its own blank.
    let between = if style.chat.is_some() { "" } else { TARGET };
    Ok(match doc {
        Doc::Choice { query, choices, .. } => {
            let context = context(query)?;
            Question::Likelihoods(
                choices.iter().map(|choice| (context.clone(), format!("{between}{choice}"))).collect(),
            )
        }
        Doc::Blank { contexts, rest, .. } => {
            let pair = |text: &String| Ok((context(text)?, format!("{between}{rest}")));
            Question::Likelihoods(contexts.iter().map(pair).collect::<Result<_>>()?)
        }
        Doc::Text { query, target } => match task.output {
            Output::Generate { .. } => Question::Generate(context(query)?),
            _ => Question::Likelihoods(vec![(context(query)?, target.clone())]),
        },
        Doc::Page { text, .. } => Question::Rolling(text.clone()),
    })
}

/// A document with its right answer.
fn example(doc: &Doc) -> Vec<Turn> {
    let (query, answer) = match doc {
        Doc::Choice { query, choices, gold } => (query, &choices[*gold]),
        Doc::Blank { contexts, rest, gold } => (&contexts[*gold], rest),
        Doc::Text { query, target } => (query, target),
        Doc::Page { text, .. } => return vec![Turn { role: "user", text: text.clone(), end: "" }],
    };
    if answer.is_empty() {
        return vec![Turn { role: "user", text: query.clone(), end: "" }];
    }
    vec![
        Turn { role: "user", text: query.clone(), end: TARGET },
        Turn { role: "assistant", text: answer.clone(), end: EXAMPLE },
    ]
}

fn context(task: &str, turns: Vec<Turn>, style: Style<'_>) -> Result<String> {
    let Some(chat) = style.chat else { return Ok(joined(&turns)) };
    let messages = if style.multiturn { separate(turns) } else { single(turns) };
    let render = |messages: &[Message]| chat.render(&ChatInput::new(messages, true));
    render(&messages).or_else(|error| {
        // A template that knows no system message refuses it: then it is left out, as in the harness.
        let rest: Vec<Message> = messages.iter().filter(|m| m.role != "system").cloned().collect();
        match rest.len() < messages.len() {
            true => render(&rest).map_err(|source| Error::Words { task: task.into(), source }),
            false => Err(Error::Words { task: task.into(), source: error }),
        }
    })
}

fn joined(turns: &[Turn]) -> String {
    turns.iter().flat_map(|turn| [&turn.text, turn.end]).collect()
}

fn message(role: &str, content: String) -> Message {
    Message { role: role.into(), content }
}

fn separate(turns: Vec<Turn>) -> Vec<Message> {
    turns.into_iter().map(|turn| message(turn.role, turn.text)).collect()
}

/// All but the description in one message.
fn single(mut turns: Vec<Turn>) -> Vec<Message> {
    let mut messages = Vec::new();
    if turns.first().is_some_and(|turn| turn.role == "system") {
        messages.push(message("system", turns.remove(0).text));
    }
    messages.push(message("user", joined(&turns)));
    messages
}
