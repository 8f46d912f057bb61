//! From questions to answers, many at a time through the engine's handle. Answers do not depend on how many.
use super::encode::Encoder;
use super::journal::Journal;
use super::prompt::Question;
use super::{Output, Task};
use crate::error::{Error, Result};
use planish_engine::{Cancel, Event, Handle, Likelihood, Likelihoods, Request};
use planish_text::Tokenizer;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, VecDeque};
use std::sync::mpsc::{Sender, channel};

/// A model that answers.
pub struct Subject<'a> {
    /// Its engine.
    pub handle: &'a Handle,
    /// Its words.
    pub tokenizer: &'a Tokenizer,
    /// The token before a text without context: BOS, or EOS where there is none.
    pub prefix: u32,
    /// How that token is spelled.
    pub prefix_text: String,
    /// Tokens that end a text.
    pub eos: Vec<u32>,
    /// How the tokenizer's own EOS is spelled.
    pub eos_text: String,
    /// Whether the tokenizer's special tokens stand around texts; none: as the tokenizer itself would have it.
    pub add_bos: Option<bool>,
    /// Most tokens of a text.
    pub room: usize,
    /// Questions that are asked at once.
    pub at_once: usize,
}

/// What the model said.
#[derive(Clone, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
pub enum Answer {
    /// Of each continuation: its log-likelihood, and whether its tokens are the likeliest throughout.
    Likelihoods {
        /// Natural logarithms.
        ll: Vec<f64>,
        /// In the same order.
        greedy: Vec<bool>,
    },
    /// The log-likelihood of a whole text.
    Rolling {
        /// Natural logarithm.
        total: f64,
    },
    /// A text.
    Text {
        /// Without what ended it.
        text: String,
    },
}

/// Answers to all questions of a task, in their order. `progress` hears how many are answered.
///
/// # Errors
/// A question cannot be encoded, the model fails, or the journal cannot be written.
pub fn answers(
    subject: &Subject<'_>,
    task: &Task,
    questions: &[Question],
    journal: Option<&mut Journal>,
    progress: &mut dyn FnMut(usize),
) -> Result<Vec<Answer>> {
    let mut book = Book { task, found: vec![None; questions.len()], done: 0, journal, progress };
    book.recall(questions);
    let encoder = Encoder { subject, task: &task.name };
    let open: Vec<usize> = (0..questions.len()).filter(|&i| book.found[i].is_none()).collect();
    match task.output {
        Output::Generate { until, max_tokens, .. } => {
            let mut stops: Vec<&str> = until.to_vec();
            if !subject.eos_text.is_empty() && !stops.contains(&subject.eos_text.as_str()) {
                stops.push(&subject.eos_text);
            }
            write(&encoder, questions, &open, &stops, max_tokens, &mut book)?;
        }
        _ => judge(&encoder, questions, &open, &mut book)?,
    }
    Ok(book.found.into_iter().flatten().collect())
}

/// A digest of all texts that a question gives to the model.
pub fn digest(question: &Question) -> String {
    let texts: Vec<&str> = match question {
        Question::Likelihoods(pairs) => pairs.iter().flat_map(|(a, b)| [a.as_str(), b.as_str()]).collect(),
        Question::Rolling(text) => vec![text],
        Question::Generate(text) => vec![text, ""],
    };
    let hash = Sha256::digest(texts.join("\0"));
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// What is known so far.
struct Book<'a, 'b> {
    task: &'a Task,
    found: Vec<Option<Answer>>,
    done: usize,
    journal: Option<&'a mut Journal>,
    progress: &'b mut dyn FnMut(usize),
}

impl Book<'_, '_> {
    /// Takes over what an earlier run has answered.
    fn recall(&mut self, questions: &[Question]) {
        let Some(journal) = &self.journal else { return };
        for (i, question) in questions.iter().enumerate() {
            self.found[i] = journal.recall(&self.task.name, i, &digest(question));
            self.done += self.found[i].is_some() as usize;
        }
        (self.progress)(self.done);
    }

    fn enter(&mut self, item: usize, question: &Question, answer: Answer) -> Result<()> {
        if let Some(journal) = &mut self.journal {
            journal.enter(&self.task.name, item, &digest(question), &answer)?;
        }
        self.found[item] = Some(answer);
        self.done += 1;
        (self.progress)(self.done);
        Ok(())
    }

    fn engine(&self, item: usize) -> impl FnOnce(planish_engine::Error) -> Error {
        let task = self.task.name.clone();
        move |source| Error::Asked { task, item, source }
    }
}

/// One question under way: its contexts, each with the places of the continuations asked of it.
struct Asked {
    item: usize,
    parts: Vec<(Likelihoods, Vec<usize>)>,
}

fn judge(encoder: &Encoder<'_>, questions: &[Question], open: &[usize], book: &mut Book<'_, '_>) -> Result<()> {
    let mut flight: VecDeque<Asked> = VecDeque::new();
    for &item in open {
        flight.push_back(ask(encoder, item, &questions[item], book)?);
        if flight.len() >= encoder.subject.at_once {
            take(&mut flight, questions, book)?;
        }
    }
    while !flight.is_empty() {
        take(&mut flight, questions, book)?;
    }
    Ok(())
}

fn ask(encoder: &Encoder<'_>, item: usize, question: &Question, book: &Book<'_, '_>) -> Result<Asked> {
    let pairs = match question {
        Question::Likelihoods(texts) => encoder.pairs(texts)?,
        Question::Rolling(text) | Question::Generate(text) => encoder.windows(text)?,
    };
    let mut contexts: Vec<Context> = Vec::new();
    for (place, (tokens, continuation)) in pairs.into_iter().enumerate() {
        let at = contexts.iter().position(|context| context.tokens == tokens).unwrap_or_else(|| {
            contexts.push(Context { tokens, continuations: Vec::new(), places: Vec::new() });
            contexts.len() - 1
        });
        contexts[at].continuations.push(continuation);
        contexts[at].places.push(place);
    }
    let start = |context: Context| {
        let likelihoods = encoder.subject.handle.judge(context.tokens, context.continuations);
        Ok((likelihoods.map_err(book.engine(item))?, context.places))
    };
    Ok(Asked { item, parts: contexts.into_iter().map(start).collect::<Result<_>>()? })
}

/// A context, and which of a question's continuations follow it.
struct Context {
    tokens: Vec<u32>,
    continuations: Vec<Vec<u32>>,
    places: Vec<usize>,
}

/// Waits for the question that was asked first.
fn take(flight: &mut VecDeque<Asked>, questions: &[Question], book: &mut Book<'_, '_>) -> Result<()> {
    let Some(asked) = flight.pop_front() else { return Ok(()) };
    let count = asked.parts.iter().map(|part| part.1.len()).sum();
    let mut found = vec![None; count];
    for (likelihoods, places) in asked.parts {
        for likelihood in likelihoods {
            let likelihood: Likelihood = likelihood.map_err(book.engine(asked.item))?;
            found[places[likelihood.index]] = Some(likelihood);
        }
    }
    let found: Option<Vec<Likelihood>> = found.into_iter().collect();
    let found = found.ok_or_else(|| book.engine(asked.item)(planish_engine::Error::Stopped))?;
    let answer = match &questions[asked.item] {
        Question::Likelihoods(_) => Answer::Likelihoods {
            ll: found.iter().map(|l| l.log_prob).collect(),
            greedy: found.iter().map(|l| l.greedy).collect(),
        },
        _ => Answer::Rolling { total: found.iter().map(|l| l.log_prob).sum() },
    };
    book.enter(asked.item, &questions[asked.item], answer)
}

/// A text being written. Dropping it ends its request.
struct Writing {
    tokens: Vec<u32>,
    text: String,
    _cancel: Cancel,
}

fn write(
    encoder: &Encoder<'_>,
    questions: &[Question],
    open: &[usize],
    stops: &[&str],
    max_tokens: usize,
    book: &mut Book<'_, '_>,
) -> Result<()> {
    let (sender, events) = channel::<(usize, Event)>();
    let (mut flight, mut next): (HashMap<usize, Writing>, _) = (HashMap::new(), open.iter());
    loop {
        while flight.len() < encoder.subject.at_once
            && let Some(&item) = next.next()
        {
            flight.insert(item, begin(encoder, item, &questions[item], max_tokens, &sender, book)?);
        }
        if flight.is_empty() {
            return Ok(());
        }
        let (item, event) = events.recv().map_err(|_| book.engine(item_of(&flight))(planish_engine::Error::Stopped))?;
        // Events of a text that has ended may still be under way.
        let Some(writing) = flight.get_mut(&item) else { continue };
        let ended = match event {
            Event::Token { id, .. } => {
                writing.tokens.push(id);
                let decoded = encoder.subject.tokenizer.decode(&writing.tokens, true);
                let task = &book.task.name;
                writing.text = decoded.map_err(|source| Error::Words { task: task.clone(), source })?;
                stops.iter().any(|stop| writing.text.contains(stop))
            }
            Event::Done { .. } => true,
            Event::Failed(error) => return Err(book.engine(item)(error)),
            Event::Prompt(_) => false,
        };
        if ended && let Some(writing) = flight.remove(&item) {
            let text = cut(&writing.text, stops);
            book.enter(item, &questions[item], Answer::Text { text })?;
        }
    }
}

fn item_of(flight: &HashMap<usize, Writing>) -> usize {
    flight.keys().copied().min().unwrap_or(0)
}

fn begin(
    encoder: &Encoder<'_>,
    item: usize,
    question: &Question,
    max_tokens: usize,
    sender: &Sender<(usize, Event)>,
    book: &Book<'_, '_>,
) -> Result<Writing> {
    let text = match question {
        Question::Generate(text) | Question::Rolling(text) => text.as_str(),
        Question::Likelihoods(pairs) => pairs.first().map_or("", |pair| &pair.0),
    };
    let prompt = encoder.prompt(text, max_tokens)?;
    let stop_ids = encoder.subject.eos.clone();
    let request = Request { prompt, max_new_tokens: max_tokens, stop_ids, ..Request::default() };
    let sender = sender.clone();
    let sink = move |event| sender.send((item, event)).is_ok();
    let cancel = encoder.subject.handle.generate_with(request, Box::new(sink)).map_err(book.engine(item))?;
    Ok(Writing { tokens: Vec::new(), text: String::new(), _cancel: cancel })
}

/// What stands before each of the stops, one after the other.
fn cut(text: &str, stops: &[&str]) -> String {
    stops.iter().fold(text, |text, stop| text.split_once(stop).map_or(text, |(before, _)| before)).to_owned()
}
