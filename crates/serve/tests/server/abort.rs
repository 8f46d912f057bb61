//! Callers that go away in every phase, and callers that read slowly: pages come back, others go on.
use crate::client::{begin, read};
use crate::setting::*;
use planish_engine::EngineOptions;
use planish_serve::{Address, Options, Service};
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::Duration;

fn ask(server: &Server, more: Value) -> TcpStream {
    let body = with(json!({"messages": hello(), "max_tokens": 200, "ignore_eos": true}), more);
    begin(&server.address, "POST", "/v1/chat/completions", &[], body.to_string().as_bytes())
}

/// Streaming or not, one answer or four.
fn kinds() -> [Value; 4] {
    [json!({}), json!({"stream": true}), json!({"n": 4}), json!({"n": 4, "stream": true})]
}

#[test]
fn pages_come_back_when_a_caller_leaves_while_its_answer_is_made() {
    let (server, gate) = gated(Options::default());
    for kind in kinds() {
        let socket = ask(&server, kind);
        // Some steps, so that it is in the middle.
        for _ in 0..4 {
            gate.send(()).unwrap();
        }
        until("it runs", || server.metric("planish_generated_tokens_total") > 0.0);
        drop(socket);
        // The engine stands still meanwhile: the server must notice by itself.
        until("its place is free", || server.metric("planish_http_requests_inside") == 0.0);
        // The engine waits for a word: it hears of the end before its next step but one.
        for _ in 0..2 {
            gate.send(()).unwrap();
        }
        server.at_rest();
    }
    assert_eq!(server.metric("planish_requests_running"), 0.0);
}

#[test]
fn a_caller_that_sent_more_than_its_request_is_seen_to_leave() {
    let (server, gate) = gated(Options::default());
    let body = json!({"messages": hello(), "max_tokens": 50, "ignore_eos": true}).to_string();
    let length = body.len().to_string();
    for (number, more) in
        ["\r\n".to_owned(), "GET /health HTTP/1.1\r\n\r\n".to_owned(), "x".repeat(30_000)].iter().enumerate()
    {
        let all = format!("{body}{more}");
        let mut socket = TcpStream::connect(&server.address).unwrap();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n"
        );
        socket.write_all(head.as_bytes()).unwrap();
        let _ = socket.write_all(all.as_bytes());
        until("it is inside", || server.metric("planish_http_requests_inside") == 1.0);
        // One closes its own half alone: it has left like the others.
        match number {
            0 => socket.shutdown(std::net::Shutdown::Write).unwrap(),
            _ => drop(socket),
        }
        until("its place is free", || server.metric("planish_http_requests_inside") == 0.0);
    }
    drop(gate);
    server.at_rest();
}

/// A connection on which a part of a request is still to come could not take the next one.
#[test]
fn a_refusal_waits_for_the_rest_of_its_request() {
    let server = server();
    for path in ["/v1/embeddings", "/no/such/path", "/health", "/v1/chat/completions"] {
        let mut socket = TcpStream::connect(&server.address).unwrap();
        let head = format!("POST {path} HTTP/1.1\r\nhost: localhost\r\ncontent-length: 2\r\n\r\n");
        socket.write_all(head.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        let _ = socket.write_all(b"{}GET /health HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
        let mut text = String::new();
        let _ = socket.read_to_string(&mut text);
        assert!(text.starts_with("HTTP/1.1 4") && text.contains("HTTP/1.1 200 OK"), "{path}: {text}");
    }
}

#[test]
fn a_caller_may_leave_while_it_waits_in_line() {
    let (server, gate) = gated(Options::default());
    let first = ask(&server, json!({"stream": true}));
    let others: Vec<TcpStream> = kinds().into_iter().map(|kind| ask(&server, kind)).collect();
    until("all are inside", || server.metric("planish_http_requests_inside") == 5.0);
    drop(others);
    until("they have left", || server.metric("planish_http_requests_inside") == 1.0);
    drop(gate);
    let mut first = first;
    assert!(read(&mut first).events().len() > 2);
    server.at_rest();
}

#[test]
fn many_leave_at_any_moment() {
    let server = server();
    let sockets: Vec<TcpStream> = (0..48).map(|i| ask(&server, kinds()[i % 4].clone())).collect();
    for (i, mut socket) in sockets.into_iter().enumerate() {
        // Some at once, some after a piece of the answer.
        if i % 3 == 0 && i % 2 == 1 {
            let _ = socket.read(&mut [0; 200]);
        }
    }
    server.at_rest();
    server.chat(json!({})).ok();
}

#[test]
fn more_than_fit_are_turned_away_at_once() {
    let (server, gate) = gated(Options { max_requests: 2, ..Options::default() });
    let mut inside = [ask(&server, json!({})), ask(&server, json!({"stream": true}))];
    until("both are inside", || server.metric("planish_http_requests_inside") == 2.0);
    for _ in 0..5 {
        let answer = read(&mut ask(&server, json!({"messages": [{"role": "user", "content": "x".repeat(100_000)}]})));
        assert_eq!(answer.error(429)["type"], "rate_limit_error");
        assert!(answer.header("retry-after").unwrap().parse::<u64>().unwrap() >= 1);
    }
    // What needs no place is answered.
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.metric("planish_http_turned_away_total"), 5.0);
    drop(gate);
    inside.iter_mut().for_each(|socket| assert_eq!(read(socket).status, 200));
    server.at_rest();
    read(&mut ask(&server, json!({}))).ok();
}

#[test]
fn a_smaller_priority_number_goes_first() {
    let options = EngineOptions { max_batch: Some(1), ..engine_options() };
    let (handle, gate) = gated_engine_with(&options);
    let server = start(Options::default(), vec![served(NAME, handle)]);
    // Opens before the server ends, also where a check fails.
    let gate = gate;
    // Short enough that nobody waits for so many steps that priorities count no more.
    let mut first = ask(&server, json!({"max_tokens": 150}));
    until("the first runs", || {
        gate.send(()).unwrap();
        server.metric("planish_requests_running") == 1.0
    });
    let _last = ask(&server, json!({"priority": 5, "max_tokens": 600}));
    let mut urgent = ask(&server, json!({"priority": -5, "max_tokens": 3}));
    // The engine tells its numbers after each step.
    until("the engine knows the others", || {
        gate.send(()).unwrap();
        std::thread::sleep(Duration::from_millis(50));
        server.metric("planish_requests_accepted_total") == 3.0
    });
    // Enough steps for the first and the urgent one, not for the one that came between.
    (0..170).for_each(|_| gate.send(()).unwrap());
    assert_eq!(read(&mut urgent).ok()["usage"]["completion_tokens"], 3);
    assert_eq!(read(&mut first).ok()["usage"]["completion_tokens"], 150);
    drop(gate);
}

#[test]
fn an_answer_that_takes_too_long_is_an_error() {
    let (server, gate) = gated(Options { request_time: Duration::from_millis(200), ..Options::default() });
    let late = read(&mut ask(&server, json!({})));
    assert_eq!(late.error(504)["code"], "timeout");
    assert_eq!(late.header("x-should-retry"), Some("false"));
    let streamed = read(&mut ask(&server, json!({"stream": true})));
    assert_eq!(streamed.status, 200);
    let error: Value = serde_json::from_str(streamed.text().trim().strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "timeout");
    assert!(!streamed.text().contains("[DONE]"));
    drop(gate);
    server.at_rest();
}

#[test]
fn time_is_up_also_where_there_is_always_more_to_tell() {
    // A Unix socket holds little: the whole answer waits in the server, made in time and not told.
    let path = std::env::temp_dir().join(format!("planish-late-{}.sock", std::process::id()));
    let limit = Duration::from_secs(2);
    let options = Options { backlog: 64 << 20, request_time: limit, ..Options::default() };
    let service = Service::start(options, &Address::Unix(path.clone()), None, false).unwrap();
    service.install(vec![served(NAME, engine())]);
    let ask = json!({"messages": hello(), "max_tokens": 700, "ignore_eos": true, "stream": true, "logprobs": true,
        "top_logprobs": 20});
    let mut silent = unix(&service, "POST", "/v1/chat/completions", &ask.to_string());
    until("the answer is made", || unix_metric(&service, "vllm:generation_tokens_total{") == 700.0);
    // Its time began before it was made.
    std::thread::sleep(limit);
    let mut told = String::new();
    silent.read_to_string(&mut told).unwrap();
    assert!(told.contains("\"timeout\"") && !told.contains("[DONE]"), "{}", &told[told.len() - 400..]);
}

#[test]
fn silence_is_filled_with_comments() {
    let (server, gate) = gated(Options { keep_alive: Duration::from_millis(50), ..Options::default() });
    let mut socket = ask(&server, json!({"stream": true, "max_tokens": 2}));
    let mut seen = String::new();
    while seen.matches(": keep-alive\n\n").count() < 2 {
        let mut bytes = [0; 512];
        let count = socket.read(&mut bytes).unwrap();
        seen += std::str::from_utf8(&bytes[..count]).unwrap();
    }
    drop(gate);
    let mut rest = String::new();
    socket.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("[DONE]"), "{rest}");
}

/// A request over a Unix socket.
fn unix(service: &Service, method: &str, path: &str, body: &str) -> UnixStream {
    let mut socket = UnixStream::connect(service.address()).unwrap();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n");
    let length = body.len();
    let text = format!("{head}content-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}");
    socket.write_all(text.as_bytes()).unwrap();
    socket
}

/// The first metric whose line begins so.
fn unix_metric(service: &Service, name: &str) -> f64 {
    let mut page = String::new();
    unix(service, "GET", "/metrics", "").read_to_string(&mut page).unwrap();
    let found = page.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
    found.rsplit(' ').next().unwrap().parse().unwrap()
}

#[test]
fn who_never_reads_is_given_up_and_costs_nothing_more() {
    // A Unix socket holds little, so that the rest waits in the server.
    let path = std::env::temp_dir().join(format!("planish-backlog-{}.sock", std::process::id()));
    let options = Options { backlog: 64 << 10, ..Options::default() };
    let service = Service::start(options, &Address::Unix(path.clone()), None, false).unwrap();
    service.install(vec![served(NAME, engine())]);
    let body = json!({"messages": hello(), "max_tokens": 700, "ignore_eos": true, "stream": true, "logprobs": true,
        "top_logprobs": 20});
    let mut silent = unix(&service, "POST", "/v1/chat/completions", &body.to_string());
    until("its pages are back although nothing was read", || {
        let value = |name: &str| unix_metric(&service, name);
        let pages = value("planish_pages_free{") + value("planish_pages_cached{");
        value("planish_requests_accepted_total{") == 1.0
            && value("planish_requests_running{") == 0.0
            && pages == PAGES as f64
    });
    let mut told = String::new();
    silent.read_to_string(&mut told).unwrap();
    assert!(
        told.contains("the answer was not read in time") && !told.contains("[DONE]"),
        "{}",
        &told[told.len() - 400..]
    );
}
