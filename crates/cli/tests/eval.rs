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

/// A tiny model whose tokens are bytes.
fn small(dir: &Path) -> PathBuf {
    with_words(&tiny(), &dir.join("model"))
}

#[test]
fn json_and_table_have_the_harness_shape() {
    let dir = scratch();
    let model = small(dir.path());
    let document = eval(&model, "arc_easy,wikitext").words("--limit 3 --json --batch-size 2").run().json();
    let arc = &document["results"]["arc_easy"];
    assert_eq!((&arc["alias"], &arc["sample_len"]), (&"arc_easy".into(), &3.into()));
    assert!(arc["acc,none"].is_number() && arc["acc_norm_stderr,none"].is_number());
    assert_eq!(document["results"]["wikitext"]["word_perplexity_stderr,none"], "N/A");
    assert_eq!(document["n-samples"]["arc_easy"], serde_json::json!({"original": 24, "effective": 3}));
    assert_eq!(document["higher_is_better"]["wikitext"]["bits_per_byte"], false);
    assert_eq!((&document["n-shot"]["arc_easy"], &document["versions"]["arc_easy"]), (&0.into(), &1.0.into()));
    assert_eq!(document["config"]["fewshot_seed"], 1234);
    // Neither the number of sequences at once nor asking anew for everything changes a figure.
    let again =
        eval(&model, "wikitext,arc_easy").words("--limit 3 --json --batch-size 7 --no-prefix-cache").run().json();
    for task in ["arc_easy", "wikitext"] {
        assert_eq!(again["results"][task], document["results"][task]);
    }
    let text = eval(&model, "arc_easy,wikitext").words("--limit 3").run().ok().stdout;
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("| Tasks  |Version|Filter|n-shot|") && lines[0].ends_with("|Stderr|"), "{text}");
    assert!(lines[2].starts_with("|arc_easy|      1|none  |     0|acc ") && lines.len() == 7, "{text}");
}

/// A model's file with another last byte of its weights.
fn other_weights(model: &Path) -> Vec<u8> {
    let mut bytes = std::fs::read(model.join("model.safetensors")).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    bytes
}

#[test]
fn a_broken_off_run_goes_on_where_it_was() {
    let dir = scratch();
    let model = small(dir.path());
    let journal = dir.path().join("journal");
    let run = |tasks: &str, limit: &str| {
        eval(&model, tasks).words("--json --limit").arg(limit).arg("--journal").arg(&journal).run()
    };
    let first = run("piqa,gsm8k", "2").json();
    let lines = std::fs::read_to_string(&journal).unwrap().lines().count();
    assert_eq!(lines, 1 + 4);
    // Answers that cannot be those of the model show that they are taken from the journal.
    let text = std::fs::read_to_string(&journal).unwrap();
    let spoiled: String = text
        .lines()
        .map(|line| match line.contains("\"gsm8k\"") {
            true => line.split("\"answer\"").next().unwrap().to_owned() + "\"answer\":{\"text\":\"#### 18\"}}\n",
            false => format!("{line}\n"),
        })
        .collect();
    std::fs::write(&journal, spoiled).unwrap();
    let more = run("piqa,gsm8k", "3").json();
    assert_eq!(more["results"]["gsm8k"]["sample_len"], 3);
    assert!(more["results"]["gsm8k"]["exact_match,strict-match"].as_f64().unwrap() > 0.3);
    assert_eq!(first["results"]["gsm8k"]["exact_match,strict-match"], 0.0);
    let lines = std::fs::read_to_string(&journal).unwrap().lines().count();
    assert_eq!(lines, 1 + 6);
    for other in ["--apply-chat-template", "--lm-head int8"] {
        let other = eval(&model, "piqa").words(other).arg("--journal").arg(&journal).run();
        other.fails(&["--journal", "expected", "found"]);
    }
    // Another model of the same name.
    std::fs::write(model.join("model.safetensors"), other_weights(&model)).unwrap();
    eval(&model, "piqa").arg("--journal").arg(&journal).run().fails(&["--journal", "expected", "found"]);
    // A file that is something else stays as it is.
    let other = dir.path().join("results.json");
    std::fs::write(&other, "{\"a\":1}").unwrap();
    eval(&model, "piqa").arg("--journal").arg(&other).run().fails(&["results.json", "expected", "{\"a\":1}"]);
    assert_eq!(std::fs::read_to_string(&other).unwrap(), "{\"a\":1}");
}

/// Killed as soon as there are so many answers in its journal; how many there were then.
fn kill_at(program: Program, journal: &Path, answers: usize) -> usize {
    let mut child = program.spawn();
    let lines = || std::fs::read_to_string(journal).unwrap_or_default().lines().count();
    while lines() <= answers && child.try_wait().unwrap().is_none() {
        std::thread::sleep(std::time::Duration::from_millis(1));
    }
    let _ = child.kill();
    assert!(!child.wait().unwrap().success(), "it was faster");
    lines() - 1
}

#[test]
fn killed_again_and_again_it_comes_to_the_same_table() {
    let dir = scratch();
    let model = small(dir.path());
    let run = || eval(&model, "arc_easy,gsm8k,wikitext").words("--batch-size 2 --max-model-len 2000");
    let whole = run().run().ok().stdout;
    let (journal, total) = (dir.path().join("journal"), 24 + 4 + 3);
    let mut before = 0;
    for answers in [1, 10, 25] {
        let there = kill_at(run().arg("--journal").arg(&journal), &journal, answers);
        assert!(there > before && there < total, "{there} answers after {before}");
        before = there;
    }
    assert_eq!(run().arg("--journal").arg(&journal).run().ok().stdout, whole);
    let lines = std::fs::read_to_string(&journal).unwrap();
    assert_eq!(lines.lines().count(), 1 + total, "nothing is answered twice");
    // Nothing is left to ask.
    assert_eq!(run().arg("--journal").arg(&journal).run().ok().stdout, whole);
    assert_eq!(std::fs::read_to_string(&journal).unwrap(), lines);
}

#[test]
fn examples_and_conversations_change_the_question() {
    let dir = scratch();
    let model = small(dir.path());
    let log = dir.path().join("log");
    let context = |flags: &str| {
        let program =
            eval(&model, "gsm8k").words("--limit 1 --max-model-len 2000 --log-samples").arg(&log).words(flags);
        program.run().ok();
        let line: Value = serde_json::from_str(std::fs::read_to_string(&log).unwrap().lines().next().unwrap()).unwrap();
        line["arguments"][0][0].as_str().unwrap().to_owned()
    };
    let plain = context("--num-fewshot 0");
    assert!(plain.starts_with("Question: ") && plain.ends_with("\nAnswer:"));
    assert_eq!(context("--num-fewshot 0 --apply-chat-template"), format!("user: {plain}\nassistant: "));
    let turns = context("--num-fewshot 2 --apply-chat-template");
    assert_eq!((turns.matches("user: ").count(), turns.matches("assistant: ").count()), (3, 3));
    let one = context("--num-fewshot 2 --apply-chat-template --fewshot-as-multiturn false");
    assert_eq!((one.matches("user: ").count(), one.matches("\n\nQuestion: ").count()), (1, 2));
}

#[test]
fn both_models_answer_the_same_questions() {
    let dir = scratch();
    let model = small(dir.path());
    let quantized = dir.path().join("quantized");
    quantize(&model, &quantized).run().ok();
    let text = dir.path().join("text");
    std::fs::write(&text, "Iron is shaped by many light blows. ".repeat(40)).unwrap();
    let page = dir.path().join("page.html");
    let compare = || {
        let program = Program::new("compare --windows 2 --window-len 100 --no-samples --tasks piqa,wikitext --limit 4");
        program.arg(&model).arg(&quantized).arg("--data").arg(&text).arg("--data-dir").arg(data().join("tasks"))
    };
    let document = compare().words("--json --html").arg(&page).run().json();
    let tasks = document["tasks"].as_array().unwrap();
    assert_eq!(tasks.len(), 5);
    for task in tasks {
        let number = |key: &str| task[key].as_f64().unwrap_or_else(|| panic!("{key} in {task}"));
        assert!((number("quantized") - number("original") - number("difference")).abs() < 1e-9);
        let interval = task["interval"].as_array().unwrap();
        assert!(interval[0].as_f64().unwrap() <= number("difference"));
    }
    let recovery = &document["accuracy_recovery"];
    assert_eq!(recovery["tasks"], serde_json::json!(["piqa acc_norm"]));
    assert_eq!((&recovery["original"], &recovery["recovery"]), (&tasks[1]["original"], &tasks[1]["recovery"]));
    assert_ne!(tasks[2]["original"], tasks[2]["quantized"]);
    assert!(std::fs::read_to_string(&page).unwrap().contains("Tasks side by side"));
    let table = compare().run().ok().stdout;
    assert!(table.contains("\naccuracy recovery: ") && table.contains(" %), of piqa acc_norm\n"), "{table}");
    assert!(table.contains("95 % interval") && table.contains("|wikitext|none  |word_perplexity|"), "{table}");
}

#[test]
fn what_is_wrong_is_named() {
    let dir = scratch();
    let model = small(dir.path());
    eval(&model, "helaswag").run().fails(&["--tasks", "helaswag", "did you mean hellaswag?"]);
    let rows = dir.path().join("rows");
    std::fs::create_dir(&rows).unwrap();
    let with_rows =
        |tasks: &str| Program::new("eval").arg(&model).arg("--tasks").arg(tasks).arg("--data-dir").arg(&rows);
    with_rows("piqa").run().fails(&["task piqa", "validation", "piqa_validation", "found none"]);
    let good = r#"{"question": "a", "choices": ["b", "c"], "label": 1}"#;
    std::fs::write(rows.join("piqa.jsonl"), format!("{good}\n{}\n", good.replace('1', "\"x\""))).unwrap();
    with_rows("piqa").run().fails(&["piqa.jsonl", "row 2", "field label", "a number from 0 to 1", "\"x\""]);
    std::fs::write(rows.join("piqa.jsonl"), format!("{good}\n{{\"question\": \"a\"}}\n")).unwrap();
    with_rows("piqa").run().fails(&["piqa.jsonl", "row 2", "field choices", "no such field"]);
    let odd = good.replace("choices", "choice");
    std::fs::write(rows.join("piqa.jsonl"), format!("{odd}\n{good}\n{odd}\n{{\"label\": 3}}\n{good}\n")).unwrap();
    with_rows("piqa").run().fails(&[
        "row 1",
        "field choices",
        "no such field, but \"choice\"",
        "2 more rows are bad: 3, 4",
    ]);
    std::fs::write(rows.join("piqa.jsonl"), format!("{good}\n\n{{\"question\": \n")).unwrap();
    with_rows("piqa").run().fails(&["piqa.jsonl", "row 3", "JSON"]);
    eval(&model, "piqa,qqq").run().fails(&["--tasks: unknown task qqq", "--list"]);
    eval(&model, "mmlu_*_of_nothing").run().fails(&["--tasks: unknown task mmlu_*_of_nothing"]);
    std::fs::write(rows.join("piqa.jsonl"), format!("{good}\n")).unwrap();
    with_rows("piqa").words("--num-fewshot 1").run().fails(&["task piqa", "train split"]);
    eval(&model, "mmlu_anatomy").words("--num-fewshot 9").run().fails(&[
        "mmlu_anatomy",
        "--num-fewshot",
        "9",
        "found 5",
    ]);
    eval(&model, "gsm8k").words("--max-model-len 200").run().fails(&["gsm8k", "--max-model-len", "257", "200"]);
    eval(&model, "piqa").words("--device null").run().fails(&["--device", "null"]);
    eval(&tiny(), "piqa").run().fails(&["tokenizer.json"]);
    let nowhere = Program::new("eval --tasks piqa --data-dir no_such_folder").arg(&model).run();
    nowhere.fails(&["--data-dir", "no_such_folder"]);
    // Without --data-dir the hub is asked, which HF_HUB_OFFLINE forbids here.
    Program::new("eval --tasks piqa").arg(&model).run().fails(&["task piqa", "baber/piqa", "--data-dir"]);
    let full = eval(&model, "piqa").words("--limit 1 --log-samples /dev/full").run();
    full.fails(&["--log-samples", "/dev/full", "space"]);
    assert_eq!(Program::new("eval --tasks piqa --limit 1.5").arg(&model).run().code, 2);
    assert_eq!(Program::new("eval").arg(&model).run().code, 2);
}

#[test]
fn the_list_is_in_help_and_documentation() {
    let list = Program::new("eval --list --json").run().json();
    let tasks: Vec<&str> = list["tasks"].as_array().unwrap().iter().map(|t| t.as_str().unwrap()).collect();
    assert_eq!(tasks.len(), 67);
    let (help, page) = (Program::new("eval --help").run().ok().stdout, include_str!("../../../docs/evaluating.md"));
    for name in tasks.iter().filter(|name| !name.starts_with("mmlu_")) {
        assert!(help.contains(name) && page.contains(&format!("`{name}`")), "{name}");
    }
    for group in list["groups"].as_array().unwrap() {
        let name = group["name"].as_str().unwrap();
        assert!(help.contains(name) && page.contains(&format!("`{name}`")), "{name}");
    }
    assert!(Program::new("eval --list").run().ok().stdout.contains("mmlu_world_religions"));
}
