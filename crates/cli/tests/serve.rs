//! `planish serve` as a user starts and stops it: flags, the file of flags, keys, several models, signals.
mod program;

use program::{Program, copy_of, golden, scratch, with_words};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A server that tells where it is once it is ready.
struct Server {
    child: Child,
    ready: Value,
}

fn start(args: &[&str], models: &[&Path]) -> Server {
    let mut command = Command::new(env!("CARGO_BIN_EXE_planish"));
    command.args(["serve", "--json", "--device", "cpu", "--threads", "1", "--log-level", "error"]);
    command.args(models).args(args).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut reader = BufReader::new(child.stdout.take().unwrap());
    let mut text = String::new();
    while reader.read_line(&mut text).unwrap() > 0 && !text.ends_with("}\n") {}
    let ready = serde_json::from_str(&text).unwrap_or_else(|e| {
        let mut said = String::new();
        child.stderr.take().unwrap().read_to_string(&mut said).unwrap();
        panic!("{e}: {text} {said}")
    });
    Server { child, ready }
}

impl Server {
    fn address(&self) -> &str {
        self.ready["url"].as_str().unwrap().strip_prefix("http://").unwrap()
    }

    /// Status and body.
    fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> (u16, String) {
        let mut socket = TcpStream::connect(self.address()).unwrap();
        let length = body.len();
        write!(
            socket,
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\ncontent-type: application/json\r\n\
             {headers}content-length: {length}\r\n\r\n{body}"
        )
        .unwrap();
        let mut text = String::new();
        socket.read_to_string(&mut text).unwrap();
        let status = text.split(' ').nth(1).unwrap().parse().unwrap();
        (status, text.split_once("\r\n\r\n").unwrap().1.to_owned())
    }

    /// Asks it to stop as a supervisor does; its exit code.
    fn terminate(mut self) -> Option<i32> {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_server_starts_answers_and_stops() {
    let folder = scratch();
    let model = with_words(&golden("w8a8_rtn"), &folder.path().join("tiny-int8"));
    let server = start(&["--port", "0"], &[&model]);
    assert_eq!(server.ready["models"][0], "tiny-int8", "a folder's name, not its path");
    assert_eq!(server.ask("GET", "/ready", "", "").0, 200);
    let ask = r#"{"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "ignore_eos": true}"#;
    let (status, body) = server.ask("POST", "/v1/chat/completions", "", ask);
    let answer: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status, &answer["usage"]["completion_tokens"]), (200, &4.into()), "{body}");
    assert_eq!(server.ask("GET", "/tokenizer_info", "", "").0, 200);
    assert_eq!(server.terminate(), Some(0));
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
    assert_eq!(server.ask("GET", "/v1/models", "", "").0, 401);
    let (status, list) = server.ask("GET", "/v1/models", "authorization: Bearer secret\r\n", "");
    assert!(status == 200 && list.contains("\"one\"") && list.contains("\"two\""), "{list}");
    let ask = r#"{"model": "two", "prompt": "x", "max_tokens": 2}"#;
    assert_eq!(server.ask("POST", "/v1/completions", "x-api-key: secret\r\n", ask).0, 200);
    assert_eq!(server.terminate(), Some(0));
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
