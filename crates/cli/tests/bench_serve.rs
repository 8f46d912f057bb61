//! `planish bench serve` through the real program. No test looks at a time.
mod program;
mod server;

use program::{Output, Program, golden, scratch, with_words};
use serde_json::{Value, json};
use server::{Asked, END, Server, Step, event, part, reply, send, stream_head};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Barrier};

/// Answers with as many parts and tokens as wanted.
fn wanted(asked: &Asked) -> Vec<Step> {
    let tokens = asked.body["max_tokens"].as_u64().unwrap();
    let input = asked.body["prompt"].as_array().map_or(7, Vec::len);
    let text = |i| event(&json!({"choices": [{"text": format!("{i} "), "finish_reason": null}]}).to_string());
    let end = json!({"choices": [{"text": "", "finish_reason": "length"}]}).to_string();
    let usage = json!({"choices": [], "usage": {"prompt_tokens": input, "completion_tokens": tokens}}).to_string();
    let mut steps = vec![stream_head()];
    steps.extend((0..tokens).map(|i| send(text(i))));
    steps.push(send(event(&end) + &event(&usage) + &event("[DONE]")));
    steps
}

fn bench(server: &Server, flags: &str) -> Output {
    Program::new("bench serve --json --model m").words(flags).arg(&server.address).run()
}

#[track_caller]
fn positive(value: &Value) -> f64 {
    let number = value.as_f64().unwrap_or_else(|| panic!("{value}"));
    assert!(number > 0.0, "{value}");
    number
}

#[test]
fn figures_have_the_contract_s_names_and_vllm_s() {
    let server = Server::with(wanted);
    let d =
        bench(&server, "--num-prompts 6 --input-len 5 --output-len 3 --goodput ttft:600000 --goodput tpot:0").json();
    for key in ["output_tokens_per_s", "total_tokens_per_s", "requests_per_s", "seconds", "duration"] {
        positive(&d[key]);
    }
    for key in ["ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"] {
        let [p50, p99] = ["p50", "p99"].map(|p| positive(&d[key][p]));
        assert!(p50 <= p99 && positive(&d[key]["mean"]) <= p99, "{d}");
    }
    for name in ["ttft", "tpot", "itl", "e2el"] {
        for kind in ["mean", "median", "p99"] {
            positive(&d[format!("{kind}_{name}_ms")]);
        }
        assert!(d[format!("std_{name}_ms")].is_f64());
    }
    let counts = ["num_prompts", "completed", "failed", "total_input_tokens", "total_output_tokens"];
    assert_eq!(counts.map(|key| d[key].as_u64().unwrap()), [6, 6, 0, 30, 18]);
    assert_eq!((&d["request_rate"], &d["request_goodput"], &d["model_id"]), (&json!("inf"), &json!(0.0), &json!("m")));
    for (ours, theirs) in
        [("output_tokens_per_s", "output_throughput"), ("total_tokens_per_s", "total_token_throughput")]
    {
        assert_eq!(d[ours], d[theirs]);
    }
    let asked = server.asked();
    assert_eq!(asked.len(), 7, "one to warm up");
    for one in &asked {
        assert_eq!(one.line, "POST /v1/completions HTTP/1.1");
        assert_eq!((&one.body["ignore_eos"], &one.body["stream"]), (&json!(true), &json!(true)));
        assert!(one.body["prompt"].as_array().unwrap().iter().all(|id| id.as_u64().unwrap() < 10_000));
    }
    let text = Program::new("bench serve --model m --num-prompts 2 --input-len 2 --output-len 2 --goodput e2el:600000");
    let text = text.arg(&server.address).run().ok().stdout;
    assert!(["TTFT", "TPOT", "ITL", "E2EL", "p99", "good "].iter().all(|word| text.contains(word)), "{text}");
}

#[test]
fn a_closed_loop_keeps_its_number_in_flight() {
    let (barrier, now, most) = (Barrier::new(3), AtomicUsize::new(0), Arc::new(AtomicUsize::new(0)));
    let seen = most.clone();
    let server = Server::with(move |asked| {
        let count = now.fetch_add(1, Ordering::SeqCst) + 1;
        seen.fetch_max(count, Ordering::SeqCst);
        // Nobody passes unless three are here.
        barrier.wait();
        now.fetch_sub(1, Ordering::SeqCst);
        wanted(asked)
    });
    let d = bench(&server, "--num-prompts 9 --concurrency 3 --warmup 0 --input-len 2 --output-len 1").json();
    assert_eq!((&d["completed"], &d["max_concurrency"]), (&json!(9), &json!(3)));
    assert_eq!(most.load(Ordering::SeqCst), 3);
}

#[test]
fn arrivals_and_prompts_follow_the_seed() {
    let run = |seed: u32| {
        let server = Server::with(wanted);
        let flags = format!("--num-prompts 8 --request-rate 400 --input-len 2..9 --output-len 1..4 --seed {seed}");
        let d = bench(&server, &flags).json();
        assert_eq!((&d["request_rate"], &d["completed"]), (&json!(400.0), &json!(8)));
        let mut prompts: Vec<String> = server.asked().iter().map(|asked| asked.body.to_string()).collect();
        prompts.sort();
        prompts
    };
    let (one, again, other) = (run(1), run(1), run(2));
    assert_eq!(one, again);
    assert_ne!(one, other);
}

#[test]
fn chat_and_conversations_of_a_file() {
    let dir = scratch();
    let data = dir.path().join("sharegpt.json");
    let talk =
        |q: &str, a: &str| json!({"conversations": [{"from": "human", "value": q}, {"from": "gpt", "value": a}]});
    std::fs::write(&data, json!([talk("12345", "1234567"), talk("123", "1234"), talk("1234", "12345")]).to_string())
        .unwrap();
    let served = |asked: &Asked| match asked.line.as_str() {
        // A server whose tokens are bytes.
        "POST /tokenize HTTP/1.1" => {
            let count = asked.body["prompt"].as_str().unwrap().len();
            reply(
                "200 OK",
                "application/json",
                "",
                &json!({"count": count, "max_model_len": 99, "tokens": []}).to_string(),
            )
        }
        _ => vec![stream_head(), send(part("a") + &part("b") + END)],
    };
    let server = Server::with(served);
    let run = |more: &str| {
        let program = Program::new("bench serve --json --model m --endpoint chat --warmup 0").words(more);
        program.arg("--dataset").arg(&data).arg(&server.address).run()
    };
    let d = run("").json();
    assert_eq!((&d["completed"], &d["total_output_tokens"]), (&json!(2), &json!(8)));
    let asked: Vec<Asked> = server.asked().into_iter().filter(|a| a.line.contains("/v1/chat/completions")).collect();
    let mut lengths: Vec<u64> = asked.iter().map(|asked| asked.body["max_tokens"].as_u64().unwrap()).collect();
    lengths.sort_unstable();
    assert_eq!(lengths, [5, 7]);
    assert!(asked[0].body["messages"][0]["content"].is_string());
    // The same with a tokenizer of our own, and a length of our own for prompts that were never answered.
    let model = with_words(&golden("llama"), &dir.path().join("model"));
    let tokenizer = format!("--tokenizer {}", model.display());
    assert_eq!(run(&tokenizer).json()["completed"], json!(2));
    std::fs::write(&data, "{\"prompt\": \"12345\"}\n{\"prompt\": \"123456\"}\n").unwrap();
    assert_eq!(run(&format!("{tokenizer} --output-len 2")).json()["completed"], json!(2));
    run(&tokenizer).fails(&["line 1", "field completion"]);
}

#[test]
fn failures_are_counted_and_told() {
    let refuse = || reply("400 Bad Request", "application/json", "", r#"{"error": {"message": "too long"}}"#);
    let one = Arc::new(AtomicUsize::new(0));
    let count = one.clone();
    let server = Server::with(move |asked| match count.fetch_add(1, Ordering::SeqCst) {
        0 => refuse(),
        1 => vec![stream_head(), send(event(r#"{"choices": [{"text": "a"}]}"#))],
        _ => wanted(asked),
    });
    let output = bench(&server, "--num-prompts 5 --concurrency 1 --warmup 0 --input-len 2 --output-len 2").ok();
    assert!(
        output.stderr.contains("2 of 5 requests failed, the first: ") && output.stderr.contains("too long"),
        "{}",
        output.stderr
    );
    let d: Value = serde_json::from_str(&output.stdout).unwrap();
    let counts = ["completed", "failed", "total_output_tokens"].map(|key| d[key].as_u64().unwrap());
    assert_eq!(counts, [3, 2, 6]);
    let server = Server::with(move |_| refuse());
    bench(&server, "--num-prompts 2 --warmup 0").fails(&["2 of 2 requests failed", "400", "too long"]);
    bench(&server, "--num-prompts 2").fails(&["warms up", "too long"]);
    assert_eq!(server.asked().len(), 3);
}

#[test]
fn wrong_flags_are_named() {
    let server = Server::start(vec![]);
    for (flags, pieces) in [
        ("--num-prompts 0", ["--num-prompts", "found 0"]),
        ("--concurrency 0", ["--concurrency", "found 0"]),
        ("--request-rate 0", ["--request-rate", "found 0"]),
        ("--request-rate NaN", ["--request-rate", "found NaN"]),
        ("--request-rate 1e-30", ["--request-rate", "found 0.000000000000000000000000000001"]),
        ("--timeout 1e19", ["--timeout", "found 10000000000000000000"]),
        ("--timeout 0", ["--timeout", "found 0"]),
        ("--num-prompts 1000000000000000000", ["--num-prompts", "found 1000000000000000000"]),
        ("--lengths zipf", ["--lengths", "zipf"]),
        ("--dataset no/such.json", ["--dataset", "no/such.json"]),
    ] {
        bench(&server, flags).fails(&pieces);
    }
    let output = bench(&server, "--goodput itl:5");
    assert_eq!((output.code, output.stdout.as_str()), (2, ""), "{}", output.stderr);
    assert!(server.asked().is_empty());
}
