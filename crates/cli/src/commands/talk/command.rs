//! What a line that begins with `/` does.
use super::{Conversation, file};
use anyhow::{Result, anyhow, bail};
use planish::notice::say;
use std::path::PathBuf;

/// Each command with its argument and meaning.
const COMMANDS: [(&str, &str, &str); 9] = [
    ("/help", "", "show this"),
    ("/system", "[TEXT|none]", "show or set what the model is told before the conversation"),
    ("/temp", "[NUMBER]", "show or set the temperature; 0 takes the likeliest token always"),
    ("/save", "FILE", "write the conversation as JSON"),
    ("/load", "FILE", "go on with a conversation that was written"),
    ("/undo", "", "forget the last question and its answer"),
    ("/again", "", "ask the last question once more, in place of its answer"),
    ("/clear", "", "forget the conversation, but not the system's text"),
    ("/exit", "", "end; so does Ctrl-D"),
];

/// A command in the conversation.
#[derive(Clone, Debug, PartialEq)]
pub enum Command {
    /// List the commands.
    Help,
    /// Show, or set, or with `none` remove.
    System(Option<String>),
    /// Show or set.
    Temperature(Option<f32>),
    /// Write to a file.
    Save(PathBuf),
    /// Read from a file.
    Load(PathBuf),
    /// Forget the last question.
    Undo,
    /// Ask it once more.
    Again,
    /// Forget everything.
    Clear,
    /// End.
    Exit,
}

impl Command {
    /// A message is none; a line whose first word is `/` and letters is a command or an error.
    pub fn parse(text: &str) -> Option<Result<Command>> {
        let text = text.trim();
        let (word, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let name = word.strip_prefix('/')?;
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_lowercase()) {
            return None;
        }
        Some(Command::of(name, rest.trim()))
    }

    fn of(name: &str, rest: &str) -> Result<Command> {
        let file = || match rest {
            "" => Err(anyhow!("/{name}: expected a file, found nothing")),
            path => Ok(PathBuf::from(path)),
        };
        let alone = |command: Command| match rest {
            "" => Ok(command),
            more => Err(anyhow!("/{name}: expected nothing behind it, found {more:?}")),
        };
        match name {
            "help" => alone(Command::Help),
            "system" => Ok(Command::System(Some(rest.to_owned()).filter(|text| !text.is_empty()))),
            "temp" | "temperature" => match rest {
                "" => Ok(Command::Temperature(None)),
                text => Ok(Command::Temperature(Some(temperature(text)?))),
            },
            "save" => file().map(Command::Save),
            "load" => file().map(Command::Load),
            "undo" => alone(Command::Undo),
            "again" => alone(Command::Again),
            "clear" => alone(Command::Clear),
            "exit" | "quit" => alone(Command::Exit),
            _ => bail!("/{name}: expected a command that /help lists, found none of this name"),
        }
    }

    /// Does it, as far as it concerns the conversation alone. What was asked for is printed to stderr: stdout has the answers.
    pub fn run(self, talk: &mut Conversation) -> Result<()> {
        match self {
            Command::Help => say(format_args!("{}", help().trim_end())),
            Command::System(None) => say(format_args!("system: {}", talk.system.as_deref().unwrap_or("none"))),
            Command::System(Some(text)) => talk.system = Some(text).filter(|text| text != "none"),
            Command::Temperature(None) => match talk.temperature {
                Some(value) => say(format_args!("temperature: {value}")),
                None => say(format_args!("temperature: the server's own")),
            },
            Command::Temperature(value) => talk.temperature = value,
            Command::Save(path) => file::save(&path, talk)?,
            Command::Load(path) => file::load(&path, talk)?,
            Command::Undo => drop(talk.undo("/undo")?),
            Command::Clear => talk.messages.clear(),
            Command::Again | Command::Exit => {}
        }
        Ok(())
    }
}

fn temperature(text: &str) -> Result<f32> {
    let value: Option<f32> = text.parse().ok().filter(|value: &f32| (0.0..=100.0).contains(value));
    value.ok_or_else(|| anyhow!("/temp: expected a number from 0 up, found {text:?}"))
}

fn help() -> String {
    let line = |(name, argument, meaning)| format!("{:24}{meaning}\n", format!("{name} {argument}"));
    let commands: String = COMMANDS.map(line).concat();
    commands
        + "A message may have several lines: end a line with \\, or put \"\"\" before the first and behind the last.\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_and_messages_are_told_apart() {
        let parse = |text: &str| Command::parse(text).map(|r| r.map_err(|e| e.to_string()));
        for text in ["Hi", "", "/", "/etc/passwd is what?", "//clear", "a /clear", "/2"] {
            assert_eq!(parse(text), None, "{text}");
        }
        for (text, command) in [
            (" /clear ", Command::Clear),
            ("/undo", Command::Undo),
            ("/again", Command::Again),
            ("/quit", Command::Exit),
            ("/system You are\nkind.", Command::System(Some("You are\nkind.".into()))),
            ("/system", Command::System(None)),
            ("/temp 0.5", Command::Temperature(Some(0.5))),
            ("/temp", Command::Temperature(None)),
            ("/save a b.json", Command::Save("a b.json".into())),
        ] {
            assert_eq!(parse(text), Some(Ok(command)), "{text}");
        }
        for (text, piece) in [
            ("/nothing", "/nothing: expected a command that /help lists"),
            ("/temp hot", "/temp: expected a number from 0 up, found \"hot\""),
            ("/temp -1", "found \"-1\""),
            ("/temp NaN", "found \"NaN\""),
            ("/save", "/save: expected a file"),
            ("/clear all", "found \"all\""),
        ] {
            let error = parse(text).unwrap().unwrap_err();
            assert!(error.contains(piece), "{error}");
        }
        assert!(COMMANDS.iter().all(|(name, ..)| help().contains(name)));
    }
}
