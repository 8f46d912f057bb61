//! Tool calls in a model's text: which format a model writes, and a state machine that reads it piece by piece.
//!
//! A format is a declaration ([`Format`], one file each); one machine reads them all, character by character, so that
//! it does not matter how the text was cut. What is no call after all is given back as content, unchanged.

mod call;
mod choice;
mod grammar;
mod hermes;
mod internlm2;
mod json;
mod llama3;
mod machine;
mod mistral;
mod template;

pub use choice::{Tool, ToolChoice, ToolError};
pub use grammar::call_grammar;
pub use machine::ToolReader;
pub use template::{for_template, shows_tools, spell_out};

/// How a family of models writes tool calls.
#[derive(Debug, PartialEq, Eq)]
pub struct Format {
    /// As in `--tool-call-parser`.
    pub name: &'static str,
    /// Texts that begin a call, or a list of calls; many are special tokens.
    opens: &'static [&'static str],
    /// The text that ends a call; empty if there is none.
    close: &'static str,
    /// A call may begin without any of `opens`, at the start of a line.
    bare: bool,
    /// `opens` may be followed by a JSON list of calls.
    list: bool,
    /// `opens` may be followed by a name, this text and the arguments.
    named: Option<&'static str>,
    /// Stands between calls that have no `opens` of their own.
    separator: Option<char>,
    /// What the arguments are called.
    arguments: &'static str,
    /// Parts of the chat template or vocabulary of models that use it.
    signs: &'static [&'static str],
    /// `model_type`s (of `config.json`) that use it when their template does not say.
    families: &'static [&'static str],
    /// Ids of calls are nine letters and digits.
    short_ids: bool,
    /// A chat template with tools, for models whose own has none.
    template: Option<&'static str>,
}

/// Every format, in the order in which templates are searched for their signs.
pub const FORMATS: [&Format; 4] = [&hermes::FORMAT, &mistral::FORMAT, &internlm2::FORMAT, &llama3::FORMAT];

impl Format {
    /// The format of that name.
    pub fn named(name: &str) -> Option<&'static Format> {
        FORMATS.into_iter().find(|format| format.name == name)
    }

    /// The format of a model: what its chat template shows, else what its family uses, else the most common one.
    pub fn of_model(template: &str, model_type: &str) -> &'static Format {
        let shown = |format: &&Format| format.signs.iter().any(|sign| template.contains(sign));
        let family = |format: &&Format| format.families.contains(&model_type);
        let mut formats = FORMATS.into_iter();
        formats.clone().find(shown).or_else(|| formats.find(family)).unwrap_or(&hermes::FORMAT)
    }

    /// A chat template that shows tools, where models of this format come with one that does not (see [`shows_tools`]).
    /// Where neither does, [`spell_out`] puts them into the messages.
    pub fn own_template(&self) -> Option<&'static str> {
        self.template
    }

    /// Texts that the reader must see, also where the model writes them as special tokens that are otherwise left out.
    pub fn markers(&self) -> impl Iterator<Item = &'static str> {
        let close = (!self.close.is_empty()).then_some(self.close);
        self.opens.iter().flat_map(|open| pieces(open)).chain(close.into_iter().flat_map(pieces)).chain(self.named)
    }
}

/// The special tokens that a marker consists of: `<|a|><|b|>` is two.
fn pieces(marker: &'static str) -> impl Iterator<Item = &'static str> {
    marker.split_inclusive("|>").filter(|piece| !piece.trim().is_empty()).map(str::trim)
}

/// A part of what a model says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delta {
    /// More of the answer's text.
    Content(String),
    /// More of what the model thought before it answered.
    Reasoning(String),
    /// A tool call began.
    Call {
        /// Counted from 0.
        index: usize,
        /// Unlike all others of the conversation.
        id: String,
        /// One of the offered tools.
        name: String,
    },
    /// More of a call's arguments: together, a JSON object, unless the model's text broke off.
    Arguments {
        /// Of which call.
        index: usize,
        /// The next part.
        text: String,
    },
    /// A tool call ended; its arguments are all there.
    CallEnd {
        /// Which.
        index: usize,
    },
}

/// Adds content, joining it with what was there last.
pub(crate) fn push_content(deltas: &mut Vec<Delta>, text: &str) {
    match deltas.last_mut() {
        _ if text.is_empty() => {}
        Some(Delta::Content(old)) => old.push_str(text),
        _ => deltas.push(Delta::Content(text.to_owned())),
    }
}

/// The same for a call's arguments.
fn push_arguments(deltas: &mut Vec<Delta>, index: usize, new: &str) {
    match deltas.last_mut() {
        _ if new.is_empty() => {}
        Some(Delta::Arguments { index: same, text }) if *same == index => text.push_str(new),
        _ => deltas.push(Delta::Arguments { index, text: new.to_owned() }),
    }
}
