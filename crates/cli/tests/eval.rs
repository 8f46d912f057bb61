//! `planish eval` and `planish compare --tasks`: the real harness' results with the real model, its JSON and table, journals,
//! and what is wrong with tasks, files and flags.
mod program;

use program::{Program, quantize, scratch, tiny, with_words};
use serde_json::Value;
use std::path::{Path, PathBuf};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../eval/tests/data")
}

fn eval(model: &Path, tasks: &str) -> Program {
    Program::new("eval").arg(model).arg("--tasks").arg(tasks).arg("--data-dir").arg(data().join("tasks"))
}

fn golden(name: &str) -> Value {
    serde_json::from_slice(&std::fs::read(data().join("harness").join(name)).unwrap()).unwrap()
}

/// What the real harness has measured, with transformers in float32 on the same weights.
fn check(model: &Path, name: &str, flags: &str) {
    let golden = golden(name);
    let tasks: Vec<&str> = golden["items"].as_object().unwrap().keys().map(String::as_str).collect();
    let dir = scratch();
    let log = dir.path().join("samples.jsonl");
    let program = eval(model, &tasks.join(",")).words(flags).arg("--log-samples").arg(&log).words("--json");
    let found = program.run().json();
    for task in &tasks {
        for (key, expected) in golden["results"][task].as_object().unwrap() {
            let found = &found["results"][task][key];
            match (expected.as_f64(), found.as_f64()) {
                (Some(a), Some(b)) => assert!((a - b).abs() <= 2e-3 * a.abs().max(1e-9), "{task} {key}: {b}, not {a}"),
                _ => assert_eq!(found, expected, "{task} {key}"),
            }
        }
    }
    let lines = std::fs::read_to_string(&log).unwrap();
    let mut compared = 0;
    for line in lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()) {
        let item = &golden["items"][line["task"].as_str().unwrap()][line["doc_id"].as_u64().unwrap() as usize];
        compared += compare_item(&line, item);
    }
    assert!(compared >= tasks.len());
}

fn compare_item(line: &Value, item: &Value) -> usize {
    assert_eq!(line["texts"], item["texts"], "{line}");
    let answer = &line["answer"];
    if let Some(text) = item["text"].as_str() {
        assert_eq!(answer["text"], text);
        return 1;
    }
    let of = |value: &Value| value.as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>();
    let found = answer["total"].as_f64().map_or_else(|| of(&answer["ll"]), |total| vec![total]);
    let expected = of(&item["ll"]);
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() < 1e-2, "{found}, expected {expected}: {line}");
    }
    if answer["greedy"].is_array() {
        assert_eq!(answer["greedy"], item["greedy"], "{line}");
    }
    found.len()
}

#[test]
fn results_are_the_harness() {
    let Some(model) = std::env::var_os("PLANISH_TEST_MODEL").map(PathBuf::from) else {
        println!("skipped: no model (set PLANISH_TEST_MODEL)");
        return;
    };
    check(&model, "zero_shot.json", "--limit 6");
    check(&model, "wikitext.json", "--max-model-len 128");
    check(&model, "mmlu_shots.json", "--limit 4 --num-fewshot 3");
    check(&model, "mmlu_chat.json", "--limit 3 --num-fewshot 1 --apply-chat-template");
    check(&model, "gsm8k.json", "--limit 2 --num-fewshot 2");
}
