//! Markdown as it streams: styles of a terminal in place of the marks, without waiting for more than a few characters.

const RESET: &str = "\x1b[0m";

/// Renders one answer after another.
#[derive(Default)]
pub struct Renderer {
    /// Characters that may be a mark.
    held: String,
    /// Behind the first character of a line that is no mark of a line.
    inside: bool,
    fence: bool,
    heading: bool,
    bold: bool,
    italic: bool,
    code: bool,
    escaped: bool,
    /// A style is set on the terminal.
    styled: bool,
    out: String,
}

impl Renderer {
    /// Takes more of the text; returns what can be shown.
    pub fn push(&mut self, text: &str) -> String {
        text.chars().for_each(|c| self.take(c));
        std::mem::take(&mut self.out)
    }

    /// The text ends; returns the rest, with all styles off.
    pub fn finish(&mut self) -> String {
        if !self.inside {
            self.line_mark(None);
        }
        self.marks();
        let mut rest = std::mem::take(&mut self.out);
        if self.styled {
            rest += RESET;
        }
        *self = Renderer::default();
        rest
    }

    fn take(&mut self, c: char) {
        if !self.inside {
            return self.at_start(c);
        }
        if c == '\n' {
            self.marks();
            return self.end_line();
        }
        if self.fence {
            return self.out.push(c);
        }
        if std::mem::take(&mut self.escaped) {
            if !c.is_ascii_punctuation() {
                self.out.push('\\');
            }
            return self.out.push(c);
        }
        let same = self.held.ends_with(c);
        match c {
            '*' | '`' if self.held.is_empty() || same => self.held.push(c),
            '*' | '`' => {
                self.toggle(Some(c));
                self.held.push(c);
            }
            _ => {
                self.toggle(Some(c));
                match c {
                    '\\' if !self.code => self.escaped = true,
                    c => self.out.push(c),
                }
            }
        }
    }

    /// The first characters of a line decide what it is.
    fn at_start(&mut self, c: char) {
        let mark = self.held.trim_start();
        let goes_on = match mark.chars().next() {
            None => matches!(c, ' ' | '\t' | '`') || (!self.fence && matches!(c, '#' | '-' | '*' | '+' | '>')),
            Some('`') => c == '`',
            Some('#') => c == '#' && mark.len() < 6,
            _ => false,
        };
        if goes_on {
            return self.held.push(c);
        }
        self.line_mark(Some(c));
    }

    /// `next` follows what was held at the start of a line.
    fn line_mark(&mut self, next: Option<char>) {
        self.inside = true;
        let held = std::mem::take(&mut self.held);
        let mark = held.trim_start();
        let indent = held[..held.len() - mark.len()].to_owned();
        let space = next == Some(' ');
        match mark.chars().next() {
            Some('`') if mark.len() >= 3 => {
                self.fence = !self.fence;
                self.style();
                self.out += &held;
            }
            _ if self.fence => self.out += &held,
            Some('#') if space => {
                self.heading = true;
                self.style();
                return;
            }
            Some('-' | '*' | '+') if space => self.out += &format!("{indent}•"),
            Some('>') => self.out += &format!("{indent}│"),
            Some('*' | '`') => {
                self.out += &indent;
                mark.chars().for_each(|c| self.take(c));
            }
            _ => self.out += &held,
        }
        if let Some(c) = next {
            self.take(c);
        }
    }

    fn end_line(&mut self) {
        let was_styled = self.heading || self.bold || self.italic || self.code;
        (self.heading, self.bold, self.italic, self.code, self.escaped) = (false, false, false, false, false);
        if was_styled {
            self.style();
        }
        self.out.push('\n');
        self.inside = false;
    }

    /// The end of a line or text: marks and a backslash stand for themselves or close what is open.
    fn marks(&mut self) {
        self.toggle(None);
        if std::mem::take(&mut self.escaped) {
            self.out.push('\\');
        }
    }

    /// What was held is a mark, or stands for itself before `next`.
    fn toggle(&mut self, next: Option<char>) {
        let held = std::mem::take(&mut self.held);
        let opens = next.is_some_and(|c| !c.is_whitespace());
        match held.as_str() {
            "" => return,
            "`" if self.code || opens => self.code = !self.code,
            _ if self.code => return self.out.push_str(&held),
            "**" if self.bold || opens => self.bold = !self.bold,
            "*" if self.italic || opens => self.italic = !self.italic,
            "***" if (self.bold && self.italic) || opens => (self.bold, self.italic) = (!self.bold, !self.italic),
            _ => return self.out.push_str(&held),
        }
        self.style();
    }

    /// Sets the terminal to the present styles.
    fn style(&mut self) {
        self.out += RESET;
        for (on, style) in
            [(self.bold || self.heading, "\x1b[1m"), (self.italic, "\x1b[3m"), (self.code || self.fence, "\x1b[36m")]
        {
            self.out += if on { style } else { "" };
        }
        self.styled = self.bold || self.heading || self.italic || self.code || self.fence;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Rendered, the same for every way to cut it; styles are written as `<1>`, `<3>`, `<36>` and `<0>`.
    fn render(text: &str) -> String {
        let cut = |at: usize| {
            let mut renderer = Renderer::default();
            renderer.push(&text[..at]) + &renderer.push(&text[at..]) + &renderer.finish()
        };
        let whole = cut(0);
        text.char_indices().for_each(|(at, _)| assert_eq!(cut(at), whole, "{text:?} cut at {at}"));
        whole.replace("\x1b[", "<").replace("1m", "1>").replace("3m", "3>").replace("36m", "36>").replace("0m", "0>")
    }

    #[test]
    fn marks_become_styles() {
        for (text, shown) in [
            ("plain 2 * 3 ** 4 and a_b_c\n", "plain 2 * 3 ** 4 and a_b_c\n"),
            ("a **b** *c* `d*e` f", "a <0><1>b<0> <0><3>c<0> <0><36>d*e<0> f"),
            ("# Title\ntext", "<0><1>Title<0>\ntext"),
            ("#hash and \\*star\\* \\n", "#hash and *star* \\n"),
            ("- one\n  * two\n+ **three**", "• one\n  • two\n• <0><1>three<0>"),
            ("> said", "│ said"),
            ("**bold\nnext", "<0><1>bold<0>\nnext"),
            ("`open", "<0><36>open<0>"),
            ("é日🦀 **ü**", "é日🦀 <0><1>ü<0>"),
            ("---\n", "---\n"),
            ("***both***", "<0><1><3>both<0>"),
            ("", ""),
            ("*", "*"),
        ] {
            assert_eq!(render(text), shown, "{text:?}");
        }
        assert_eq!(
            render("```rust\nlet a = *b; // # no\n  - x\n```\n**y**"),
            "<0><36>```rust\nlet a = *b; // # no\n  - x\n<0>```\n<0><1>y<0>"
        );
    }
}
