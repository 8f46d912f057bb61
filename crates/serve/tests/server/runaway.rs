//! A chat template that runs away, in time or in size, costs its own request and no other.
use crate::client;
use crate::setting::*;
use planish_serve::{Options, Served};
use planish_text::ChatTemplate;
use serde_json::json;
use std::io::Read;
use std::thread;

/// Templates of models, and what their callers are told.
const RUNAWAYS: [(&str, &str, &str); 6] = [
    (
        "loops",
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "exceeds its limit: number of steps",
    ),
    (
        "grows",
        "{% for i in range(99999) %}{{ 'A' * 9999 }}{% endfor %}",
        "exceeds its limit: 268435456 bytes of values",
    ),
    (
        "doubles",
        "{% set ns = namespace(x='A') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "exceeds its limit: 16777216 bytes of a text",
    ),
    ("repeats", "{{ messages[0].content * 99999999 }}", "exceeds its limit: 16777216 bytes of a text"),
    ("recurses", "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}", "recursion"),
    // Within the template's own limits, but far more than the model can read: refused before it is encoded.
    ("babbles", "{{ 'A' * 999999 }}", "bytes of text cannot fit"),
];

fn runaway(name: &str, source: &str) -> Served {
    let chat = ChatTemplate::new(source, [("eos_token", "x")]).unwrap();
    Served { chat: Some(chat), template: source.into(), ..served(name, engine()) }
}

#[test]
fn a_template_that_runs_away_is_cut_off_while_others_go_on() {
    let (slow, gate) = gated_engine();
    let mut models = vec![served(NAME, engine()), served("slow", slow)];
    models.extend(RUNAWAYS.map(|(name, source, _)| runaway(name, source)));
    let server = start(Options::default(), models);
    let alone = server.chat(json!({"max_tokens": 20})).ok();

    // A stream under way: it has begun, and its end waits for the gate.
    let body = json!({"model": "slow", "messages": hello(), "max_tokens": 20, "temperature": 0, "stream": true, "ignore_eos": true});
    let mut stream = client::begin(&server.address, "POST", "/v1/chat/completions", &[], body.to_string().as_bytes());
    gate.send(()).unwrap();
    stream.read_exact(&mut [0]).unwrap();

    let mut answered = 0;
    thread::scope(|scope| {
        let ask = |(name, _, expected): (&'static str, &str, &'static str)| {
            let server = &server;
            scope.spawn(move || {
                for stream in [false, true] {
                    let error = server.chat(json!({"model": name, "stream": stream})).error(400);
                    assert!(error["message"].as_str().unwrap().contains(expected), "{name}: {error}");
                    assert_eq!(
                        (&error["param"], &error["type"]),
                        (&json!("messages"), &json!("invalid_request_error"))
                    );
                }
            })
        };
        let asking = RUNAWAYS.map(ask);
        while asking.iter().any(|one| !one.is_finished()) {
            let among = server.chat(json!({"max_tokens": 20})).ok();
            assert_eq!(among["choices"], alone["choices"]);
            assert_eq!(server.get("/health").status, 200);
            gate.send(()).unwrap();
            answered += 1;
        }
    });
    assert!(answered > 0, "somebody was answered meanwhile");

    // Every seat of the desk is free again, and the stream comes to its end.
    for _ in 0..16 {
        assert_eq!(server.chat(json!({"max_tokens": 20})).ok()["choices"], alone["choices"]);
    }
    drop(gate);
    let mut rest = String::new();
    stream.read_to_string(&mut rest).unwrap();
    assert!(rest.contains("\"finish_reason\":\"length\"") && rest.contains("data: [DONE]"), "{rest}");
}
