//! Prompts of the real harness: the digests of what it gave to its model, for every task and style, must be those of ours.
use planish_eval::tasks::data::{Docs, Source};
use planish_eval::tasks::prompt::{self, Question, Style};
use planish_eval::tasks::results::{Results, TaskResult};
use planish_eval::tasks::run::{Answer, digest};
use planish_eval::tasks::{Doc, Task, list, select};
use planish_text::ChatTemplate;
use serde_json::Value;
use std::path::{Path, PathBuf};

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data")
}

fn golden(name: &str) -> Value {
    let path = data().join("harness").join(name);
    serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn task(name: &str) -> Task {
    list::tasks().into_iter().find(|t| t.name == name).unwrap()
}

fn docs(task: &Task, split: &str) -> Docs {
    Source::Folder(&data().join("tasks")).docs(task, split).unwrap()
}

/// The last `rows` documents become the training split, as the script that ran the harness had it.
fn split(all: Docs, rows: usize) -> (Docs, Docs) {
    let at = all.docs.len() - rows;
    let part = |range: std::ops::Range<usize>| Docs {
        docs: all.docs[range.clone()].to_vec(),
        fields: all.fields[range].to_vec(),
    };
    (part(0..at), part(at..all.docs.len()))
}

fn chat_template() -> ChatTemplate {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../text/tests/data/smollm2/tokenizer_config.json");
    let config: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    let special = ["bos_token", "eos_token"].map(|name| (name, config[name].as_str().unwrap()));
    ChatTemplate::new(config["chat_template"].as_str().unwrap(), special).unwrap()
}

fn check(golden_name: &str) {
    let golden = golden(golden_name);
    let made = &golden["made_with"];
    let shots = made["num_fewshot"].as_u64();
    let chat = chat_template();
    let style = Style { chat: made["chat"].as_bool().unwrap().then_some(&chat), multiturn: true };
    let items = golden["items"].as_object().unwrap();
    assert!(!items.is_empty());
    for (name, items) in items {
        let task = task(name);
        let all = docs(&task, task.dataset.split);
        let shots = shots.map_or(task.shots.default, |n| n as usize);
        let train = made["train"].as_u64().unwrap() as usize;
        let (asked, pool) = match (task.shots.split, train) {
            (Some(split), 0) if shots > 0 => (all, docs(&task, split)),
            (Some("train"), train) if train > 0 => split(all, train),
            _ => (all.clone(), all),
        };
        let items = items.as_array().unwrap();
        let questions = prompt::questions(&task, &asked, &pool, shots, items.len(), style).unwrap();
        assert_eq!(questions.len(), items.len(), "{golden_name} {name}");
        for (question, item) in questions.iter().zip(items) {
            assert_eq!(digest(question), item["texts"].as_str().unwrap(), "{golden_name} {name} {question:?}");
        }
    }
}

#[test]
fn questions_without_examples_are_the_harness() {
    check("zero_shot.json");
    check("wikitext.json");
}

#[test]
fn examples_are_drawn_as_the_harness_draws_them() {
    for name in ["few_shot.json", "mmlu_shots.json", "gsm8k.json"] {
        check(name);
    }
}

#[test]
fn conversations_are_the_harness() {
    for name in ["chat.json", "mmlu_chat.json"] {
        check(name);
    }
}

/// Places drawn by the code that made the project's gsm8k prompts, which the real harness confirmed.
#[test]
fn gsm8k_draws_five_of_7473() {
    let drawn: Vec<Vec<usize>> =
        serde_json::from_slice(&std::fs::read(data().join("gsm8k_shots.json")).unwrap()).unwrap();
    let mut random = planish_eval::random::Random::new(1234);
    assert_eq!(drawn.len(), 250);
    for drawn in drawn {
        assert_eq!(random.sample(7473, 5), drawn);
    }
}

#[test]
fn too_few_examples_are_named() {
    let task = task("hellaswag");
    let all = docs(&task, "validation");
    let (asked, pool) = split(all, 3);
    let error = prompt::questions(&task, &asked, &pool, 3, 9, Style::default()).unwrap_err().to_string();
    assert!(error.contains("--num-fewshot: expected at least 4 documents to take examples from, found 3"), "{error}");
}

/// A document that is among its own examples gives way to another, as do its copies.
#[test]
fn a_document_is_never_its_own_example() {
    let task = task("piqa");
    let docs = docs(&task, "validation");
    for shots in 1..6 {
        let questions = prompt::questions(&task, &docs, &docs, shots, 8, Style::default()).unwrap();
        for question in questions {
            let Question::Likelihoods(pairs) = question else { panic!() };
            let parts: Vec<&str> = pairs[0].0.split("\n\n").collect();
            let own = parts[shots];
            assert_eq!(parts.len(), shots + 1);
            assert!(parts[..shots].iter().all(|part| !part.starts_with(own)), "{parts:?}");
        }
    }
}

/// All of mmlu with four documents a subject: group values, pooled errors, JSON and both tables as the harness has them.
#[test]
fn groups_are_the_harness() {
    let golden = golden("mmlu_groups.json");
    let chosen = select::select(&["mmlu"]).unwrap();
    let results = |task: &Task| {
        let right = golden["results"][&task.name]["acc,none"].as_f64().unwrap() * 4.0;
        let doc = Doc::Choice { query: String::new(), choices: vec!["A".into(), "B".into()], gold: 0 };
        let answer =
            |i| Answer::Likelihoods { ll: vec![-1.0, if i < right as usize { -2.0 } else { -0.5 }], greedy: vec![] };
        TaskResult::new(task, 0, &vec![doc; 4], &[0, 1, 2, 3].map(answer)).unwrap()
    };
    let results = Results { tasks: chosen.tasks.iter().map(results).collect(), groups: chosen.groups };
    assert_eq!(results.to_text(), golden["table"].as_str().unwrap());
    let found = results.to_json(Value::Null);
    for key in ["results", "groups", "n-shot", "higher_is_better", "versions"] {
        let expected = golden[key].as_object().unwrap();
        assert_eq!(found[key].as_object().unwrap().len(), expected.len(), "{key}");
        expected.iter().for_each(|(name, expected)| assert_close(&found[key][name], expected, name));
    }
}

fn assert_close(found: &Value, expected: &Value, what: &str) {
    match (found, expected) {
        (Value::Object(found), Value::Object(expected)) => {
            assert_eq!(found.len(), expected.len(), "{what}");
            expected.iter().for_each(|(key, value)| assert_close(&found[key], value, &format!("{what} {key}")));
        }
        (Value::Number(a), Value::Number(b)) => {
            let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
            assert!((a - b).abs() < 1e-12, "{what}: {a}, expected {b}");
        }
        _ => assert_eq!(found, expected, "{what}"),
    }
}
