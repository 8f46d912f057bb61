//! The machine that reads every format. Its state depends on the characters so far and on nothing else.

use super::call::{Call, Found};
use super::json::{Progress, is_space};
use super::{Delta, Format, push_arguments, push_content};

/// Reads a model's text piece by piece; see [`ToolReader::push`].
#[derive(Debug, Clone)]
pub struct ToolReader {
    format: &'static Format,
    tools: Vec<String>,
    seed: u64,
    /// Nothing counts after the first call.
    single: bool,
    /// Calls are told when they are complete.
    whole: bool,
    state: State,
    /// White space (and behind a call, what models leave there) that is content only if more content follows.
    space: String,
    /// What may be the beginning of a marker.
    mark: String,
    /// Since the marker or bracket that may have begun a call.
    raw: String,
    /// A call has ended and its closing marker has not come.
    unclosed: bool,
    /// Only leftovers of a call since its end.
    after_call: bool,
    line_start: bool,
    calls: usize,
    /// Of the present call, not told yet.
    found: Found,
}

#[derive(Debug, Clone)]
enum State {
    Text,
    /// Behind an opening marker.
    Open,
    /// A name without quotes.
    Name(String),
    Call {
        call: Box<Call>,
        listed: bool,
    },
    /// Behind a call of a list.
    Listed,
    /// The one call has ended.
    Over,
}

impl ToolReader {
    /// For one answer. `tools` are the names that may be called: what names no tool is no call. Ids are made from the
    /// `seed`, which should be random.
    pub fn new(format: &'static Format, tools: Vec<String>, seed: u64) -> ToolReader {
        ToolReader {
            format,
            tools,
            seed,
            single: false,
            whole: false,
            found: Found::default(),
            state: State::Text,
            space: String::new(),
            mark: String::new(),
            raw: String::new(),
            unclosed: false,
            after_call: false,
            line_start: true,
            calls: 0,
        }
    }

    /// Only one call is wanted (`parallel_tool_calls: false`): what comes behind it is dropped.
    pub fn single(mut self) -> ToolReader {
        self.single = true;
        self
    }

    /// The message is wanted as a whole, not streamed: each call is held back until it is complete, so that one which
    /// breaks off or turns out malformed is content too. Streamed, its arguments end where they were last certain.
    pub fn whole(mut self) -> ToolReader {
        self.whole = true;
        self
    }

    /// Calls so far.
    pub fn calls(&self) -> usize {
        self.calls
    }

    /// Whether nothing that may still come counts: generating can end.
    pub fn is_over(&self) -> bool {
        matches!(self.state, State::Over)
    }

    /// Takes more of the text; what became certain is added to `deltas`.
    pub fn push(&mut self, text: &str, deltas: &mut Vec<Delta>) {
        for c in text.chars() {
            self.take(c, deltas);
        }
    }

    /// The text ends here, perhaps in the middle of something.
    pub fn finish(&mut self, deltas: &mut Vec<Delta>) {
        let state = std::mem::replace(&mut self.state, State::Over);
        match state {
            State::Call { call, .. } if call.is_complete() || (call.is_certain() && !self.whole) => {
                self.found.arguments.push_str(call.rest());
                self.end_call(call.is_complete(), deltas);
            }
            State::Open | State::Name(_) | State::Call { .. } => self.give_back(deltas),
            State::Text if !self.after_call || !(self.mark.is_empty() || self.closes()) => {
                let text = std::mem::take(&mut self.space) + &std::mem::take(&mut self.mark);
                push_content(deltas, &text);
            }
            State::Text | State::Listed | State::Over => {}
        }
        self.state = State::Over;
    }

    fn take(&mut self, c: char, deltas: &mut Vec<Delta>) {
        match &mut self.state {
            State::Text => self.in_text(c, deltas),
            State::Open => self.opened(c, deltas),
            State::Name(_) => self.in_name(c, deltas),
            State::Call { .. } => self.in_call(c, deltas),
            State::Listed => self.listed(c, deltas),
            State::Over => {}
        }
    }

    /// Looks for markers; what is none is content.
    fn in_text(&mut self, c: char, deltas: &mut Vec<Delta>) {
        if self.mark.is_empty() && !self.begins_marker(c) {
            self.plain(c, deltas);
            return;
        }
        self.mark.push(c);
        while !self.mark.is_empty() {
            if self.unclosed && self.mark == self.format.close {
                self.unclosed = false;
                self.mark.clear();
                return;
            }
            if self.format.opens.contains(&self.mark.as_str()) {
                self.raw = std::mem::take(&mut self.space) + &std::mem::take(&mut self.mark);
                self.state = State::Open;
                return;
            }
            if self.may_be_marker() {
                return;
            }
            // No marker; but what comes behind its first character may still begin one.
            let first = self.mark.remove(0);
            if self.plain(first, deltas) {
                let rest = std::mem::take(&mut self.mark);
                return rest.chars().for_each(|c| self.take(c, deltas));
            }
        }
    }

    fn begins_marker(&self, c: char) -> bool {
        self.format.opens.iter().any(|open| open.starts_with(c)) || (self.unclosed && self.format.close.starts_with(c))
    }

    fn may_be_marker(&self) -> bool {
        let mark = self.mark.as_str();
        self.format.opens.iter().any(|open| open.starts_with(mark)) || self.closes()
    }

    fn closes(&self) -> bool {
        self.unclosed && self.format.close.starts_with(self.mark.as_str())
    }

    /// One character of ordinary text, which may still begin a call of its own; then true.
    fn plain(&mut self, c: char, deltas: &mut Vec<Delta>) -> bool {
        let was_after = self.after_call;
        self.space.push(c);
        if self.format.bare && c == '{' && (self.line_start || was_after) {
            self.raw = std::mem::take(&mut self.space);
            let mut call = Box::new(Call::object(true));
            call.push(c, &self.tools, &mut self.found);
            self.state = State::Call { call, listed: false };
            return true;
        }
        if c.is_whitespace() || (was_after && (c == '}' || Some(c) == self.format.separator)) {
            self.line_start |= c == '\n';
        } else {
            self.after_call = false;
            self.line_start = false;
            push_content(deltas, &self.space);
            self.space.clear();
        }
        false
    }

    /// Behind an opening marker.
    fn opened(&mut self, c: char, deltas: &mut Vec<Delta>) {
        let name_begins = self.format.named.is_some() && (c.is_alphanumeric() || c == '_');
        self.raw.push(c);
        match c {
            c if is_space(c) => {}
            '{' => {
                let listed = self.raw.trim_end_matches('{').trim_end().ends_with(['[', ',']);
                self.begin(listed);
            }
            '[' if self.format.list && !self.raw[..self.raw.len() - 1].trim_end().ends_with(['[', ',']) => {}
            c if name_begins => self.state = State::Name(c.to_string()),
            c => self.no_call(c, deltas),
        }
    }

    fn begin(&mut self, listed: bool) {
        let mut call = Box::new(Call::object(false));
        call.push('{', &self.tools, &mut self.found);
        self.state = State::Call { call, listed };
    }

    /// A name without quotes, up to the arguments.
    fn in_name(&mut self, c: char, deltas: &mut Vec<Delta>) {
        let State::Name(name) = &mut self.state else { return };
        let behind = self.format.named.unwrap_or_default();
        if c != '{' {
            // `name[CALL_ID]id[ARGS]` is longer than any name; so is nothing sensible.
            let fits = name.len() < 512 && (name.contains('[') || c.is_alphanumeric() || "_-.[".contains(c));
            self.raw.push(c);
            name.push(c);
            if !fits {
                self.no_call(c, deltas);
            }
            return;
        }
        let known = name.strip_suffix(behind).unwrap_or(name).split('[').next().unwrap_or_default().trim().to_owned();
        if !self.tools.contains(&known) {
            self.raw.push(c);
            return self.no_call(c, deltas);
        }
        let call = Box::new(Call::arguments_of(known));
        self.state = State::Call { call, listed: false };
        self.in_call(c, deltas);
    }

    fn in_call(&mut self, c: char, deltas: &mut Vec<Delta>) {
        let State::Call { call, listed } = &mut self.state else { return };
        let listed = *listed;
        self.raw.push(c);
        let progress = call.push(c, &self.tools, &mut self.found);
        let (certain, complete) = (call.is_certain(), call.is_complete());
        if certain && !self.whole {
            self.raw.clear();
        }
        match progress {
            Progress::More if certain && !self.whole => self.tell(deltas),
            Progress::More => {}
            Progress::Bad if !certain || (self.whole && !complete) => self.no_call(c, deltas),
            Progress::Done if listed => {
                self.state = State::Listed;
                self.end_call(true, deltas);
            }
            Progress::Done => self.end_call(true, deltas),
            Progress::Bad | Progress::DoneBefore => {
                self.found.arguments.push_str(call.rest());
                self.end_call(complete, deltas);
                self.take(c, deltas);
            }
        }
    }

    /// Behind a call of a list: a comma, or the end.
    fn listed(&mut self, c: char, deltas: &mut Vec<Delta>) {
        match c {
            c if is_space(c) => {}
            ',' => {
                self.raw = ",".to_owned();
                self.state = State::Open;
            }
            ']' => self.state = State::Text,
            c => {
                self.state = State::Text;
                self.take(c, deltas);
            }
        }
    }

    /// Tells what is known of the present call.
    fn tell(&mut self, deltas: &mut Vec<Delta>) {
        if let Some(name) = self.found.name.take() {
            let id = call_id(self.seed, self.calls, self.format.short_ids);
            deltas.push(Delta::Call { index: self.calls, id, name });
            self.calls += 1;
        }
        if let Some(index) = self.calls.checked_sub(1) {
            push_arguments(deltas, index, &self.found.arguments);
        }
        self.found.arguments.clear();
    }

    /// The present call is certain and ends.
    fn end_call(&mut self, complete: bool, deltas: &mut Vec<Delta>) {
        self.tell(deltas);
        deltas.push(Delta::CallEnd { index: self.calls.saturating_sub(1) });
        self.raw.clear();
        self.after_call = complete;
        self.unclosed = !self.format.close.is_empty();
        if self.single {
            self.state = State::Over;
        } else if !matches!(self.state, State::Listed) {
            self.state = State::Text;
        }
    }

    /// What looked like a call is none. Its last character may still begin another.
    fn no_call(&mut self, c: char, deltas: &mut Vec<Delta>) {
        self.raw.truncate(self.raw.len() - c.len_utf8());
        self.give_back(deltas);
        self.state = State::Text;
        self.in_text(c, deltas);
    }

    fn give_back(&mut self, deltas: &mut Vec<Delta>) {
        let raw = std::mem::take(&mut self.raw);
        self.found = Found::default();
        self.after_call = false;
        self.line_start = raw.rsplit('\n').next().is_some_and(|line| line.trim().is_empty());
        push_content(deltas, &raw);
    }
}

/// `call_` and 24 letters and digits, or nine of them alone.
fn call_id(seed: u64, index: usize, short: bool) -> String {
    const LETTERS: &[u8; 62] = b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
    let mut state = seed ^ (index as u64).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let mut letter = || {
        // SplitMix64
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        char::from(LETTERS[((z ^ (z >> 31)) % 62) as usize])
    };
    match short {
        true => (0..9).map(|_| letter()).collect(),
        false => "call_".chars().chain((0..24).map(|_| letter())).collect(),
    }
}
