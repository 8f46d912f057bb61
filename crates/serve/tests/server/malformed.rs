//! Requests that are wrong in every way that comes to mind: each gets a 4xx in OpenAI's shape, at once.
use crate::client::{begin, read, send};
use crate::setting::*;
use planish_serve::Options;
use serde_json::{Value, json};
use std::io::Write;
use std::time::Duration;

#[test]
fn every_path_and_method_answers_in_one_shape() {
    let server = server();
    server.get("/nothing").error(404);
    server.get("/v1/chat/completions").error(405);
    send(&server.address, "DELETE", "/v1/models", &[], b"").error(405);
    server.post("/nothing", &json!({})).error(404);
    assert_eq!(server.get("/v1/models/%ff").error(400)["param"], "model");
    let headers = vec![("x", "y"); 150];
    send(&server.address, "GET", "/health", &headers, b"").error(431);
    send(&server.address, "GET", "/health", &headers[..90], b"").ok();
    assert_eq!(server.post("/v1/embeddings", &json!({"input": "x"})).error(400)["code"], "unsupported_endpoint");
}

#[test]
fn bodies_are_json_within_limits() {
    let options = Options { max_body: 4096, ..Options::default() };
    let server = start(options, vec![served(NAME, engine())]);
    let post =
        |headers: &[(&str, &str)], body: &[u8]| send(&server.address, "POST", "/v1/chat/completions", headers, body);
    post(&[("content-type", "text/plain")], b"{}").error(415);
    post(&[("content-type", "")], b"{}").error(415);
    post(&[("content-encoding", "gzip")], b"{}").error(415);
    post(&[], &[b' '; 5000]).error(413);
    post(&[("content-length", "99999999999")], b"").error(413);
    let chunked = format!("{:x}\r\n{}\r\n0\r\n\r\n", 6000, " ".repeat(6000));
    post(&[("transfer-encoding", "chunked")], chunked.as_bytes()).error(413);
    let ask = json!({"messages": hello(), "max_tokens": 1}).to_string();
    let single: String = ask.chars().map(|c| format!("1\r\n{c}\r\n")).collect::<String>() + "0\r\n\r\n";
    post(&[("transfer-encoding", "chunked")], single.as_bytes()).ok();
    post(&[("content-type", "application/json; charset=utf-8")], ask.as_bytes()).ok();
    for body in [
        "",
        "{",
        "[]",
        "null",
        "\"x\"",
        "{} x",
        "{\"messages\": [}",
        "{\"a\"",
        "\u{feff}{}",
        "{\"n\": 1e400}",
        "{\"n\": 1, \"n\": 2}",
        "{\"messages\": \"x\"}",
        "{'a': 1}",
        "{\"n\": NaN}",
    ] {
        post(&[], body.as_bytes()).error(400);
    }
    // As long as it may be, and so many fields that nobody knows.
    let padded =
        |more: &str| format!("{{\"messages\": [{{\"role\": \"user\", \"content\": \"x\"}}], \"max_tokens\": 1{more}}}");
    post(&[], format!("{:4096}", padded("")).as_bytes()).ok();
    let many: String = (0..300).map(|i| format!(",\"x{i}\":1")).collect();
    post(&[], padded(&many).as_bytes()).error(400);
    post(&[], b"{\"model\": \"\xff\xfe\"}").error(400);
    post(&[], format!("{{\"x\": {}1{}}}", "[".repeat(1000), "]".repeat(1000)).as_bytes()).error(400);
}

#[test]
fn numbers_out_of_range_are_named() {
    let server = server();
    let wild =
        [json!(-1), json!(i64::MIN), json!(u64::MAX), json!(1e308), json!("NaN"), json!("3"), json!([]), json!({})];
    let fields = [
        "n",
        "max_tokens",
        "max_completion_tokens",
        "top_logprobs",
        "min_tokens",
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "repetition_penalty",
        "presence_penalty",
        "frequency_penalty",
        "seed",
        "priority",
    ];
    for field in fields {
        for value in &wild {
            let answer = server.chat(json!({"logprobs": true, field: value}));
            let fits = matches!((field, value.as_f64()), ("top_k" | "seed" | "priority", Some(x)) if x == -1.0)
                || (field == "presence_penalty" || field == "frequency_penalty") && value == &json!(-1)
                || (field == "seed" && value == &json!(i64::MIN));
            match fits {
                true => drop(answer.ok()),
                false => assert_eq!(answer.error(400)["param"], field, "{value}"),
            }
        }
    }
    for (field, value) in [
        ("n", json!(0)),
        ("n", json!(129)),
        ("n", json!(1_000_000)),
        ("n", json!(1.5)),
        ("temperature", json!(2.1)),
        ("top_p", json!(1.1)),
        ("max_tokens", json!(0)),
        ("stop", json!([""])),
        ("stop", json!(vec!["x"; 17])),
        ("stop_token_ids", json!([256])),
        ("stop_token_ids", json!([-1])),
        ("min_tokens", json!(9)),
        ("logit_bias", json!({"1": "x"})),
        ("stream", json!("yes")),
        ("messages", json!(1)),
        ("cache_salt", json!("x".repeat(257))),
    ] {
        let error = server.chat(json!({field: value})).error(400);
        assert!(error["param"].as_str().unwrap().starts_with(field), "{error}");
    }
    for (field, value) in [("n", Value::Null), ("top_p", json!(0)), ("temperature", json!(2)), ("stop", json!([]))] {
        server.chat(json!({field: value})).ok();
    }
    server.chat(json!({"stream_options": {"include_usage": true}})).error(400);
    server.at_rest();
}

#[test]
fn whole_numbers_may_have_a_point() {
    let server = server();
    let fields = json!({"max_tokens": 5.0, "n": 2.0, "seed": 3.0, "top_k": 4e0, "min_tokens": 5.0, "priority": 1.0,
        "logprobs": true, "top_logprobs": 2.0, "stop_token_ids": [65.0], "ignore_eos": true});
    let answer = server.chat(fields).ok();
    assert_eq!(answer["usage"]["completion_tokens"], 10);
    assert_eq!(answer["choices"][0]["logprobs"]["content"][0]["top_logprobs"].as_array().unwrap().len(), 2);
    let newer = json!({"max_tokens": null, "max_completion_tokens": 3.0, "ignore_eos": true});
    assert_eq!(server.chat(newer).ok()["usage"]["completion_tokens"], 3);
    let of_ids = |ids: Value| {
        let body = json!({"prompt": ids, "max_tokens": 2.0, "logprobs": 0.0, "best_of": 1.0, "ignore_eos": true});
        server.complete(body).ok()["choices"].clone()
    };
    assert_eq!(of_ids(json!([72.0, 105.0])), of_ids(json!([72, 105])));
    assert_eq!(of_ids(json!([[72.0], [105]])), of_ids(json!([[72], [105]])));
    assert_eq!(server.post("/detokenize", &json!({"tokens": [72.0, 105]})).ok()["prompt"], "Hi");
    let message = json!({"messages": hello(), "max_tokens": 2.0, "top_k": 5.0});
    assert!(server.post("/v1/messages", &message).ok()["usage"]["output_tokens"].as_u64().unwrap() <= 2);
    server.post("/v1/responses", &json!({"input": "x", "max_output_tokens": 2.0})).ok();
    for (path, field, body) in [
        ("/v1/chat/completions", "max_tokens", json!({"messages": hello()})),
        ("/v1/chat/completions", "seed", json!({"messages": hello()})),
        ("/v1/completions", "best_of", json!({"prompt": "x"})),
        ("/v1/messages", "max_tokens", json!({"messages": hello()})),
        ("/v1/responses", "max_output_tokens", json!({"input": "x"})),
    ] {
        let error = server.post(path, &with(body, json!({field: 5.5}))).error(400);
        assert_eq!(error["param"], field, "{error}");
        assert!(error["message"].as_str().unwrap().contains("whole number"), "{error}");
    }
    server.complete(json!({"prompt": [72.5]})).error(400);
    server.post("/detokenize", &json!({"tokens": [72.5]})).error(400);
}

#[test]
fn heads_have_a_limit_too() {
    let server = server();
    let long = "x".repeat(70 << 10);
    assert_eq!(send(&server.address, "GET", "/health", &[("x-long", &long)], b"").error(431)["param"], Value::Null);
    send(&server.address, "GET", "/health", &[("x-long", &long[..1000])], b"").ok();
}

#[test]
fn whoever_sends_slowly_is_not_waited_for() {
    let options = Options { read_time: Duration::from_secs(1), ..Options::default() };
    let server = start(options, vec![served(NAME, engine())]);
    // A body that never comes.
    let mut socket = begin(&server.address, "POST", "/v1/completions", &[("content-length", "10")], b"{");
    read(&mut socket).error(408);
    // A head that never ends: the connection is closed.
    let mut socket = std::net::TcpStream::connect(&server.address).unwrap();
    socket.write_all(b"GET /health HT").unwrap();
    let mut rest = Vec::new();
    socket.set_read_timeout(Some(Duration::from_secs(600))).unwrap();
    std::io::Read::read_to_end(&mut socket, &mut rest).unwrap();
    server.at_rest();
}

#[test]
fn nothing_malformed_is_a_fault_of_the_server() {
    // Bodies made of a good one by a fixed sequence of random cuts, swaps and insertions.
    let server = server();
    let good = json!({"model": NAME, "messages": [{"role": "user", "content": "a\u{1F600}"}], "max_tokens": 1, "n": 1,
        "stop": ["x"], "logit_bias": {"65": 1.5}, "response_format": {"type": "json_object"}, "stream": false})
    .to_string()
    .into_bytes();
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = |below: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % below as u64) as usize
    };
    let pieces: [&[u8]; 10] = [b"\"", b"{", b"]", b"null", b"1e999", b"-0", b"\\u0000", b"\xff", b"[[[[[[[[", b","];
    for _ in 0..600 {
        let mut body = good.clone();
        for _ in 0..1 + random(3) {
            let at = random(body.len());
            match random(3) {
                0 => body.truncate(at + 1),
                1 => body[at] = random(256) as u8,
                _ => drop(body.splice(at..at, pieces[random(pieces.len())].iter().copied())),
            }
        }
        let answer = send(&server.address, "POST", "/v1/chat/completions", &[], &body);
        match answer.status {
            200 => {}
            status => {
                assert!((400..500).contains(&status), "{status}: {}", String::from_utf8_lossy(&body));
                answer.error(status);
            }
        }
    }
    server.at_rest();
}
