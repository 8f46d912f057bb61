//! One call as JSON: `{"name": …, "arguments": {…}}`, read character by character.
//!
//! A call is certain when its name is one of the offered tools and its arguments have begun; from then on they are let
//! out as they come. Until then everything may still turn out to be ordinary text.

use super::json::{Progress, Value, is_space};

/// What was found in a stretch of characters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Found {
    /// The call became certain; its name.
    pub name: Option<String>,
    /// The next part of its arguments.
    pub arguments: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    Open,
    Key { or_end: bool },
    InKey,
    Colon,
    Value,
    After,
}

/// The members that matter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Member {
    Name,
    Arguments,
    Other,
}

/// The reader of one call.
#[derive(Debug, Clone)]
pub struct Call {
    place: Place,
    member: Member,
    value: Value,
    /// Of the key or value that is being read, unless it is let out at once.
    text: String,
    /// The value has not begun: nothing but white space so far.
    blank: bool,
    name: Option<String>,
    /// Arguments that came before the name, or as a text.
    arguments: Option<String>,
    /// Only known members may occur.
    strict: bool,
    /// The whole text is the arguments; there is no object around them.
    bare: bool,
    announced: bool,
    streams: bool,
    complete: bool,
}

impl Call {
    /// An object with a name and arguments. If `strict`, an unknown member means that it is no call.
    pub fn object(strict: bool) -> Call {
        Call {
            place: Place::Open,
            member: Member::Other,
            value: Value::new(),
            text: String::new(),
            blank: true,
            name: None,
            arguments: None,
            strict,
            bare: false,
            announced: false,
            streams: false,
            complete: false,
        }
    }

    /// The arguments alone of a tool whose name came before.
    pub fn arguments_of(name: String) -> Call {
        let known = Call { name: Some(name), member: Member::Arguments, bare: true, ..Call::object(true) };
        Call { place: Place::Value, ..known }
    }

    /// Whether it is certain that this is a call.
    pub fn is_certain(&self) -> bool {
        self.announced
    }

    /// Whether nothing is missing but perhaps the end of the object around it.
    pub fn is_complete(&self) -> bool {
        self.complete
    }

    /// Takes a character. `Bad` and `DoneBefore` mean that it was not taken.
    pub fn push(&mut self, c: char, tools: &[String], found: &mut Found) -> Progress {
        match self.place {
            Place::InKey => self.in_key(c),
            Place::Value => self.in_value(c, tools, found),
            _ if is_space(c) => Progress::More,
            Place::Open if c == '{' => self.go(Place::Key { or_end: true }),
            Place::Key { .. } if c == '"' => self.go(Place::InKey),
            Place::Key { or_end: true } | Place::After if c == '}' => self.end(tools, found),
            Place::Colon if c == ':' => {
                self.value = Value::new();
                self.blank = true;
                self.go(Place::Value)
            }
            Place::After if c == ',' => self.go(Place::Key { or_end: false }),
            _ => Progress::Bad,
        }
    }

    /// The text breaks off: what was not let out of certain arguments.
    pub fn rest(&self) -> &str {
        if self.streams { self.value.held() } else { "" }
    }

    fn go(&mut self, place: Place) -> Progress {
        self.place = place;
        Progress::More
    }

    /// Keys that matter have no escapes.
    fn in_key(&mut self, c: char) -> Progress {
        if c != '"' {
            self.text.push(c);
            return if c == '\\' || (c as u32) < 0x20 { Progress::Bad } else { Progress::More };
        }
        self.member = match (std::mem::take(&mut self.text).as_str(), &self.name, self.arguments.is_some()) {
            ("name", None, _) => Member::Name,
            ("arguments" | "parameters", _, false) if !self.complete => Member::Arguments,
            ("type" | "id", ..) => Member::Other,
            _ if self.strict => return Progress::Bad,
            _ => Member::Other,
        };
        self.go(Place::Colon)
    }

    fn in_value(&mut self, c: char, tools: &[String], found: &mut Found) -> Progress {
        let begins = self.blank && self.member == Member::Arguments;
        self.blank &= is_space(c);
        if begins && c == '{' && self.name.is_some() {
            self.text.clear();
            self.streams = true;
            self.announce(found);
        }
        let before = self.text.len();
        let progress = self.value.push(c, &mut self.text);
        if self.streams && self.text.len() > before {
            found.arguments.push_str(&self.text);
            self.text.clear();
        }
        match progress {
            Progress::More | Progress::Bad => progress,
            Progress::Done | Progress::DoneBefore => self.value_ended(c, progress, tools, found),
        }
    }

    fn value_ended(&mut self, c: char, progress: Progress, tools: &[String], found: &mut Found) -> Progress {
        let text = std::mem::take(&mut self.text);
        match self.member {
            Member::Name => match serde_json::from_str::<String>(&text) {
                Ok(name) if tools.contains(&name) => self.name = Some(name),
                _ => return Progress::Bad,
            },
            Member::Arguments if self.streams => {
                self.streams = false;
                self.complete = true;
            }
            Member::Arguments => match as_object(&text) {
                Some(object) => self.arguments = Some(object),
                None => return Progress::Bad,
            },
            Member::Other => {}
        }
        self.let_out(found);
        self.place = Place::After;
        match (self.bare, progress) {
            (true, done) => done,
            (false, Progress::DoneBefore) => self.push(c, tools, found),
            (false, _) => Progress::More,
        }
    }

    /// Lets out arguments that were held back, once the name is known.
    fn let_out(&mut self, found: &mut Found) {
        if self.name.is_some()
            && let Some(arguments) = self.arguments.take()
        {
            self.announce(found);
            found.arguments.push_str(&arguments);
            self.complete = true;
        }
    }

    /// The object ends. A call without arguments is one, unless that is a guess.
    fn end(&mut self, tools: &[String], found: &mut Found) -> Progress {
        if !self.announced && !self.strict && self.name.as_ref().is_some_and(|name| tools.contains(name)) {
            self.arguments = Some("{}".to_owned());
            self.let_out(found);
        }
        if self.announced { Progress::Done } else { Progress::Bad }
    }

    fn announce(&mut self, found: &mut Found) {
        if !self.announced {
            self.announced = true;
            found.name = self.name.clone();
        }
    }
}

/// Arguments that are an object, the text of one, or nothing.
fn as_object(text: &str) -> Option<String> {
    match serde_json::from_str::<serde_json::Value>(text).ok()? {
        serde_json::Value::Object(_) => Some(text.trim().to_owned()),
        serde_json::Value::Null => Some("{}".to_owned()),
        serde_json::Value::String(inner) => {
            let object = serde_json::from_str::<serde_json::Value>(&inner).ok()?.is_object();
            object.then(|| inner.trim().to_owned())
        }
        _ => None,
    }
}
