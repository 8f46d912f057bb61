//! Stopping: who is inside may end, who comes later is told, and no stream is cut without a word.
use crate::client::{begin, read};
use crate::setting::*;
use planish_serve::Options;
use serde_json::{Value, json};
use std::net::TcpStream;
use std::time::Duration;

fn ask(server: &Server, stream: bool) -> TcpStream {
    let body = json!({"messages": hello(), "max_tokens": 100, "ignore_eos": true, "stream": stream});
    begin(&server.address, "POST", "/v1/chat/completions", &[], body.to_string().as_bytes())
}

#[test]
fn who_is_inside_may_end() {
    let (server, gate) = gated(Options::default());
    let mut inside = [ask(&server, true), ask(&server, false)];
    until("both are inside", || server.metric("planish_http_requests_inside") == 2.0);
    // A connection that was open before, and asks after.
    let idle = TcpStream::connect(&server.address).unwrap();
    server.service.stop(false);
    let address = server.address.clone();
    until("the door closes", || TcpStream::connect(&address).is_err());
    drop(gate);
    let [streaming, whole] = &mut inside;
    assert!(read(streaming).events().len() > 2);
    assert_eq!(read(whole).ok()["usage"]["completion_tokens"], 100);
    server.service.wait().unwrap();
    drop(idle);
}

#[test]
fn who_takes_too_long_is_told() {
    let (server, gate) = gated(Options { drain_time: Duration::from_millis(200), ..Options::default() });
    let mut inside = [ask(&server, true), ask(&server, false)];
    gate.send(()).unwrap();
    until("both are inside", || server.metric("planish_http_requests_inside") == 2.0);
    server.service.stop(false);
    // The engine hears of the end between two steps, and these are so slow that no answer can be complete before.
    let words = std::thread::spawn(move || {
        while gate.send(()).is_ok() {
            std::thread::sleep(Duration::from_millis(200));
        }
    });
    let [streaming, whole] = &mut inside;
    let streamed = read(streaming);
    assert_eq!(streamed.status, 200);
    let last = streamed.text().trim().rsplit("\n\n").next().unwrap().to_owned();
    let error: Value = serde_json::from_str(last.strip_prefix("data: ").unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "unavailable", "{error}");
    let whole = read(whole);
    whole.error(503);
    assert!(whole.header("retry-after").is_some());
    server.service.wait().unwrap();
    // The last handle of the engine is gone, and with it the gate.
    words.join().unwrap();
}

#[test]
fn who_waits_for_a_long_step_is_told_too() {
    let (server, gate) = gated(Options { drain_time: Duration::from_millis(200), ..Options::default() });
    let mut inside = [ask(&server, true), ask(&server, false)];
    until("both are inside", || server.metric("planish_http_requests_inside") == 2.0);
    server.service.stop(false);
    // The engine is within a step that does not end before its callers have heard.
    let [streaming, whole] = &mut inside;
    assert!(read(streaming).text().contains("\"unavailable\""));
    read(whole).error(503);
    drop(gate);
    server.service.wait().unwrap();
}

#[test]
fn a_server_without_models_says_that_it_loads() {
    let server = start_empty();
    assert_eq!(server.get("/health").status, 200);
    for path in ["/ready", "/v1/models", "/tokenizer_info"] {
        let answer = server.get(path);
        answer.error(503);
        assert!(answer.header("retry-after").is_some());
    }
    server.chat(json!({})).error(503);
    server.post("/tokenize", &json!({"prompt": "x"})).error(503);
    server.service.install(vec![served(NAME, engine())]);
    assert_eq!(server.get("/ready").status, 200);
    server.chat(json!({})).ok();
}

fn start_empty() -> Server {
    let address = planish_serve::Address::Tcp("127.0.0.1".into(), 0);
    let service = planish_serve::Service::start(Options::default(), &address, None, false).unwrap();
    let address = service.address().to_owned();
    Server { service, address }
}
