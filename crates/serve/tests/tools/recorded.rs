//! What a real model wrote when it was offered tools, cut at every byte: see `tests/data/README.md`.
use crate::answers::{Meaning, read};
use planish_serve::tools::{Format, ToolReader};
use serde::Deserialize;
use std::collections::HashSet;

/// The tools that were on offer; outputs name others too.
const OFFERED: [&str; 4] = ["get_weather", "search-web", "sum.up", "send_mail"];

#[derive(Deserialize)]
struct Output {
    how: String,
    text: String,
}

fn outputs(lines: &str) -> Vec<Output> {
    let outputs: Vec<Output> = lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let different: HashSet<&str> = outputs.iter().map(|output| output.text.as_str()).collect();
    assert_eq!(different.len(), 200, "outputs that differ");
    outputs
}

fn reader(format: &'static Format) -> ToolReader {
    ToolReader::new(format, OFFERED.map(str::to_owned).to_vec(), 7)
}

/// How many outputs were of which kind, so that an empty fixture, or a reader that sees no calls, is seen.
#[derive(Debug, Default, PartialEq)]
struct Kinds {
    /// With one call or several.
    calls: usize,
    several: usize,
    /// Without any, although a call was begun in the format.
    malformed: usize,
    /// Without any and with nothing like one.
    plain: usize,
    /// Calls whose arguments are no JSON: streamed before they went wrong or broke off.
    open: usize,
}

fn every_cut(name: &str, lines: &str) -> Kinds {
    let format = Format::named(name).unwrap();
    let mut kinds = Kinds::default();
    for Output { how, text } in outputs(lines) {
        for reader in [reader(format), reader(format).whole(), reader(format).single()] {
            let bytes = text.as_bytes();
            let whole = read(reader.clone(), false, [bytes]);
            for cut in 1..bytes.len() {
                let (one, two) = bytes.split_at(cut);
                assert_eq!(read(reader.clone(), false, [one, two]), whole, "{name}, {how}, cut at {cut}: {text:?}");
            }
            for size in [1, 3, 7] {
                assert_eq!(
                    read(reader.clone(), false, bytes.chunks(size)),
                    whole,
                    "{name}, {how}, by {size}: {text:?}"
                );
            }
        }
        kinds.count(format, &text, &read(reader(format), false, [text.as_bytes()]));
        check_whole(&how, &text, &read(reader(format).whole(), false, [text.as_bytes()]));
    }
    kinds
}

impl Kinds {
    fn count(&mut self, format: &Format, text: &str, found: &Meaning) {
        let opens: &[&str] = match format.name {
            "hermes" => &["<tool_call>"],
            "llama3" => &["{\"name\"", "<|python_tag|>"],
            "mistral" => &["[TOOL_CALLS]"],
            _ => &["<|plugin|>"],
        };
        let begun = opens.iter().any(|open| text.contains(open));
        match found.calls.len() {
            0 if begun => self.malformed += 1,
            0 => self.plain += 1,
            n => {
                self.calls += 1;
                self.several += usize::from(n > 1);
            }
        }
        let is_json = |text: &String| serde_json::from_str::<serde_json::Value>(text).is_ok();
        self.open += found.calls.iter().filter(|(_, arguments)| !is_json(arguments)).count();
    }
}

/// A message that is not streamed has calls with arguments that are JSON, or none; and nothing that was written is lost.
fn check_whole(how: &str, text: &str, found: &Meaning) {
    for (name, arguments) in &found.calls {
        assert!(OFFERED.contains(&name.as_str()), "{how}: {text:?}");
        let arguments: serde_json::Value = serde_json::from_str(arguments).unwrap_or_else(|e| panic!("{e}: {text:?}"));
        assert!(arguments.is_object(), "{how}: {text:?}");
    }
    if found.calls.is_empty() {
        assert_eq!(found.content, text, "{how}");
    }
}

#[test]
fn hermes() {
    let kinds = every_cut("hermes", include_str!("../data/outputs/hermes.jsonl"));
    assert_eq!(kinds, Kinds { calls: 99, several: 12, malformed: 70, plain: 31, open: 14 });
}

#[test]
fn llama3() {
    let kinds = every_cut("llama3", include_str!("../data/outputs/llama3.jsonl"));
    assert_eq!(kinds, Kinds { calls: 105, several: 26, malformed: 71, plain: 24, open: 16 });
}

#[test]
fn mistral() {
    let kinds = every_cut("mistral", include_str!("../data/outputs/mistral.jsonl"));
    assert_eq!(kinds, Kinds { calls: 113, several: 5, malformed: 48, plain: 39, open: 14 });
}

#[test]
fn internlm2() {
    let kinds = every_cut("internlm2", include_str!("../data/outputs/internlm2.jsonl"));
    assert_eq!(kinds, Kinds { calls: 83, several: 6, malformed: 74, plain: 43, open: 7 });
}
