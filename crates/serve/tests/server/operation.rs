//! Probes, metrics, the document, the pages for people, and an engine that fails.
use crate::setting::*;
use planish_engine::{Error, Handle};
use serde_json::json;

#[test]
fn probes_and_version() {
    let server = server();
    for path in ["/health", "/ready"] {
        assert_eq!(server.get(path).ok(), json!({"status": "ok"}));
    }
    assert_eq!(server.get("/version").ok()["version"], env!("CARGO_PKG_VERSION"));
    let answer = server.get("/health");
    assert!(answer.header("x-request-id").unwrap().starts_with("req-"));
    assert_ne!(answer.header("x-request-id"), server.get("/health").header("x-request-id"));
}

#[test]
fn metrics_add_up_under_both_names() {
    let server = server();
    server.chat(json!({"max_tokens": 5, "ignore_eos": true})).ok();
    server.complete(json!({"n": 2, "max_tokens": 3, "ignore_eos": true})).ok();
    server.get("/nothing").error(404);
    // The engine shows its numbers after the step in which callers were told.
    until("the last step is counted", || server.metric("planish_generated_tokens_total") == 11.0);
    server.at_rest();
    let prompt = "user: Hello\nassistant: ".len() + "Hello".len();
    for (name, value) in [
        ("planish_requests_accepted_total", 2.0),
        ("vllm:generation_tokens_total", 11.0),
        ("planish_generated_tokens_total", 11.0),
        ("vllm:prompt_tokens_total", prompt as f64),
        ("vllm:num_requests_running", 0.0),
        ("vllm:num_requests_waiting", 0.0),
        ("vllm:kv_cache_usage_perc", 0.0),
        ("vllm:request_params_n_count", 2.0),
        ("vllm:request_params_n_sum", 3.0),
        ("vllm:request_generation_tokens_count", 3.0),
        ("vllm:request_generation_tokens_sum", 11.0),
        ("vllm:request_max_num_generation_tokens_count", 2.0),
        ("vllm:request_max_num_generation_tokens_sum", 8.0),
        ("vllm:request_params_max_tokens_sum", 8.0),
        ("vllm:request_prompt_tokens_sum", prompt as f64),
        ("vllm:e2e_request_latency_seconds_count", 2.0),
        ("vllm:request_queue_time_seconds_count", 2.0),
        ("vllm:request_inference_time_seconds_count", 2.0),
        ("vllm:request_prefill_time_seconds_count", 2.0),
        ("vllm:request_decode_time_seconds_count", 2.0),
        // Eleven tokens and the end of each of three answers.
        ("planish_http_lag_seconds_count", 14.0),
    ] {
        assert_eq!(server.metric(name), value, "{name}");
    }
    let page = server.get("/metrics");
    let text = page.text();
    assert!(page.header("content-type").unwrap().starts_with("text/plain"));
    assert!(text.contains("vllm:request_success_total{model_name=\"tiny\",engine=\"0\",finished_reason=\"length\"} 2"));
    assert!(text.contains("planish_http_answers_total{status=\"4xx\"} 1"));
    check_format(text);
}

/// Every line is a comment or a sample, every name is declared once, every histogram ends with `+Inf`.
fn check_format(text: &str) {
    let mut declared = std::collections::HashSet::new();
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            assert!(declared.insert(rest.split(' ').next().unwrap()), "{line} twice");
            continue;
        }
        if line.starts_with("# HELP ") {
            continue;
        }
        let (name, value) = line.rsplit_once(' ').unwrap();
        value.parse::<f64>().unwrap_or_else(|_| panic!("{line}"));
        let name = name.split('{').next().unwrap();
        let of = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end)).unwrap_or(name);
        assert!(declared.contains(name) || declared.contains(of), "{line} is not declared");
    }
    let ends = text.lines().filter(|line| line.split(['{', ' ']).next().unwrap().ends_with("_count")).count();
    assert_eq!(ends, text.matches("le=\"+Inf\"").count());
}

#[test]
fn the_document_describes_what_is_there() {
    let server = server();
    let document = server.get("/openapi.json").ok();
    assert!(document["openapi"].as_str().unwrap().starts_with("3."));
    let paths = document["paths"].as_object().unwrap();
    for path in ["/v1/chat/completions", "/v1/completions", "/v1/models", "/tokenize", "/detokenize", "/metrics"] {
        assert!(paths.contains_key(path), "{path}");
    }
    // Every documented path exists under every documented method.
    for (path, methods) in paths {
        for method in methods.as_object().unwrap().keys() {
            let path = path.replace("{model}", NAME);
            let answer = crate::client::send(&server.address, &method.to_uppercase(), &path, &[], b"{}");
            assert!(![404, 405].contains(&answer.status), "{method} {path}: {}", answer.status);
        }
    }
    // References lead somewhere.
    let text = document.to_string();
    for (at, _) in text.match_indices("#/components/schemas/") {
        let name = text[at + "#/components/schemas/".len()..].split('"').next().unwrap();
        assert!(document["components"]["schemas"].get(name).is_some(), "{name}");
    }
    assert!(document["components"]["schemas"]["ChatRequest"]["properties"]["messages"].is_object());
}

#[test]
fn swagger_is_at_the_root() {
    let server = server();
    let page = server.get("/");
    assert_eq!(page.status, 200);
    assert!(page.text().contains("swagger-ui") && page.header("content-type").unwrap().contains("html"));
    // Everything that the page loads is there.
    for part in
        page.text().split(['"', '\'']).filter(|p| p.ends_with(".js") || p.ends_with(".css") || p.ends_with(".png"))
    {
        let path = format!("/{}", part.trim_start_matches("./"));
        assert_eq!(server.get(&path).status, 200, "{path}");
    }
    let start = server.get("/swagger-initializer.js");
    assert!(start.text().contains("/openapi.json"), "{}", start.text());
    assert!(!page.text().contains("http://") && !page.text().contains("https://"));
}

#[test]
fn a_dead_engine_is_told_and_ends_the_server() {
    let handle = breaking();
    let server = start(Default::default(), vec![served(NAME, handle)]);
    let answer = server.chat(json!({"max_tokens": 5}));
    let error = answer.error(503);
    assert_eq!(error["code"], "engine_dead");
    let text = server.service.wait().unwrap_err().to_string();
    assert!(text.contains("the engine of tiny has failed"), "{text}");
}

#[test]
fn the_chat_page_is_whole() {
    let server = server();
    let page = server.get("/chat");
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"));
    let scripts = ["/chat.js", "/markdown.js"].map(|path| (path, "text/javascript"));
    for (path, kind) in [("/chat", "text/html"), ("/chat.css", "text/css")].into_iter().chain(scripts) {
        let part = server.get(path);
        assert!(part.status == 200 && part.header("content-type").unwrap().starts_with(kind), "{path}");
        assert!(!part.text().contains("http://") && !part.text().contains("https://"), "{path} names another host");
    }
    assert!(["/chat.js", "/markdown.js", "/chat.css"].iter().all(|part| page.text().contains(part)));
}

/// An engine whose device panics at its first step.
fn breaking() -> Handle {
    use planish_engine::device::{Machine, Produced, Want};
    struct Broken;
    impl Machine for Broken {
        fn run(&mut self, _: &planish_tensor::Batch, _: &Want, _: &mut Produced) -> planish_engine::Result<()> {
            panic!("at 0xdeadbeef in {}", file!())
        }
        fn clear(&mut self, _: &[u32]) -> planish_engine::Result<()> {
            Err(Error::Stopped)
        }
    }
    let info = engine().info().clone();
    Handle::over(Box::new(Broken), info).unwrap()
}

#[test]
fn every_metric_of_the_dashboard_is_there() {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../deploy/grafana.json")).unwrap();
    let board: serde_json::Value = serde_json::from_str(&text).unwrap();
    let page = server().get("/metrics");
    let known: Vec<&str> = page.text().lines().filter_map(|line| line.split(['{', ' ']).next()).collect();
    let mut asked = 0;
    for target in board["panels"].as_array().unwrap().iter().flat_map(|panel| panel["targets"].as_array().unwrap()) {
        let query = target["expr"].as_str().unwrap();
        let words = query.split(|c: char| !c.is_ascii_alphanumeric() && c != '_' && c != ':');
        for name in words.filter(|word| word.starts_with("planish_") || word.starts_with("vllm:")) {
            assert!(known.contains(&name), "{name} of {query}");
            asked += 1;
        }
    }
    assert!(asked >= 20, "{asked} names");
}
