//! Messages from a terminal, with history and editing, or line by line from a pipe.
use anyhow::Result;
use rustyline::error::ReadlineError;
use rustyline::{Behavior, Config, DefaultEditor};
use std::io::{BufRead, IsTerminal};

/// Begins and ends a message of several lines.
const BLOCK: &str = "\"\"\"";

/// Where messages come from.
pub enum Input {
    /// Somebody types.
    Terminal(Box<DefaultEditor>),
    /// A file or another program.
    Pipe,
}

impl Input {
    /// The standard input.
    pub fn open(interactive: bool) -> Result<Input> {
        if !interactive {
            return Ok(Input::Pipe);
        }
        // What is typed is shown on the terminal, wherever the answers go.
        let elsewhere = !std::io::stdout().is_terminal();
        let behavior = if elsewhere { Behavior::PreferTerm } else { Behavior::Stdio };
        Ok(Input::Terminal(Box::new(DefaultEditor::with_config(Config::builder().behavior(behavior).build())?)))
    }

    /// The next message; none at the end of the input, or after Ctrl-C.
    pub fn read(&mut self) -> Result<Option<String>> {
        let Some(first) = self.line("> ")? else { return Ok(None) };
        let text = match first.trim_start().strip_prefix(BLOCK) {
            Some(rest) => self.block(rest.to_owned())?,
            None => self.continued(first)?,
        };
        if let Input::Terminal(editor) = self
            && !text.trim().is_empty()
        {
            editor.add_history_entry(text.as_str())?;
        }
        Ok(Some(text))
    }

    /// Lines up to one that ends the block, or to the end of the input.
    fn block(&mut self, mut text: String) -> Result<String> {
        loop {
            if let Some(whole) = text.trim_end().strip_suffix(BLOCK) {
                return Ok(whole.trim_matches('\n').to_owned());
            }
            let Some(next) = self.line(". ")? else { return Ok(text) };
            text = text + "\n" + &next;
        }
    }

    /// A backslash at the end of a line continues it.
    fn continued(&mut self, mut text: String) -> Result<String> {
        while let Some(rest) = text.strip_suffix('\\') {
            let Some(next) = self.line(". ")? else { return Ok(rest.to_owned()) };
            text = format!("{rest}\n{next}");
        }
        Ok(text)
    }

    fn line(&mut self, prompt: &str) -> Result<Option<String>> {
        match self {
            Input::Terminal(editor) => match editor.readline(prompt) {
                Ok(line) => Ok(Some(line)),
                Err(ReadlineError::Eof | ReadlineError::Interrupted) => Ok(None),
                Err(error) => Err(error.into()),
            },
            Input::Pipe => {
                let mut line = Vec::new();
                if std::io::stdin().lock().read_until(b'\n', &mut line)? == 0 {
                    return Ok(None);
                }
                let line = String::from_utf8_lossy(&line);
                Ok(Some(line.trim_end_matches(['\n', '\r']).to_owned()))
            }
        }
    }
}
