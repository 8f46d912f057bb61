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
    docs_in(&data().join("tasks"), task, split)
}

fn docs_in(folder: &Path, task: &Task, split: &str) -> Docs {
    Source::Folder(folder).docs(task, split).unwrap()
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

/// Rows of one of mmlu's subjects.
fn made(subject: &str, split: &str) -> Vec<Value> {
    let text = std::fs::read_to_string(data().join("mmlu.jsonl")).unwrap();
    let rows = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    rows.filter(|row| row["subject"] == subject && row["split"] == split).collect()
}

/// Puts them where the hub has them, in two parts.
fn lay_out(folder: &Path, task: &Task) {
    let subject = task.dataset.config.unwrap();
    let folder = folder.join("cais/mmlu").join(subject);
    std::fs::create_dir_all(&folder).unwrap();
    for split in ["dev", "test"] {
        let rows = made(subject, split);
        assert!(!rows.is_empty(), "{subject} {split}");
        for (part, rows) in [&rows[..1], &rows[1..]].iter().enumerate() {
            let lines: String = rows.iter().map(|row| format!("{row}\n")).collect();
            std::fs::write(folder.join(format!("{split}-0000{part}-of-00002.jsonl")), lines).unwrap();
        }
    }
}

/// All 57 subjects, laid out as on the hub, with 1 to 4 questions each and two examples: prompts, groups weighted by their
/// questions, JSON and tables are the harness'.
#[test]
fn every_subject_of_mmlu_is_the_harness() {
    let golden = golden("mmlu_made.json");
    let (dir, chosen) = (tempfile::tempdir().unwrap(), select::select(&["mmlu"]).unwrap());
    let mut results = Vec::new();
    for task in &chosen.tasks {
        lay_out(dir.path(), task);
        let of = |split: &str| Source::Folder(dir.path()).docs(task, split).unwrap();
        let (asked, pool) = (of("test"), of("dev"));
        let questions = prompt::questions(task, &asked, &pool, 2, usize::MAX, Style::default()).unwrap();
        let items = golden["items"][&task.name].as_array().unwrap();
        assert_eq!(questions.len(), items.len(), "{}", task.name);
        let mut answers = Vec::new();
        for (question, item) in questions.iter().zip(items) {
            assert_eq!(digest(question), item["texts"].as_str().unwrap(), "{} {question:?}", task.name);
            let ll = item["ll"].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect();
            answers.push(Answer::Likelihoods { ll, greedy: vec![] });
        }
        results.push(TaskResult::new(task, 2, &asked.docs, &answers).unwrap());
    }
    let results = Results { tasks: results, groups: chosen.groups };
    assert_eq!(results.to_text(), golden["table"].as_str().unwrap());
    let found = results.to_json(Value::Null);
    for key in ["results", "groups", "n-shot", "higher_is_better", "versions", "n-samples"] {
        assert_close(&found[key], &golden[key], key);
    }
}

/// The same rows in the hub's own format, with a list of choices and a class label.
#[test]
fn parquet_of_mmlu_is_read() {
    let task = task("mmlu_high_school_us_history");
    for split in ["dev", "test"] {
        let (found, rows) = (docs_in(&data().join("cais_mmlu"), &task, split), made("high_school_us_history", split));
        assert_eq!(found.docs.len(), rows.len());
        for (doc, row) in found.docs.iter().zip(&rows) {
            let Doc::Choice { query, gold, .. } = doc else { panic!() };
            assert_eq!(*gold as u64, row["answer"].as_u64().unwrap());
            let choices: Vec<&str> = row["choices"].as_array().unwrap().iter().map(|c| c.as_str().unwrap()).collect();
            let [a, b, c, d] = &choices[..] else { panic!() };
            let question = row["question"].as_str().unwrap().trim();
            assert_eq!(*query, format!("{question}\nA. {a}\nB. {b}\nC. {c}\nD. {d}\nAnswer:"));
        }
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
