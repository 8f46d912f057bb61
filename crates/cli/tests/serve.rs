//! `planish serve` as a user starts and stops it: flags, the file of flags, keys, several models, signals, the log.
mod program;

use program::serving::{Serving, command};
use program::{Program, copy_of, golden, scratch, with_words};
use serde_json::Value;
use std::path::Path;

/// On a free port, silent.
fn start(args: &[&str], models: &[&Path]) -> Serving {
    let models = models.iter().map(|model| model.to_str().unwrap());
    Serving::start(&["--log-level", "error"].into_iter().chain(models).chain(args.iter().copied()).collect::<Vec<_>>())
}

#[test]
fn a_server_starts_answers_and_stops() {
    let folder = scratch();
    let model = with_words(&golden("w8a8_rtn"), &folder.path().join("tiny-int8"));
    let server = start(&["--port", "0"], &[&model]);
    assert_eq!(server.ready["models"][0], "tiny-int8", "a folder's name, not its path");
    assert_eq!(server.ask("GET", "/ready", "", "").status, 200);
    let ask = r#"{"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "ignore_eos": true}"#;
    let answer = server.ask("POST", "/v1/chat/completions", "", ask);
    let document: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!((answer.status, &document["usage"]["completion_tokens"]), (200, &4.into()), "{document}");
    assert_eq!(server.ask("GET", "/tokenizer_info", "", "").status, 200);
    assert_eq!(server.terminate(), (Some(0), String::new()));
}

#[test]
fn several_models_have_names_and_a_file_has_flags() {
    let folder = scratch();
    let a = with_words(&golden("llama"), &folder.path().join("a"));
    let b = with_words(&golden("qwen2"), &folder.path().join("b"));
    let file = folder.path().join("serve.yaml");
    let text = format!("models: [{a:?}, {b:?}]\nserver-port: 1\nserved_model_name: [one, two]\napi-key: [secret]\n");
    std::fs::write(&file, text).unwrap();
    let server = start(&["--config", file.to_str().unwrap(), "--server-port", "0"], &[]);
    assert_eq!(server.ready["models"], serde_json::json!(["one", "two"]));
    assert_eq!(server.ask("GET", "/v1/models", "", "").status, 401);
    let list = server.ask("GET", "/v1/models", "authorization: Bearer secret\r\n", "");
    assert!(list.status == 200 && list.body.contains("\"one\"") && list.body.contains("\"two\""), "{}", list.body);
    let ask = r#"{"model": "two", "prompt": "x", "max_tokens": 2}"#;
    assert_eq!(server.ask("POST", "/v1/completions", "x-api-key: secret\r\n", ask).status, 200);
    assert_eq!(server.terminate().0, Some(0));
    // The command line's model takes the place of the file's.
    let server =
        start(&["--config", file.to_str().unwrap(), "--server-port", "0", "--served-model-name", "only"], &[&b]);
    assert_eq!(server.ready["models"], serde_json::json!(["only"]));
    assert_eq!(server.terminate().0, Some(0));
    std::fs::write(&file, "model: x\nsrever-port: 1\n").unwrap();
    let file = file.to_str().unwrap();
    Program::new("serve --config").arg(file).run().fails(&[
        "--config",
        file,
        "srever-port",
        "did you mean server-port?",
    ]);
}

#[test]
fn keys_come_from_flags_a_file_and_the_environment() {
    let folder = scratch();
    let model = with_words(&golden("llama"), &folder.path().join("m"));
    let file = folder.path().join("keys");
    std::fs::write(&file, "of-file-1\n\n  of-file-2 \n").unwrap();
    let (file, model) = (file.to_str().unwrap(), model.to_str().unwrap());
    let flags = ["--log-level", "error", "--port", "0", "--api-key", "of-flag", "--api-key-file", file, model];
    let server = Serving::of(command(&flags).env("PLANISH_API_KEYS", "of-env-1,of-env-2"));
    let status = |key: &str| server.ask("GET", "/v1/models", &format!("authorization: Bearer {key}\r\n"), "").status;
    assert_eq!(["of-flag", "of-file-1", "of-file-2", "of-env-1", "of-env-2"].map(status), [200; 5]);
    assert_eq!(["of-env", "of-env-1,of-env-2", "of-file", ""].map(status), [401; 4]);
    assert_eq!(server.terminate().0, Some(0));
}

#[test]
fn what_cannot_be_served_is_said_in_one_line() {
    let folder = scratch();
    let model = with_words(&golden("llama"), &folder.path().join("m"));
    let serve = |words: &str| Program::new("serve --device cpu --threads 1").words(words).arg(&model);
    serve("--server-name 0.0.0.0 --port 0").run().fails(&["--api-key", "--insecure-no-auth"]);
    serve("--port 0 --tls-cert /nonexistent.pem --tls-key /nonexistent.pem").run().fails(&["/nonexistent.pem"]);
    serve("--port 0 --api-key-file /nonexistent").run().fails(&["--api-key-file", "/nonexistent"]);
    serve("--port 0 --served-model-name a --served-model-name b").run().fails(&["--served-model-name"]);
    serve("--config /nonexistent.yaml").run().fails(&["--config", "/nonexistent.yaml"]);
    let wordless = copy_of(&golden("llama"), &folder.path().join("wordless"));
    Program::new("serve --device cpu --port 0").arg(&wordless).run().fails(&["tokenizer.json"]);
    assert_eq!(serve("--max-concurrent-requests 0").run().code, 2);
}

#[test]
fn the_log_names_requests_and_tells_nothing_of_them() {
    let folder = scratch();
    let model = with_words(&golden("llama"), &folder.path().join("m"));
    let model = model.to_str().unwrap();
    let secret = "Elephants-in-the-cellar";
    let chat = format!(r#"{{"messages": [{{"role": "user", "content": "{secret}"}}], "max_tokens": 3}}"#);
    let text = format!(r#"{{"prompt": "{secret}", "max_tokens": 3, "echo": true, "stream": true}}"#);
    let wrong = format!(r#"{{"prompt": "{secret}", "stop": "{secret}", "temperature": "{secret}"}}"#);
    let key = "authorization: Bearer key-of-mine\r\nx-request-id: mine-7\r\n";
    for style in ["json", "text"] {
        let flags = ["--port", "0", "--api-key", "key-of-mine", "--log-requests", style, model];
        let server = Serving::start(&flags);
        let ask = |path: &str, headers: &str, body: &str| server.ask("POST", path, headers, body);
        let answers = [
            ask("/v1/chat/completions", key, &chat),
            ask("/v1/completions", key, &text),
            ask("/v1/completions", key, &wrong),
            ask(&format!("/{secret}"), key, "{}"),
            ask("/v1/completions", &format!("x-api-key: {secret}\r\n"), &chat),
        ];
        assert_eq!(answers.each_ref().map(|answer| answer.status), [200, 200, 400, 404, 401]);
        let ids = answers.map(|answer| {
            let line = answer.head.lines().find_map(|line| line.strip_prefix("x-request-id: ").map(str::to_owned));
            line.unwrap_or_else(|| panic!("no id in {}", answer.head))
        });
        let (code, log) = server.terminate();
        assert_eq!(code, Some(0));
        for id in &ids {
            assert_eq!(log.matches(id.as_str()).count(), 1, "{id} in {log}");
        }
        // The caller's own label stands beside the id, in JSON.
        let label = if style == "json" { 4 } else { 0 };
        assert_eq!(log.matches("mine-7").count(), label, "{log}");
        assert!(!log.contains("key-of-mine") && !log.contains(secret), "{log}");
    }
}

#[test]
fn a_log_without_a_reader_tears_no_answer() {
    let folder = scratch();
    let model = with_words(&golden("llama"), &folder.path().join("m"));
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = command(&["--port", "0", "--log-requests", "json", model.to_str().unwrap()]);
    let server = Serving::of(command.stderr(writer));
    // Behind the line that says that it is ready.
    let mut line = String::new();
    let mut reader = std::io::BufReader::new(reader);
    while !line.contains("ready in") {
        line.clear();
        std::io::BufRead::read_line(&mut reader, &mut line).unwrap();
    }
    drop(reader);
    for stream in [false, true] {
        let ask = format!(r#"{{"prompt": "x", "max_tokens": 3, "ignore_eos": true, "stream": {stream}}}"#);
        let answer = server.ask("POST", "/v1/completions", "", &ask);
        assert_eq!(answer.status, 200, "{}", answer.body);
        // A stream that is torn lacks its last chunk.
        assert!(!stream || answer.body.ends_with("0\r\n\r\n"), "{}", answer.body);
    }
}
