//! It does not matter how an answer is cut.
use crate::answers::{Random, answer, meaning, read, reader};
use planish_serve::tools::{FORMATS, Format};
use serde_json::Value;

const ANSWERS: u64 = 200;

/// Answers of a format, some broken off at any byte.
fn outputs(format: &'static Format) -> impl Iterator<Item = Vec<u8>> {
    (0..ANSWERS).map(move |seed| {
        let mut random = Random(0x9e37_79b9 + seed * 77);
        let mut text = answer(format, &mut random).text.into_bytes();
        if seed % 4 == 3 {
            text.truncate(random.below(text.len() + 1));
        }
        text
    })
}

fn every_cut(format: &'static Format) {
    let (mut calls, mut contents) = (0, 0);
    for text in outputs(format) {
        for reader in [reader(format), reader(format).whole(), reader(format).single()] {
            let whole = read(reader.clone(), false, [&text[..]]);
            for cut in 0..text.len() {
                let (one, two) = text.split_at(cut);
                let halves = read(reader.clone(), false, [one, two]);
                assert_eq!(halves, whole, "{} cut at {cut}: {:?}", format.name, String::from_utf8_lossy(&text));
            }
            assert_eq!(read(reader.clone(), false, text.chunks(1)), whole);
            assert_eq!(read(reader, false, text.chunks(3)), whole);
            calls += whole.calls.len();
            contents += usize::from(!whole.content.is_empty());
        }
    }
    assert!(calls > 300 && contents > 200, "{calls} calls, {contents} contents: the answers should be of all kinds");
}

#[test]
fn hermes() {
    every_cut(Format::named("hermes").unwrap());
}

#[test]
fn llama3() {
    every_cut(Format::named("llama3").unwrap());
}

#[test]
fn mistral() {
    every_cut(Format::named("mistral").unwrap());
}

#[test]
fn internlm2() {
    every_cut(Format::named("internlm2").unwrap());
}

#[test]
fn reasoning_before_calls() {
    let text = "<think>\nI could <tool_call>{\"name\": \"a\"} …\n</think>\n\n<tool_call>\n{\"name\": \"a\", \"arguments\": \
                {\"é\": \"</think>\"}}\n</tool_call>";
    let format = Format::named("hermes").unwrap();
    let whole = read(reader(format), true, [text.as_bytes()]);
    assert_eq!(whole.reasoning, "I could <tool_call>{\"name\": \"a\"} …");
    assert_eq!((whole.content.as_str(), whole.calls.len()), ("", 1));
    for cut in 0..text.len() {
        let (one, two) = text.as_bytes().split_at(cut);
        assert_eq!(read(reader(format), true, [one, two]), whole, "{cut}");
    }
}

#[test]
fn answers_mean_what_was_meant() {
    let bare = |text: &str| text.split_whitespace().collect::<String>();
    for format in FORMATS {
        for seed in 0..ANSWERS {
            let made = answer(format, &mut Random(1 + seed * 1_000_003));
            let found = meaning(format, &made.text);
            let calls: Vec<(String, Value)> =
                found.calls.iter().map(|(name, text)| (name.clone(), serde_json::from_str(text).unwrap())).collect();
            assert_eq!(calls, made.calls, "{}: {:?}", format.name, made.text);
            assert_eq!(bare(&found.content), bare(&made.content), "{}: {:?}", format.name, made.text);
        }
    }
}

#[test]
fn invalid_bytes_are_replaced_once() {
    let format = Format::named("hermes").unwrap();
    let bytes = b"a\xff\xe6\x97b\xe6\x97\xa5\xf0\x9f\xa6";
    let whole = read(reader(format), false, [&bytes[..]]);
    assert_eq!(whole.content, String::from_utf8_lossy(bytes));
    for cut in 0..bytes.len() {
        assert_eq!(read(reader(format), false, [&bytes[..cut], &bytes[cut..]]), whole, "{cut}");
    }
}
