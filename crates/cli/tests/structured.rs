//! Structured output through the program: what comes out is what was asked for, whatever the model would say.
mod program;

use program::{Output, Program, golden, scratch, with_words};
use serde_json::Value;

/// Two sampled answers of the tiny Llama, which knows no language, under these flags.
fn answers(flags: &[&str]) -> Output {
    let dir = scratch();
    let model = with_words(&golden("llama"), &dir.path().join("model"));
    let program = Program::new("generate --json --max-new-tokens 400 --temperature 1 --n 2 -p Name:").arg(&model);
    flags.iter().fold(program, |p, flag| p.arg(flag)).run()
}

#[track_caller]
fn texts(flags: &[&str]) -> Vec<String> {
    let document = answers(flags).json();
    let results = document["results"].as_array().unwrap();
    assert_eq!(results.len(), 2);
    for result in results {
        assert_eq!(result["finish_reason"], "stop", "{result}");
    }
    results.iter().map(|r| r["text"].as_str().unwrap().to_owned()).collect()
}

const SCHEMA: &str = r#"{"type": "object", "required": ["age", "tags"], "additionalProperties": false, "properties":
    {"age": {"type": "integer", "minimum": 0, "maximum": 150}, "tags": {"type": "array", "maxItems": 2, "items":
    {"enum": ["red", "blue"]}}}}"#;

#[test]
fn json_of_a_schema() {
    let dir = scratch();
    let file = dir.path().join("schema.json");
    std::fs::write(&file, SCHEMA).unwrap();
    let from_file = texts(&["--json-schema", file.to_str().unwrap()]);
    for text in &from_file {
        let value: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
        assert_eq!(value.as_object().unwrap().len(), 2, "{text}");
        assert!((0..=150).contains(&value["age"].as_i64().unwrap()), "{text}");
        assert!(value["tags"].as_array().unwrap().iter().all(|t| t == "red" || t == "blue"), "{text}");
    }
    assert_eq!(texts(&["--json-schema", SCHEMA, "--ignore-eos"]), from_file, "a grammar ends where it ends");
}

#[test]
fn texts_of_an_expression_and_a_grammar() {
    for text in texts(&["--regex", "[a-c]{3}-[0-9]{2}"]) {
        let bytes = text.as_bytes();
        assert!(bytes.len() == 6 && bytes[3] == b'-', "{text:?}");
        assert!(bytes[..3].iter().all(|b| (b'a'..=b'c').contains(b)) && bytes[4..].iter().all(u8::is_ascii_digit));
    }
    let dir = scratch();
    let file = dir.path().join("rules.lark");
    std::fs::write(&file, "start: word (\",\" word)? \nword: \"ping\" | \"pong\"\n").unwrap();
    for text in texts(&["--grammar", file.to_str().unwrap()]) {
        let words: Vec<&str> = text.split(',').collect();
        assert!(words.len() <= 2 && words.iter().all(|w| ["ping", "pong"].contains(w)), "{text:?}");
    }
}

#[test]
fn any_json_object() {
    // A model without language seldom closes an object by itself: a bias towards the brace does.
    for text in texts(&["--json-object", "--logit-bias", "125=100"]) {
        assert!(serde_json::from_str::<Value>(&text).is_ok_and(|v| v.is_object()), "{text:?}");
    }
}

#[test]
fn what_cannot_be_followed_is_named() {
    answers(&["--regex", "(a"]).fails(&["regular expression"]);
    answers(&["--json-schema", "{\"type\": \"nothing\"}"]).fails(&["JSON schema"]);
    answers(&["--json-schema", "{\"type\": "]).fails(&["--json-schema", "not JSON"]);
    answers(&["--json-schema", "nowhere.json"]).fails(&["--json-schema", "nowhere.json"]);
    answers(&["--grammar", "nowhere.lark"]).fails(&["--grammar", "nowhere.lark"]);
    let program = Program::new("generate --input-ids 35 --json-object").arg(golden("llama"));
    program.run().fails(&["tokenizer.json"]);
}
