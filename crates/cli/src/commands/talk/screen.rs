//! Where answers appear. What a model writes is not trusted: on a terminal it cannot move the cursor, set the
//! clipboard or hide text.
use super::markdown::Renderer;
use super::{Markdown, Part};
use crate::commands::print;
use anyhow::Result;
use std::io::IsTerminal;

const DIM: &str = "\x1b[2m";
const RESET: &str = "\x1b[0m";

/// The standard output.
pub struct Screen {
    /// Nothing is shown: a document tells all in the end.
    hidden: bool,
    terminal: bool,
    markdown: bool,
    renderer: Renderer,
    /// The last part was a thought.
    thinking: bool,
    /// Something was shown of this answer.
    begun: bool,
}

impl Screen {
    /// Nothing shown yet.
    pub fn new(markdown: Markdown, hidden: bool) -> Screen {
        let terminal = std::io::stdout().is_terminal();
        let plain = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let markdown = match markdown {
            Markdown::Auto => terminal && !plain,
            Markdown::Always => true,
            Markdown::Never => false,
        };
        Screen { hidden, terminal, markdown, renderer: Renderer::default(), thinking: false, begun: false }
    }

    /// Shows a part of an answer. Into a pipe go answers, not thoughts.
    pub fn show(&mut self, part: Part<'_>) -> Result<()> {
        if self.hidden {
            return Ok(());
        }
        let text = match part {
            Part::Text(text) if self.thinking => {
                self.thinking = false;
                let text = self.rendered(text);
                if self.markdown { format!("{RESET}\n\n{text}") } else { format!("\n\n{text}") }
            }
            Part::Text(text) => self.rendered(text),
            Part::Thought(_) if !self.terminal && !self.markdown => return Ok(()),
            Part::Thought(text) => {
                let start = if self.markdown && !self.thinking { DIM } else { "" };
                self.thinking = true;
                format!("{start}{}", safe(text))
            }
        };
        self.begun |= !text.is_empty();
        print(&text)
    }

    /// Ends an answer; the line ends too.
    pub fn end(&mut self) -> Result<()> {
        let rest = self.renderer.finish();
        let reset = if std::mem::take(&mut self.thinking) && self.markdown { RESET } else { "" };
        match std::mem::take(&mut self.begun) || !rest.is_empty() {
            true => print(&format!("{rest}{reset}\n")),
            false => Ok(()),
        }
    }

    fn rendered(&mut self, text: &str) -> String {
        match (self.markdown, self.terminal) {
            (true, _) => self.renderer.push(&safe(text)),
            (false, true) => safe(text),
            (false, false) => text.to_owned(),
        }
    }
}

/// Without control characters, and without those that change the direction of text.
fn safe(text: &str) -> String {
    let directs = |c: char| matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().filter(|&c| matches!(c, '\n' | '\t') || !(c.is_control() || directs(c))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_reaches_the_terminal() {
        assert_eq!(safe("a\x1b]52;c;eA==\x07b\u{9b}31m\tc\r\nd\u{202e}"), "a]52;c;eA==b31m\tc\nd");
    }
}
