//! `planish client` through the real program, against servers that are good, slow, broken, busy or gone.
mod program;
mod server;

use program::{Output, Program, scratch};
use serde_json::json;
use server::{END, Server, Step, event, good, part, reply, send, stream_head, wait};
use std::io::{Read, Write};
use std::process::{Command, Stdio};

/// `planish client` with a model and no pauses.
fn client(server: &Server) -> Program {
    Program::new("client --model m --retry-delay 0.01").arg(&server.address)
}

fn ask(server: &Server, input: &str) -> Output {
    client(server).input(input).run()
}

/// An answer whose stream ends in this way.
fn streamed(ending: &str) -> Vec<Step> {
    vec![stream_head(), send(part("Hel") + &part("lo") + ending)]
}

#[test]
fn an_answer_is_streamed_however_it_is_cut() {
    let whole = format!(": hi\n\n{}{}{END}", part("Grüße, 日本 "), part("🦀\nend"));
    let expected = "Grüße, 日本 🦀\nend\n";
    // Three bytes at a time, as they are and in chunks of HTTP: every character is cut somewhere.
    let pieces: Vec<Step> = whole.as_bytes().chunks(3).map(send).collect();
    let mut chunked =
        vec![send("HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")];
    chunked.extend(
        whole
            .as_bytes()
            .chunks(5)
            .map(|bytes| send([format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat())),
    );
    chunked.push(send("0\r\n\r\n"));
    let cut = [stream_head()].into_iter().chain(pieces).collect();
    let crlf = vec![stream_head(), send(whole.replace('\n', "\r\n"))];
    let server = Server::start(vec![cut, chunked, crlf]);
    assert_eq!(ask(&server, "a\nb\nc\n").ok().stdout, expected.repeat(3));
    assert_eq!(server.asked()[0].line, "POST /v1/chat/completions HTTP/1.1");
}

#[test]
fn text_appears_before_the_answer_ends() {
    let (waits, go) = wait();
    let server = Server::start(vec![vec![stream_head(), send(part("first")), waits, send(part(" last") + END)]]);
    let mut child = Command::new(env!("CARGO_BIN_EXE_planish"));
    child.args(["client", &format!("http://{}/v1/", server.address), "--model", "m"]);
    let mut child = child.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"Hi\n").unwrap();
    let (mut stdout, mut start) = (child.stdout.take().unwrap(), [0; 5]);
    stdout.read_exact(&mut start).unwrap();
    assert_eq!(&start, b"first");
    go.send(()).unwrap();
    let mut rest = String::new();
    stdout.read_to_string(&mut rest).unwrap();
    assert_eq!(rest, " last\n");
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.success() && stderr.contains("(4 tokens, ") && stderr.contains("tokens/s"), "{stderr}");
    assert_eq!(server.asked()[0].line, "POST /v1/chat/completions HTTP/1.1");
}

#[test]
fn a_conversation_is_remembered_changed_saved_and_loaded() {
    let dir = scratch();
    let file = dir.path().join("talk.json");
    let server = Server::start((1..=6).map(|i| good(&format!("answer {i}"))).collect());
    let input = format!(
        "one\n/temp 0.7\n/system Be kind.\ntwo\\\nlines\n\"\"\"three\n\n/clear\"\"\"\n/save {0}\n/clear\n\nfour\n/load {0}\nfive\n/exit\nsix\n",
        file.display()
    );
    let output = client(&server).words("--max-tokens 9 --seed 3 --top-p 0.9 --stop END").input(&input).run().ok();
    assert_eq!(output.stdout, (1..=5).map(|i| format!("answer {i}\n")).collect::<String>());
    let pairs = |list: &[(&str, &str)]| list.iter().map(|&(r, c)| (r.to_owned(), c.to_owned())).collect::<Vec<_>>();
    let start = [("system", "Be kind."), ("user", "one"), ("assistant", "answer 1"), ("user", "two\nlines")];
    let third = [("assistant", "answer 2"), ("user", "three\n\n/clear")];
    assert_eq!(server.messages(0), pairs(&[("user", "one")]));
    assert_eq!(server.messages(1), pairs(&start));
    assert_eq!(server.messages(2), pairs(&[&start[..], &third].concat()));
    assert_eq!(server.messages(3), pairs(&[("system", "Be kind."), ("user", "four")]));
    let fifth = [("assistant", "answer 3"), ("user", "five")];
    assert_eq!(server.messages(4), pairs(&[&start[..], &third, &fifth].concat()));
    let asked = server.asked();
    assert_eq!(asked.len(), 5);
    assert!(asked[0].body.get("temperature").is_none());
    let body = &asked[4].body;
    assert_eq!((&body["temperature"], &body["top_p"], &body["max_tokens"]), (&json!(0.7), &json!(0.9), &json!(9)));
    assert_eq!((&body["seed"], &body["stop"], &body["stream"]), (&json!(3), &json!(["END"]), &json!(true)));
    let again = client(&server).arg("--load").arg(&file).input("six\n").run().ok();
    assert_eq!((again.stdout.as_str(), server.messages(5).len()), ("answer 6\n", 8));
}

#[test]
fn the_last_question_is_taken_back_or_asked_again() {
    let server = Server::start((1..=4).map(|i| good(&format!("answer {i}"))).collect());
    let output = client(&server).input("one\ntwo\n/undo\nthree\n/again\n").run().ok();
    assert_eq!(output.stdout, (1..=4).map(|i| format!("answer {i}\n")).collect::<String>());
    let pairs = |list: &[(&str, &str)]| list.iter().map(|&(r, c)| (r.to_owned(), c.to_owned())).collect::<Vec<_>>();
    let expected = pairs(&[("user", "one"), ("assistant", "answer 1"), ("user", "three")]);
    assert_eq!((server.messages(2), server.messages(3)), (expected.clone(), expected));
    for command in ["/undo", "/again"] {
        client(&server).input(&format!("{command}\n")).run().fails(&[command, "expected a question"]);
    }
}

#[test]
fn commands_say_what_is_wrong() {
    let dir = scratch();
    let other = dir.path().join("notes.txt");
    std::fs::write(&other, "mine").unwrap();
    let server = Server::start(vec![]);
    for (input, pieces) in [
        ("/nothing\n".to_owned(), ["/nothing", "/help"]),
        ("/temp warm\n".to_owned(), ["/temp", "\"warm\""]),
        (format!("/save {}\n", other.display()), ["notes.txt", "another file"]),
        (format!("/load {}\n", other.display()), ["notes.txt", "JSON"]),
        ("/load no/such\n".to_owned(), ["no/such", "No such file"]),
    ] {
        ask(&server, &input).fails(&pieces);
    }
    assert_eq!(std::fs::read(&other).unwrap(), b"mine");
    let help = ask(&server, "/help\n/system\n/temp\n").ok();
    assert!(
        help.stdout.is_empty() && ["/save", "system: none", "temperature: "].iter().all(|w| help.stderr.contains(w))
    );
    assert!(server.asked().is_empty());
}

#[test]
fn errors_of_the_server_are_shown_in_its_words() {
    let openai =
        r#"{"error": {"message": "Incorrect API key", "type": "invalid_request_error", "param": null, "code": "x"}}"#;
    for (status, kind, body, pieces) in [
        ("401 Unauthorized", "application/json", openai, ["401", "Incorrect API key"]),
        ("404 Not Found", "application/json", r#"{"detail": "no route"}"#, ["404", "no route"]),
        ("500 Oops", "text/html", "<h1>dead</h1>", ["500", "<h1>dead</h1>"]),
        ("200 OK", "text/html", "<h1>login</h1>", ["text/html", "<h1>login</h1>"]),
        ("200 OK", "application/json", openai, ["the server failed", "Incorrect API key"]),
    ] {
        let server = Server::start(vec![reply(status, kind, "", body), good("too late")]);
        let output = ask(&server, "Hi\n");
        assert_eq!(output.stdout, "");
        output.fails(&pieces);
        assert_eq!(server.asked().len(), 1, "{status} is final");
    }
}

#[test]
fn an_answer_that_breaks_off_is_a_failure() {
    let error = event(r#"{"error": {"message": "engine died", "type": "server_error", "param": null, "code": null}}"#);
    for (ending, piece) in [
        ("", "expected the rest of the answer"),
        ("data: {\"choi", "expected the rest of an event"),
        (error.as_str(), "engine died"),
        ("data: {\"choices\": [\n\n", "expected JSON"),
    ] {
        let server = Server::start(vec![streamed(ending), good("again")]);
        let output = ask(&server, "Hi\n");
        assert_eq!(output.stdout, "Hello\n");
        output.fails(&[piece]);
        assert_eq!(server.asked().len(), 1, "what was shown is not asked again");
    }
    let server = Server::start(vec![vec![stream_head(), send(": hi\n\n")]]);
    client(&server).words("--retries 0").input("Hi\n").run().fails(&["expected an answer"]);
    let cut = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n9\r\ndata";
    let server = Server::start(vec![vec![send(cut)]]);
    client(&server).words("--retries 0").input("Hi\n").run().fails(&["broke off"]);
}

#[test]
fn a_server_that_is_gone_or_busy_is_asked_again() {
    let busy =
        |more| reply("503 Service Unavailable", "application/json", more, r#"{"error": {"message": "loading"}}"#);
    let full =
        reply("429 Too Many Requests", "application/json", "retry-after: 0\r\n", r#"{"error": {"message": "full"}}"#);
    let greeting = event(r#"{"choices": [{"delta": {"role": "assistant", "content": ""}}]}"#);
    let greeted = vec![stream_head(), send(greeting + ": still here\n\n")];
    let server = Server::start(vec![vec![], full, busy(""), vec![stream_head()], greeted, good("at last")]);
    let output = ask(&server, "Hi\n").ok();
    assert_eq!((output.stdout.as_str(), server.asked().len()), ("at last\n", 6));
    let server = Server::start((0..9).map(|_| busy("")).collect());
    client(&server).words("--retries 2").input("Hi\n").run().fails(&["503", "loading"]);
    assert_eq!(server.asked().len(), 3);
    // Nobody listens there any more.
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let gone = Program::new("client --model m --retries 1 --retry-delay 0.01").arg(closed.to_string());
    gone.input("Hi\n").run().fails(&["not reached", &closed.to_string()]);
}

#[test]
fn the_model_is_the_server_s_first() {
    let list = r#"{"object": "list", "data": [{"id": "tiny"}, {"id": "other"}]}"#;
    let server = Server::start(vec![reply("200 OK", "application/json", "", list), good("yes"), good("more")]);
    let program = Program::new("client").arg(format!("http://{}", server.address));
    assert_eq!(program.input("Hi\nand\n").run().ok().stdout, "yes\nmore\n");
    let asked = server.asked();
    assert_eq!((asked[0].line.as_str(), &asked[2].body["model"]), ("GET /v1/models HTTP/1.1", &json!("tiny")));
    let server = Server::start(vec![reply("200 OK", "application/json", "", r#"{"data": []}"#)]);
    Program::new("client")
        .arg(&server.address)
        .input("Hi\n")
        .run()
        .fails(&["/v1/models", "expected a list with a model"]);
    let server = Server::start(vec![reply("200 OK", "text/html", "", "<html>")]);
    Program::new("client").arg(&server.address).input("Hi\n").run().fails(&["/v1/models", "expected JSON", "<html>"]);
}

#[test]
fn the_key_is_sent_and_never_shown() {
    let sent = |server: &Server| server.asked()[0].headers.iter().find(|h| h.starts_with("authorization")).cloned();
    let refused = || reply("401 Unauthorized", "application/json", "", "{}");
    let server = Server::start(vec![refused()]);
    let line = client(&server).words("--api-key SECRET-1").input("Hi\n").run().fails(&["401"]);
    assert!(!line.contains("SECRET"), "{line}");
    assert_eq!(sent(&server).unwrap(), "authorization: bearer secret-1");
    for (variables, key) in [
        (&[("OPENAI_API_KEY", "b")][..], Some("authorization: bearer b")),
        (&[("OPENAI_API_KEY", "b"), ("PLANISH_API_KEY", "a")], Some("authorization: bearer a")),
        (&[("OPENAI_API_KEY", "")], None),
    ] {
        let server = Server::start(vec![good("ok")]);
        let mut command = Command::new(env!("CARGO_BIN_EXE_planish"));
        command.args(["client", "--model", "m", &server.address]).env_remove("OPENAI_API_KEY");
        command.env_remove("PLANISH_API_KEY").envs(variables.iter().copied()).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(b"Hi\n").unwrap();
        assert!(child.wait_with_output().unwrap().status.success());
        assert_eq!(sent(&server).as_deref(), key);
    }
    client(&Server::start(vec![])).arg("--api-key").arg("a\nb").run().fails(&["--api-key", "ASCII"]);
}

#[test]
fn whole_answers_and_old_servers_will_do() {
    let whole =
        r#"{"choices": [{"message": {"role": "assistant", "content": "all at once"}, "finish_reason": "stop"}]}"#;
    let server = Server::start(vec![reply("200 OK", "application/json", "", whole)]);
    assert_eq!(ask(&server, "Hi\n").ok().stdout, "all at once\n");
    let old = r#"{"error": {"message": "Unknown field: stream_options"}}"#;
    let server = Server::start(vec![reply("400 Bad Request", "application/json", "", old), good("one"), good("two")]);
    assert_eq!(ask(&server, "Hi\nHo\n").ok().stdout, "one\ntwo\n");
    let counts: Vec<bool> = server.asked().iter().map(|asked| asked.body.get("stream_options").is_some()).collect();
    assert_eq!(counts, [true, false, false]);
}

#[test]
fn markdown_is_for_terminals() {
    let text = "**bold** \u{1b}[31m\n";
    let thought = event(r#"{"choices": [{"delta": {"reasoning_content": "hm"}}]}"#);
    let answer = || vec![stream_head(), send(thought.clone() + &part(text) + END)];
    let server = Server::start(vec![answer(), answer()]);
    assert_eq!(ask(&server, "Hi\n").ok().stdout, format!("{text}\n"), "a pipe gets the text as it is");
    let output = client(&server).words("--markdown always").input("Hi\n").run().ok();
    assert_eq!(output.stdout, "\u{1b}[2mhm\u{1b}[0m\n\n\u{1b}[0m\u{1b}[1mbold\u{1b}[0m [31m\n\n");
}

#[test]
fn wrong_flags_are_named() {
    for (flags, piece) in [
        ("client ftp://host", "URL: expected an http or https address"),
        ("client host --temperature -1", "--temperature: expected a number from 0 up, found -1"),
        ("client host --timeout -1", "--timeout: expected seconds"),
        ("client host --retry-delay inf", "--retry-delay: expected seconds"),
        ("client host --load no/such.json", "no/such.json"),
    ] {
        Program::new(flags).run().fails(&[piece]);
    }
}
