//! `planish bench`: what it reports, from which loads, and what it says about wrong ones. No test looks at a time.
mod program;

use program::{Output, Program, golden, scratch, tiny, with_words};
use serde_json::{Value, json};
use std::path::Path;

/// A small load on the tiny Llama.
fn throughput(flags: &str) -> Output {
    Program::new("bench throughput --json").arg(golden("llama")).words(flags).run()
}

fn latency(flags: &str) -> Output {
    Program::new("bench latency --json --rounds 2").arg(golden("llama")).words(flags).run()
}

/// A number above 0.
#[track_caller]
fn positive(value: &Value) -> f64 {
    let number = value.as_f64().unwrap_or_else(|| panic!("{value}"));
    assert!(number > 0.0, "{value}");
    number
}

#[track_caller]
fn rising(values: &Value) {
    let [p50, p90, p99] = ["p50", "p90", "p99"].map(|p| positive(&values[p]));
    assert!(p50 <= p90 && p90 <= p99 && positive(&values["mean"]) <= p99, "{values}");
}

#[test]
fn latency_has_the_contract_s_keys() {
    let d = latency("--input-len 40 --output-len 9 --batch 3").json();
    positive(&d["step_tokens"]);
    for key in ["prefill_tokens_per_s", "decode_tokens_per_s", "ttft_ms"] {
        positive(&d[key]);
        positive(&d["best"][key]);
    }
    assert!(d["best"]["decode_tokens_per_s"].as_f64() >= d["decode_tokens_per_s"].as_f64(), "{d}");
    rising(&d["tpot_ms"]);
    rising(&d["ttft_percentiles_ms"]);
    assert_eq!((&d["batch"], &d["max_batch"], &d["rounds"]), (&json!(3), &json!(3), &json!(2)));
    assert!(d.get("shared_prefix").is_none() && d.get("structured").is_none());
    let text = Program::new("bench latency --rounds 1 --output-len 2").arg(golden("llama")).run().ok().stdout;
    assert!(["prefill", "decode", "TTFT", "TPOT", "median", "best"].iter().all(|word| text.contains(word)), "{text}");
}

#[test]
fn latency_compares_shared_prefixes_and_schemas() {
    let d = latency("--input-len 8 --output-len 4 --shared-prefix 100").json();
    assert_eq!(d["shared_prefix"]["tokens"], json!(100));
    for key in ["ttft_ms_cold", "ttft_ms_warm", "ratio"] {
        positive(&d["shared_prefix"][key]);
    }
    let dir = scratch();
    let model = with_words(&golden("llama"), &dir.path().join("model"));
    let schema = dir.path().join("schema.json");
    std::fs::write(&schema, r#"{"type": "array", "items": {"type": "integer"}, "minItems": 9}"#).unwrap();
    let program = Program::new("bench latency --json --rounds 1 --output-len 16 --json-schema").arg(&schema);
    let d = program.arg(&model).run().json();
    for key in ["decode_tokens_per_s", "free_tokens_per_s", "ratio"] {
        positive(&d["structured"][key]);
    }
    latency("--json-schema ./no/such.json").fails(&["--json-schema", "./no/such.json"]);
    latency("--json-schema {}").fails(&["tokenizer.json"]);
}

#[test]
fn throughput_has_the_contract_s_keys() {
    let d = throughput("--input-len 30 --output-len 6 --num-prompts 7").json();
    for key in ["output_tokens_per_s", "total_tokens_per_s", "requests_per_s", "seconds"] {
        positive(&d[key]);
    }
    for key in ["ttft_ms", "tpot_ms", "itl_ms", "e2e_ms"] {
        rising(&d[key]);
    }
    assert_eq!((&d["num_prompts"], &d["prompt_tokens"], &d["completion_tokens"]), (&json!(7), &json!(210), &json!(42)));
    assert_eq!((&d["concurrency"], &d["seed"]), (&json!(7), &json!(42)));
    assert!(d["ttft_ms"]["p50"].as_f64() <= d["e2e_ms"]["p50"].as_f64());
    let text = Program::new("bench throughput --input-len 4 --output-len 2 --num-prompts 2").arg(golden("llama"));
    let text = text.run().ok().stdout;
    assert!(["output", "TTFT", "TPOT", "ITL", "p99"].iter().all(|word| text.contains(word)), "{text}");
}

#[test]
fn lengths_follow_their_distribution_and_seed() {
    let d = throughput("--lengths 5:2,9:4 --num-prompts 5 --concurrency 2").json();
    assert_eq!((&d["prompt_tokens"], &d["completion_tokens"]), (&json!(3 * 5 + 2 * 9), &json!(3 * 2 + 2 * 4)));
    assert_eq!(d["concurrency"], json!(2));
    let dir = scratch();
    let file = dir.path().join("lengths.txt");
    std::fs::write(&file, "5 2\n9 4\n").unwrap();
    let program = Program::new("bench throughput --json --num-prompts 5 --lengths").arg(&file).arg(golden("llama"));
    assert_eq!(program.run().json()["prompt_tokens"], d["prompt_tokens"]);
    let drawn = |seed: &str| {
        let flags = format!("--input-len 3..60 --output-len 2..5 --num-prompts 6 --warmup 0 --seed {seed}");
        throughput(&flags).json()["prompt_tokens"].clone()
    };
    let (one, again, other) = (drawn("1"), drawn("1"), drawn("2"));
    assert_eq!(one, again);
    assert_ne!(one, other);
    assert!((18..=360).contains(&one.as_u64().unwrap()), "{one}");
}

#[test]
fn conversations_are_measured_by_the_tokenizer_and_filtered() {
    let dir = scratch();
    let model = with_words(&golden("llama"), &dir.path().join("model"));
    let data = dir.path().join("sharegpt.json");
    let talk = |question: &str, answer: &str| json!({"conversations": [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]});
    // Bytes are tokens here; only the first two are long enough and not too long.
    let long = "x".repeat(1025);
    let list = json!([
        talk("12345", "1234567"),
        talk("1234567890", "1234"),
        talk("123", "1234"),
        talk("1234", "123"),
        talk(&long, "1234")
    ]);
    std::fs::write(&data, list.to_string()).unwrap();
    let run = |model: &Path, flags: &str| {
        let program = Program::new("bench throughput --json").words(flags).arg(model).arg("--dataset").arg(&data);
        program.run()
    };
    let d = run(&model, "").json();
    assert_eq!((&d["num_prompts"], &d["prompt_tokens"], &d["completion_tokens"]), (&json!(2), &json!(15), &json!(11)));
    assert_eq!(run(&model, "--num-prompts 1").json()["num_prompts"], json!(1));
    run(&golden("llama"), "").fails(&["--dataset", "tokenizer.json"]);
    std::fs::write(&data, "{\"prompt\": \"12345\", \"output\": \"12345\"}\n{\"prompt\": 7}\n").unwrap();
    run(&model, "").fails(&["sharegpt.json", "line 2", "field prompt", "expected a string", "a number"]);
    std::fs::write(&data, "{\"prompt\": \"1\", \"completion\": \"1\"}").unwrap();
    run(&model, "").fails(&["--dataset", "found none"]);
    std::fs::remove_file(&data).unwrap();
    run(&model, "").fails(&["--dataset", "sharegpt.json"]);
}

#[test]
fn the_page_stands_alone() {
    let dir = scratch();
    let page = dir.path().join("page.html");
    let flags = "bench throughput --input-len 20 --output-len 8 --num-prompts 9 --max-batch 3 --html";
    Program::new(flags).arg(&page).arg(golden("llama")).run().ok();
    let html = std::fs::read_to_string(&page).unwrap();
    for part in ["<title>Throughput of llama</title>", "Time to the first token", "Speed over time", "p99", "tokens/s"]
    {
        assert!(html.contains(part), "{part}");
    }
    for part in ["http", "<script", "url(", "@import", "NaN", "inf"] {
        assert!(!html.contains(part), "{part}");
    }
    assert_eq!((html.matches("<svg").count(), html.matches("</svg>").count()), (4, 4));
    let nowhere = dir.path().join("no/such/page.html");
    // Before the load is run, which may take an hour: not even the model is looked for.
    let program = Program::new("bench throughput ./no/such/model --html").arg(nowhere);
    program.run().fails(&["--html", "page.html", "no folder"]);
    let program = Program::new("bench throughput ./no/such/model --html").arg(dir.path());
    program.run().fails(&["--html", "expected a file, found a folder"]);
}

#[test]
fn dummy_weights_need_a_configuration_only() {
    let dir = scratch();
    let config = dir.path().join("config.json");
    std::fs::copy(tiny().join("config.json"), &config).unwrap();
    let bench = |words: &str, model: &Path| {
        let flags = format!("bench {words} --json --dummy-weights --input-len 9 --output-len 3");
        Program::new(&flags).arg(model).run()
    };
    let mut bytes = Vec::new();
    for quant in ["int8", "fp8", "none"] {
        let d = bench(&format!("latency --rounds 1 --quant-dtype {quant}"), dir.path()).json();
        assert_eq!(d["dummy_weights"], json!(true));
        bytes.push(d["weight_bytes_per_step"].as_u64().unwrap());
        positive(&d["decode_tokens_per_s"]);
    }
    assert!(bytes[0] == bytes[1] && bytes[2] > bytes[0], "8-bit linears are smaller: {bytes:?}");
    let d = bench("throughput --num-prompts 3", &config).json();
    assert_eq!(d["completion_tokens"], json!(9));
    bench("latency", &dir.path().join("none")).fails(&["--dummy-weights", "none"]);
    std::fs::write(&config, "{\"architectures\": [\"Nobody\"]}").unwrap();
    bench("latency", dir.path()).fails(&["config.json", "architectures", "Nobody"]);
}

#[test]
fn wrong_loads_are_named() {
    for (flags, name) in [("--num-prompts 0", "--num-prompts"), ("--concurrency 0", "--concurrency")] {
        throughput(flags).fails(&[name, "expected 1 to", "found 0"]);
    }
    for name in ["input-len", "batch", "rounds", "shared-prefix"] {
        let words = format!("bench latency --{name} 0");
        Program::new(&words).arg(golden("llama")).run().fails(&[&format!("--{name}"), "expected 1 to", "found 0"]);
    }
    let huge = "1000000000000000000";
    for name in ["num-prompts", "concurrency", "warmup"] {
        throughput(&format!("--{name} {huge}")).fails(&[&format!("--{name}"), "16777216", huge]);
    }
    // The flag that was given, not the setting of the engine that it becomes.
    for name in ["input-len", "output-len", "batch", "rounds", "warmup", "shared-prefix"] {
        let words = format!("bench latency --{name} {huge}");
        Program::new(&words).arg(golden("llama")).run().fails(&[&format!("--{name}: expected"), huge]);
    }
    latency("--output-len 1").fails(&["--output-len", "expected 2 to", "found 1"]);
    throughput("--lengths zipf").fails(&["--lengths", "zipf", "128:32,512:64"]);
    throughput("--lengths 4:0").fails(&["--lengths", "4:0"]);
    throughput("--input-len 40 --output-len 40 --max-model-len 50").fails(&["--max-model-len", "80", "50"]);
    for usage in
        ["--input-len 0", "--input-len 9..3", "--output-len x", "--lengths 1:2 --dataset f", "--quant-dtype int8"]
    {
        let output = throughput(usage);
        assert_eq!((output.code, output.stdout.as_str()), (2, ""), "{usage}: {}", output.stderr);
    }
}

#[test]
fn kernels_are_measured_and_right() {
    let run = |flags: &str| Program::new("bench kernels --tokens 1,5").arg(golden("llama")).words(flags).run();
    for kind in ["int8", "fp8"] {
        let d = run(&format!("--json --quant-dtype {kind}")).json();
        let rows = d["rows"].as_array().unwrap();
        let ops = ["gemm_w8a8", "gemm_float", "add_rms_norm_quantize", "quantize_rows", "gated_quantize"];
        let count = |op: &str| rows.iter().filter(|r| r["op"] == op).count();
        assert_eq!(ops.map(count), [8, 2, 2, 2, 2], "{d}");
        for row in rows {
            for key in ["m", "n", "k", "us", "tops", "gbps"] {
                positive(&row[key]);
            }
            // Where the vendor's library is to be had nowhere, its place says why.
            let reference = row["reference"].as_str().unwrap();
            match reference.strip_prefix("none: ") {
                Some(why) => assert!(row["reference_us"].is_null() && why.contains("cuBLASLt"), "{row}"),
                None => assert!(positive(&row["reference_us"]) > 0.0),
            }
            // A code near a tie may be a step away, which is most in FP8.
            let (op, kernel) = (row["op"].as_str().unwrap(), row["kernel"].as_str().unwrap());
            // A product's kernel depends on the machine; elsewhere operation and kernel have one name.
            assert!(!kernel.is_empty() && (kernel == op) != (op == "gemm_w8a8"), "{row}");
            let allowed = if row["op"].as_str().unwrap().starts_with("gemm") { 5e-3 } else { 0.07 };
            assert!(row["rel_err"].as_f64().unwrap() <= allowed, "{row}");
        }
    }
    let cpu = run("--json --device cpu").json();
    let of_product = cpu["rows"].as_array().unwrap().iter().filter(|r| r["op"] == "gemm_w8a8");
    for row in of_product {
        assert_eq!((&row["reference"], &row["reference_us"]), (&json!("gemm_float bf16"), &row["bf16_us"]), "{row}");
    }
    let table = run("").ok().stdout;
    let kernel = cpu["rows"][0]["kernel"].as_str().unwrap();
    assert!(["gemm_w8a8", "against", "kernel"].iter().all(|word| table.contains(word)), "{table}");
    assert!(run("--device cpu").ok().stdout.contains(kernel), "{kernel}");
}

#[test]
fn kernels_of_no_tokens_are_refused() {
    let program = Program::new("bench kernels --tokens 0").arg(golden("llama"));
    program.run().fails(&["--tokens: expected 1 to 65536, found 0"]);
}
