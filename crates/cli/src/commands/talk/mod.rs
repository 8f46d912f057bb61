//! The face that `planish chat` and `planish client` share: a conversation in the terminal or a pipe, with whoever
//! answers.
mod command;
mod file;
mod input;
mod markdown;
mod screen;

use super::print_json;
use crate::Global;
use anyhow::{Result, anyhow};
use clap::{Args, ValueEnum};
use command::Command;
use input::Input;
use planish::notice::say;
use planish_text::Message;
use screen::Screen;
use serde_json::{Value, json};
use std::io::IsTerminal;
use std::path::PathBuf;
use std::time::Instant;

/// Flags of a conversation.
#[derive(Args)]
pub struct TalkFlags {
    /// What the model is told before the conversation
    #[arg(long)]
    pub system: Option<String>,
    /// Go on with a conversation that /save wrote
    #[arg(long, value_name = "FILE")]
    pub load: Option<PathBuf>,
    /// Render Markdown: auto does on a terminal, unless NO_COLOR is set; a pipe gets the plain text
    #[arg(long, default_value = "auto", value_enum)]
    pub markdown: Markdown,
}

/// Values of `--markdown`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Markdown {
    /// On a terminal.
    Auto,
    /// Also into a pipe.
    Always,
    /// Not even on a terminal.
    Never,
}

/// What has been said, and how the next answer is made.
#[derive(Clone, Debug, Default)]
pub struct Conversation {
    /// What the model is told before.
    pub system: Option<String>,
    /// Questions and answers by turns.
    pub messages: Vec<Message>,
    /// If it was set; else whoever answers decides.
    pub temperature: Option<f32>,
}

impl Conversation {
    /// All messages, the system's first.
    pub fn all(&self) -> Vec<Message> {
        let system = self.system.iter().map(|text| message("system", text));
        system.chain(self.messages.iter().cloned()).collect()
    }

    /// As `/save` writes it and `--load` reads it.
    fn document(&self) -> Value {
        let mut document = json!({"messages": self.all()});
        if let Some(temperature) = self.temperature {
            document["temperature"] = json!(temperature);
        }
        document
    }

    /// Takes the last question back, with its answer; the question.
    fn undo(&mut self, command: &str) -> Result<String> {
        let last = self.messages.iter().rposition(|message| message.role == "user");
        let last = last.ok_or_else(|| anyhow!("{command}: expected a question before it, found none"))?;
        let question = self.messages.drain(last..).next();
        Ok(question.map(|message| message.content).unwrap_or_default())
    }
}

/// A part of an answer, as it comes.
#[derive(Clone, Copy, Debug)]
pub enum Part<'a> {
    /// Of its text.
    Text(&'a str),
    /// Of what the model thought before it.
    Thought(&'a str),
}

/// A complete answer.
#[derive(Clone, Debug, Default)]
pub struct Reply {
    /// Its text.
    pub text: String,
    /// How many tokens it has, if that is known.
    pub tokens: Option<usize>,
    /// Why it ended, if for another reason than that all was said.
    pub cut: Option<String>,
}

/// Who answers.
pub trait Partner {
    /// Answers the last message; `show` gets each part as it comes, and its error ends the answer.
    fn answer(&mut self, talk: &Conversation, show: &mut dyn FnMut(Part<'_>) -> Result<()>) -> Result<Reply>;
}

/// Talks until the input ends; with `--json` the whole conversation is printed then, and nothing before. In a terminal a failure is shown and the conversation goes on without the failed
/// question; in a pipe it ends the program, because nobody is there to see it.
pub fn talk(
    global: &Global,
    flags: &TalkFlags,
    temperature: Option<f32>,
    greeting: &str,
    partner: &mut dyn Partner,
) -> Result<()> {
    let interactive = std::io::stdin().is_terminal();
    let mut talk = Conversation { system: flags.system.clone(), temperature, ..Conversation::default() };
    if let Some(path) = &flags.load {
        file::load(path, &mut talk)?;
    }
    if interactive && global.talks() {
        say(format_args!("{greeting} /help shows the commands, /exit ends."));
    }
    let mut input = Input::open(interactive)?;
    let mut screen = Screen::new(flags.markdown, global.json);
    while let Some(text) = input.read()? {
        let done = match Command::parse(&text) {
            None if text.trim().is_empty() => continue,
            None => ask(global, &text, &mut talk, &mut screen, partner),
            Some(Ok(Command::Exit)) => break,
            Some(Ok(Command::Again)) => {
                talk.undo("/again").and_then(|text| ask(global, &text, &mut talk, &mut screen, partner))
            }
            Some(Ok(command)) => command.run(&mut talk),
            Some(Err(error)) => Err(error),
        };
        match done {
            Err(error) if interactive && !crate::is_broken_pipe(&error) => {
                say(format_args!("error: {}", crate::one_line(&error)))
            }
            done => done?,
        }
    }
    if global.json { print_json(&talk.document()) } else { Ok(()) }
}

/// One question and its answer.
fn ask(
    global: &Global,
    text: &str,
    talk: &mut Conversation,
    screen: &mut Screen,
    partner: &mut dyn Partner,
) -> Result<()> {
    talk.messages.push(message("user", text));
    let (start, mut first) = (Instant::now(), None);
    let answered = partner.answer(talk, &mut |part| {
        first.get_or_insert_with(Instant::now);
        screen.show(part)
    });
    let ended = screen.end();
    let reply = match answered {
        Ok(reply) => reply,
        Err(error) => {
            talk.messages.pop();
            return Err(error);
        }
    };
    ended?;
    talk.messages.push(message("assistant", &reply.text));
    if global.talks() {
        say(format_args!("{}", summary(&reply, start, first.unwrap_or_else(Instant::now))));
    }
    Ok(())
}

/// How long the answer was and how fast it came.
fn summary(reply: &Reply, start: Instant, first: Instant) -> String {
    let seconds = start.elapsed().as_secs_f64();
    let wait = first.duration_since(start).as_secs_f64();
    let cut = reply.cut.as_ref().map_or(String::new(), |why| format!("; ended by {why}"));
    match reply.tokens {
        Some(n) => {
            let rate = n as f64 / seconds.max(1e-9);
            format!("({n} tokens, {rate:.1} tokens/s, the first after {wait:.2} s{cut})")
        }
        None => format!("({seconds:.1} s, the first text after {wait:.2} s{cut})"),
    }
}

/// A message of that role.
pub fn message(role: &str, content: &str) -> Message {
    Message { role: role.into(), content: content.into() }
}
