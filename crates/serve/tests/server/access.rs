//! Who may ask: keys over the whole router, host names, origins, the address.
use crate::client::send;
use crate::setting::*;
use planish_serve::{Address, Keys, Options, ServeError, Service};
use serde_json::json;

fn guarded() -> Server {
    let options = Options { keys: Keys::new(["key-one", "key-two"]), ..Options::default() };
    start(options, vec![served(NAME, engine())])
}

#[test]
fn everything_but_a_few_pages_needs_a_key() {
    let server = guarded();
    let paths = server.get("/openapi.json").ok()["paths"].clone();
    let mut documented: Vec<String> = paths.as_object().unwrap().keys().cloned().collect();
    assert!(documented.len() >= 12);
    let more = [
        "/nothing",
        "//v1/models",
        "/V1/models",
        "/v1/models/",
        "/v1%2fmodels",
        "/v1/chat/completions/",
        "/health/",
        "/healthy",
        "/Health",
        "/metrics?x=1",
        "/v1/../health",
    ];
    documented.extend(more.map(str::to_owned));
    for path in documented.iter().filter(|path| !["/health", "/ready"].contains(&path.as_str())) {
        for method in ["GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"] {
            let answer = send(&server.address, method, path, &[], b"{}");
            assert_eq!(answer.status, 401, "{method} {path}");
            if method != "HEAD" {
                assert_eq!(answer.error(401)["type"], "authentication_error");
            }
        }
    }
    for path in ["/health", "/ready", "/openapi.json", "/", "/swagger-ui.css"] {
        assert_eq!(server.get(path).status, 200, "{path}");
        assert_eq!(send(&server.address, "POST", path, &[], b"{}").status, 401, "{path}");
    }
}

#[test]
fn keys_come_as_bearer_or_x_api_key() {
    let server = guarded();
    let status = |name: &str, value: &str| send(&server.address, "GET", "/v1/models", &[(name, value)], b"").status;
    assert_eq!(status("authorization", "Bearer key-one"), 200);
    assert_eq!(status("Authorization", "bearer key-two"), 200);
    assert_eq!(status("x-api-key", "key-two"), 200);
    for wrong in ["Bearer key", "Bearer key-onex", "Basic key-one", "key-one", "Bearer", "Bearer \u{e9}"] {
        assert_eq!(status("authorization", wrong), 401, "{wrong}");
    }
    let asked = json!({"messages": hello(), "max_tokens": 2}).to_string();
    let path = "/v1/chat/completions";
    send(&server.address, "POST", path, &[("x-api-key", "key-one")], asked.as_bytes()).ok();
    send(&server.address, "POST", path, &[("x-api-key", "nobody")], asked.as_bytes()).error(401);
}

#[test]
fn tenants_do_not_see_each_others_prefixes() {
    let server = guarded();
    let asked = json!({"prompt": "p".repeat(100), "max_tokens": 1, "ignore_eos": true, "cache_salt": "same"});
    let body = asked.to_string();
    let metric = |name: &str| -> f64 {
        let page = send(&server.address, "GET", "/metrics", &[("x-api-key", "key-one")], b"");
        let line = page.text().lines().find(|l| l.starts_with(&format!("{name}{{"))).unwrap().to_owned();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    let ask = |key: &str| {
        let before = ["vllm:prefix_cache_hits_total", "vllm:generation_tokens_total"].map(metric);
        send(&server.address, "POST", "/v1/completions", &[("x-api-key", key)], body.as_bytes()).ok();
        // Both numbers are shown at the same moment, after the step.
        until("the token is counted", || metric("vllm:generation_tokens_total") > before[1]);
        metric("vllm:prefix_cache_hits_total") - before[0]
    };
    assert_eq!(ask("key-one"), 0.0);
    assert_eq!(ask("key-two"), 0.0, "the other tenant must miss");
    assert!(ask("key-one") > 0.0, "the same tenant must hit");
}

#[test]
fn names_of_other_sites_are_not_answered_without_keys() {
    let options = Options { hosts: Some(vec!["box.example".into()]), ..Options::default() };
    let server = start(options, vec![served(NAME, engine())]);
    let status = |host: &str| {
        use std::io::Write;
        let mut socket = std::net::TcpStream::connect(&server.address).unwrap();
        write!(socket, "GET /health HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n").unwrap();
        crate::client::read(&mut socket).status
    };
    assert_eq!(["localhost", "127.0.0.1:1", "box.example"].map(status), [200; 3]);
    assert_eq!(["evil.example", "localhost.evil.com"].map(status), [403; 2]);
}

#[test]
fn browsers_of_other_origins_get_nothing_unless_named() {
    let none = server();
    let preflight = [("origin", "https://a.example"), ("access-control-request-method", "POST")];
    let answer = send(&none.address, "OPTIONS", "/v1/chat/completions", &preflight, b"");
    assert!(answer.header("access-control-allow-origin").is_none() && answer.status == 405);
    let options = Options { origins: vec!["https://a.example".into()], ..Options::default() };
    let some = start(options, vec![served(NAME, engine())]);
    let allowed = |origin: &str| {
        let answer = send(&some.address, "GET", "/v1/models", &[("origin", origin)], b"");
        answer.header("access-control-allow-origin").map(str::to_owned)
    };
    assert_eq!(allowed("https://a.example").as_deref(), Some("https://a.example"));
    assert_eq!(allowed("https://a.example.evil.com"), None);
    let answer = send(&some.address, "OPTIONS", "/v1/chat/completions", &preflight, b"");
    assert_eq!((answer.status, answer.header("access-control-allow-origin")), (200, Some("https://a.example")));
}

#[test]
fn an_open_door_must_be_asked_for() {
    let everywhere = Address::Tcp("0.0.0.0".into(), 0);
    let refused = Service::start(Options::default(), &everywhere, None, false);
    assert!(matches!(refused, Err(ServeError::Open(_))));
    assert!(Service::start(Options::default(), &everywhere, None, true).is_ok());
    let options = Options { keys: Keys::new(["k"]), ..Options::default() };
    assert!(Service::start(options, &everywhere, None, false).is_ok());
}
