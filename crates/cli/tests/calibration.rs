//! What `--calib-dataset` takes, through the real program: files, data sets in the hub's cache, and texts that already begin
//! with the tokenizer's first token.
mod program;

use program::{Program, read_json, scratch, tiny, with_words};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

fn quantize(model: &Path, out: &Path, data: &str) -> Program {
    let program = Program::new("quantize --calib-seqlen 32 --json --weights gptq --smooth off").arg(model);
    program.arg("--work-dir").arg(out).arg("--calib-dataset").arg(data)
}

fn calibration(document: &Value) -> &Value {
    &document["calibration"]
}

/// Records of a few sentences.
fn lines(count: usize) -> String {
    (0..count)
        .map(|i| json!({"text": format!("Line {i}: iron is shaped by many light blows.")}).to_string() + "\n")
        .collect()
}

/// A data set as the hub's cache holds it.
fn cached(home: &Path, repo: &str, files: &[(&str, &str)]) {
    let folder = home.join("hub").join(format!("datasets--{}", repo.replace('/', "--")));
    std::fs::create_dir_all(folder.join("refs")).unwrap();
    std::fs::write(folder.join("refs/main"), COMMIT).unwrap();
    for (name, text) in files {
        let path = folder.join("snapshots").join(COMMIT).join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
}

#[test]
fn data_sets_of_the_hub_by_name() {
    let dir = scratch();
    let (model, home) = (with_words(&tiny(), &dir.path().join("model")), dir.path().join("home"));
    let (train, test) = (lines(40), lines(20));
    cached(
        &home,
        "who/talks",
        &[
            ("data/train_sft-00000-of-00002.jsonl", &train),
            ("data/train_sft-00001-of-00002.jsonl", &test),
            ("data/test.jsonl", &test),
            ("README.md", "no data"),
        ],
    );
    cached(&home, "who/parts", &[("one/train.jsonl", &train), ("two/test.jsonl", &test)]);
    cached(&home, "who/tests", &[("test.jsonl", &test), ("validation.jsonl", &test)]);
    let run = |name: &str, data: &str| quantize(&model, &dir.path().join(name), data).var("HF_HOME", &home);
    let local = dir.path().join("local.jsonl");
    std::fs::write(&local, &train).unwrap();
    let expected = run("local", local.to_str().unwrap()).run().json();
    let found = run("hub", "who/talks").run().json();
    assert_eq!(calibration(&found)["sha256"], calibration(&expected)["sha256"]);
    let source = calibration(&found)["source"].as_str().unwrap();
    assert!(source.starts_with("who/talks/data/train_sft-00000-of-00002.jsonl (first of 2): "), "{source}");
    assert!(source.contains("of 40 records, shuffled with seed 42"), "{source}");
    let found = run("split", "who/talks:test").run().json();
    assert_ne!(calibration(&found)["sha256"], calibration(&expected)["sha256"]);
    assert!(calibration(&found)["source"].as_str().unwrap().starts_with("who/talks/data/test.jsonl: "), "{found}");
    run("asked", "who/tests:test").run().ok();
    let found = run("config", "who/parts:one/train").run().json();
    assert_eq!(calibration(&found)["sha256"], calibration(&expected)["sha256"]);
    for (data, pieces) in [
        ("who/talks:validation", ["who/talks", "split validation"]),
        ("who/tests", ["who/tests", "split train or train_sft, found none"]),
        ("who/nobody", ["who/nobody", "no such file; asked the hub"]),
        ("no/such.jsonl", ["no/such.jsonl", "cannot be read"]),
    ] {
        run("no", data).run().fails(&pieces);
    }
    run("no", home.to_str().unwrap()).run().fails(&["--calib-dataset", "found a folder"]);
    assert!(!dir.path().join("no").exists());
}

/// Which of several parts is meant must be said.
#[test]
fn parts_of_a_data_set_are_not_guessed() {
    let dir = scratch();
    let (model, home) = (with_words(&tiny(), &dir.path().join("model")), dir.path().join("home"));
    let text = lines(30);
    cached(&home, "who/parts", &[("one/train-00000-of-00001.jsonl", &text), ("two/train-00000-of-00001.jsonl", &text)]);
    let out = dir.path().join("out");
    let said = quantize(&model, &out, "who/parts").var("HF_HOME", &home).run();
    said.fails(&["--calib-dataset who/parts", "several (one, two)", "who/parts:PART/SPLIT"]);
    quantize(&model, &out, "who/parts:two/train").var("HF_HOME", &home).run().ok();
}

/// A copy of a model whose tokenizer puts a token before everything, as Llama's does.
fn with_first_token(model: &Path, to: &Path) -> PathBuf {
    let to = with_words(model, to);
    let mut tokenizer = read_json(&to.join("tokenizer.json"));
    let id = tokenizer["model"]["vocab"]["A"].clone();
    tokenizer["post_processor"] = json!({
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"A": {"id": "A", "ids": [id], "tokens": ["A"]}},
    });
    std::fs::write(to.join("tokenizer.json"), tokenizer.to_string()).unwrap();
    to
}

#[test]
fn a_first_token_is_not_doubled() {
    let dir = scratch();
    let model = with_first_token(&tiny(), &dir.path().join("model"));
    let run = |name: &str, first: &str| {
        let data = dir.path().join(format!("{name}.jsonl"));
        let text: String =
            (0..40).map(|i| json!({"text": format!("{first}line {i} of them")}).to_string() + "\n").collect();
        std::fs::write(&data, text).unwrap();
        let document = quantize(&model, &dir.path().join(name), data.to_str().unwrap()).run().json();
        document["calibration"]["sha256"].clone()
    };
    let (plain, rendered, twice) = (run("plain", ""), run("rendered", "A"), run("twice", "AA"));
    assert_eq!(plain, rendered, "a template's first token stands for the tokenizer's");
    assert_ne!(plain, twice, "only one of them does");
}
