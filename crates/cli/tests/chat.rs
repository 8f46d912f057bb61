//! `planish chat` and `generate --chat`: conversations in the model's own template.
mod program;

use program::{Program, golden, scratch, tiny, with_words};
use serde_json::json;

#[test]
fn a_prompt_goes_through_the_template() {
    let dir = scratch();
    let model = with_words(&tiny(), &dir.path().join("model"));
    let run = |flags: &str| {
        let program = Program::new("generate --json --max-new-tokens 1").words(flags).arg(&model);
        program.arg("-p").arg("Hi you").run().json()["results"][0]["prompt_token_ids"].clone()
    };
    assert_eq!(run("--chat"), json!(b"user: Hi you\nassistant: ".to_vec()));
    assert_eq!(run(""), json!(b"Hi you".to_vec()));
}

#[test]
fn a_conversation_remembers_and_forgets() {
    let dir = scratch();
    let model = with_words(&golden("llama"), &dir.path().join("model"));
    let chat = |input: &str| {
        let program = Program::new("chat --max-new-tokens 6 --ignore-eos").arg(&model).input(input);
        program.run().ok().stdout
    };
    let once = chat("Hi\n");
    assert!(once.ends_with('\n') && once.chars().count() > 2, "{once:?}");
    assert_eq!(chat("Hi\n/clear\n\nHi\n/exit\nHi\n"), once.repeat(2), "forgotten, and nothing after /exit");
    let twice = chat("Hi\nHi\n");
    assert!(twice.starts_with(&once) && twice != once.repeat(2), "the second answer knows the first: {twice:?}");
    assert_eq!(chat(""), "");
}

#[test]
fn a_conversation_is_changed_saved_and_loaded() {
    let dir = scratch();
    let model = with_words(&golden("llama"), &dir.path().join("model"));
    let file = dir.path().join("talk.json");
    let chat = |flags: &str, input: &str| {
        let program = Program::new("chat --max-new-tokens 6 --ignore-eos").words(flags).arg(&model).input(input);
        program.run().ok().stdout
    };
    let both = chat("--system Kind.", &format!("Hi\n/save {}\nyou\\\nthere\n", file.display()));
    let first = chat("", "/system Kind.\nHi\n");
    assert!(both.starts_with(&first) && both.len() > first.len(), "{both:?} {first:?}");
    let saved = program::read_json(&file);
    assert_eq!(saved["messages"][0], json!({"role": "system", "content": "Kind."}));
    assert_eq!(saved["messages"][2]["content"], json!(first.strip_suffix('\n').unwrap()));
    let load = format!("--load {}", file.display());
    assert_eq!(first.clone() + &chat(&load, "you\\\nthere\n"), both);
    assert_eq!(chat("", &format!("/load {}\n/clear\nHi\n", file.display())), first, "/clear keeps the system's text");
    let hot = |temperature: &str| chat("--seed 5", &format!("/temp {temperature}\nHi\n"));
    assert_ne!(hot("50"), hot("0"));
    assert_eq!(hot("0"), chat("--seed 5", "Hi\n"));
}

#[test]
fn in_json_the_whole_conversation_is_one_document() {
    let dir = scratch();
    let model = with_words(&golden("llama"), &dir.path().join("model"));
    let chat = |flags: &str| {
        let program = Program::new("chat --max-new-tokens 6 --ignore-eos --system Kind.").words(flags).arg(&model);
        program.input("Hi\nyou\n/exit\n").run()
    };
    let text = chat("").ok().stdout;
    let document = chat("--json").json();
    let messages = document["messages"].as_array().unwrap();
    let roles: Vec<_> = messages.iter().map(|m| m["role"].as_str().unwrap()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "user", "assistant"]);
    let answer = |at: usize| messages[at]["content"].as_str().unwrap();
    assert_eq!(text, format!("{}\n{}\n", answer(2), answer(4)));
}

/// Types into a terminal that has the program's input and messages; its answers go to a file.
const TYPIST: &str = r#"
import os, pty, signal, sys
signal.alarm(120) # ends it, should the program wait for more
child, terminal = pty.fork()
if child == 0:
    os.dup2(os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT), 1)
    os.execv(sys.argv[2], sys.argv[2:])
text, lines = b"", [b"Hi\r", b"/exit\r"]
try:
    while True:
        text += os.read(terminal, 4096)
        if b"> " in text and lines:
            text = b""
            os.write(terminal, lines.pop(0))
except OSError: # the program has ended
    pass
sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"#;

#[test]
fn what_is_typed_does_not_go_where_answers_go() {
    let dir = scratch();
    let model = with_words(&golden("llama"), &dir.path().join("model"));
    let flags = ["--max-new-tokens", "6", "--ignore-eos", "--log-level", "error"];
    let answers = dir.path().join("answers.txt");
    let mut typist = std::process::Command::new("python3");
    typist.args(["-c", TYPIST]).arg(&answers).arg(env!("CARGO_BIN_EXE_planish")).arg("chat").arg(&model).args(flags);
    assert!(typist.status().unwrap().success());
    let piped = Program::new("chat --max-new-tokens 6 --ignore-eos").arg(&model).input("Hi\n").run().ok().stdout;
    assert_eq!(std::fs::read_to_string(&answers).unwrap(), piped);
}

#[test]
fn a_model_without_words_or_template_says_so() {
    let dir = scratch();
    let chat = |model: &std::path::Path| Program::new("chat").arg(model).input("Hi\n").run();
    chat(&tiny()).fails(&["tokenizer.json"]);
    let model = with_words(&tiny(), &dir.path().join("model"));
    std::fs::remove_file(model.join("tokenizer_config.json")).unwrap();
    chat(&model).fails(&["chat template"]);
    Program::new("generate --chat -p Hi").arg(&model).run().fails(&["chat template", "--chat"]);
    std::fs::write(model.join("tokenizer_config.json"), "{\"chat_template\": \"{% for\"}").unwrap();
    chat(&model).fails(&["chat template"]);
}
