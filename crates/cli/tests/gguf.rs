//! A real model from a GGUF file against transformers. `PLANISH_TEST_MODEL` names the file.
mod program;

use program::{Program, data, joined, read_json};
use serde_json::{Value, json};
use std::path::PathBuf;

/// Below this distance of the two likeliest tokens either is right.
const NEAR_TIE: f64 = 1e-3;
const LOGPROB_TOLERANCE: f64 = 1e-3;

/// The file, or a line that says there is none.
fn model() -> Option<PathBuf> {
    let found = std::env::var_os("PLANISH_TEST_MODEL").map(PathBuf::from);
    if found.is_none() {
        println!("skipped: no model (set PLANISH_TEST_MODEL)");
    }
    found
}

#[test]
fn greedy_answers_and_log_probabilities_are_the_reference() {
    let Some(model) = model() else { return };
    let reference = read_json(&data("smollm2_reference.json"));
    let cases: Vec<&Value> = ["raw", "chat"].iter().flat_map(|k| reference[k].as_array().unwrap()).collect();
    let program = Program::new("generate --json --max-new-tokens 64 --ignore-eos --logprobs 20").arg(&model);
    let program = cases.iter().fold(program, |p, case| p.arg("--input-ids").arg(joined(&case["prompt_ids"])));
    let document = program.run().json();
    for (result, case) in document["results"].as_array().unwrap().iter().zip(&cases) {
        assert_same_until_near_tie(result, case);
    }
    let top = document["results"][0]["logprobs"][0]["top"].as_array().unwrap();
    assert_eq!(top.len(), 20);
    for (found, expected) in top.iter().zip(cases[0]["top20_first"].as_array().unwrap()) {
        assert_eq!(found["id"], expected[0]);
        let (a, b) = (found["logprob"].as_f64().unwrap(), expected[1].as_f64().unwrap());
        assert!((a - b).abs() < LOGPROB_TOLERANCE, "token {}: {a}, expected {b}", expected[0]);
    }
}

#[track_caller]
fn assert_same_until_near_tie(result: &Value, case: &Value) {
    let (found, expected) = (result["token_ids"].as_array().unwrap(), case["greedy_ids"].as_array().unwrap());
    assert_eq!(found.len(), expected.len());
    let differs = found.iter().zip(expected).position(|(a, b)| a != b);
    if let Some(at) = differs {
        let margin = case["margins"][at].as_f64().unwrap();
        assert!(margin < NEAR_TIE, "{}: token {at} differs at a margin of {margin}", case["prompt"]);
    }
}

#[test]
fn text_and_conversations_become_the_references_ids() {
    let Some(model) = model() else { return };
    let reference = read_json(&data("smollm2_reference.json"));
    for (kind, flags) in [("raw", ""), ("chat", "--chat")] {
        let cases = reference[kind].as_array().unwrap();
        let program = Program::new("generate --json --max-new-tokens 1").words(flags).arg(&model);
        let program = cases.iter().fold(program, |p, case| p.arg("-p").arg(case["prompt"].as_str().unwrap()));
        let document = program.run().json();
        for (result, case) in document["results"].as_array().unwrap().iter().zip(cases) {
            assert_eq!(result["prompt_token_ids"], case["prompt_ids"], "{}", case["prompt"]);
            assert_eq!(result["token_ids"][0], case["greedy_ids"][0]);
        }
    }
}

#[test]
fn inspect_describes_the_file() {
    let Some(model) = model() else { return };
    let document = program::inspect(&model).words("--json").run().json();
    assert_eq!(
        (&document["layers"], &document["hidden"], &document["vocab"]),
        (&json!(30), &json!(576), &json!(49152))
    );
    assert_eq!((&document["heads"], &document["kv_heads"]), (&json!(9), &json!(3)));
    assert_eq!(document["quantization_config"], Value::Null);
}
