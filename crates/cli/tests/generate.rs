//! `planish generate`: golden ids in and out, and what it says when it is used wrongly.
mod program;

use program::tensors::File;
use program::{Output, Program, golden, prompts, scratch, tiny};
use serde_json::{Value, json};

/// Both golden prompts in one batch, 24 tokens each.
fn golden_run(model: &str, flags: &str) -> Value {
    let program = Program::new("generate --json --max-new-tokens 24 --ignore-eos").words(flags).arg(golden(model));
    prompts().iter().fold(program, |p, ids| p.arg("--input-ids").arg(ids)).run().json()
}

fn assert_golden(model: &str, document: &Value) {
    let expected = File::open(&golden(model).join("expected/model.safetensors"));
    for i in 0..2 {
        let found = &document["results"][i]["token_ids"];
        assert_eq!(found, &json!(expected.ints(&format!("greedy_{i}"))), "{model}, prompt {i}");
    }
}

/// One short prompt on the tiny Llama.
fn short(flags: &str) -> Output {
    Program::new("generate --json").arg(golden("llama")).words(flags).run()
}

#[test]
fn greedy_ids_are_the_reference() {
    for model in ["llama", "llama_f32", "llama3_rope_bias_untied", "mistral", "qwen2"] {
        assert_golden(model, &golden_run(model, ""));
    }
}

#[test]
fn threads_do_not_change_greedy_ids() {
    for threads in ["--threads 1", "--threads 2", "--threads 3 --max-batch 1"] {
        assert_golden("llama", &golden_run("llama", threads));
    }
}

#[test]
fn json_holds_what_the_contract_names() {
    let document = golden_run("llama", "");
    assert_eq!(document["usage"], json!({"prompt_tokens": 37 + 64, "completion_tokens": 48}));
    assert!(document["seconds"].as_f64().unwrap() > 0.0);
    assert_eq!(document.as_object().unwrap().len(), 3, "{document}");
    for (result, prompt) in document["results"].as_array().unwrap().iter().zip(prompts()) {
        assert_eq!(program::joined(&result["prompt_token_ids"]), prompt);
        assert_eq!(result["finish_reason"], "length");
        assert_eq!(result["prompt"], json!(prompt));
        assert!(result["text"].is_string() && result.get("logprobs").is_none());
    }
}

#[test]
fn quantized_models_of_llm_compressor_run() {
    for model in ["w8a8_rtn", "w8a8_sq_gptq_f32", "fp8_dynamic"] {
        let document = golden_run(model, "");
        let expected = File::open(&golden(model).join("expected/model.safetensors"));
        for (i, result) in document["results"].as_array().unwrap().iter().enumerate() {
            assert_eq!(result["token_ids"].as_array().unwrap().len(), 24);
            let logits = expected.floats(&format!("logits_{i}"));
            let last = &logits[logits.len() - 256..];
            let best = (0..256).max_by(|&a, &b| last[a].total_cmp(&last[b])).unwrap();
            assert_eq!(result["token_ids"][0], json!(best), "{model}, prompt {i}");
        }
        assert_eq!(golden_run(model, "--threads 1")["results"], document["results"], "{model}");
    }
}

#[test]
fn log_probabilities_are_ordered_and_normal() {
    let document = golden_run("llama", "--logprobs 5");
    for result in document["results"].as_array().unwrap() {
        let each = result["logprobs"].as_array().unwrap();
        assert_eq!(each.len(), 24);
        for (step, id) in each.iter().zip(result["token_ids"].as_array().unwrap()) {
            assert_eq!(&step["id"], id);
            let top: Vec<f64> =
                step["top"].as_array().unwrap().iter().map(|t| t["logprob"].as_f64().unwrap()).collect();
            assert_eq!(top.len(), 5);
            assert_eq!(&step["top"][0]["id"], id, "greedy takes the first");
            assert_eq!(step["logprob"].as_f64().unwrap(), top[0]);
            assert!(top.windows(2).all(|w| w[0] >= w[1]) && top[0] <= 0.0, "{top:?}");
            assert!(top.iter().map(|p| p.exp()).sum::<f64>() <= 1.0 + 1e-5);
        }
    }
}

#[test]
fn sampling_repeats_with_its_seed() {
    let run = |seed: &str| {
        let flags = format!("--input-ids 35,74,190 --max-new-tokens 16 --ignore-eos --temperature 1.5 --seed {seed}");
        Program::new("generate --json").arg(golden("llama")).words(&flags).run().json()["results"][0]["token_ids"]
            .clone()
    };
    assert_eq!(run("1"), run("1"));
    assert_ne!(run("1"), run("2"));
}

#[test]
fn text_and_stop_strings() {
    let dir = scratch();
    let model = program::with_words(&golden("llama"), &dir.path().join("model"));
    let run = |stop: &[&str]| {
        let program = Program::new("generate --json --max-new-tokens 24 --ignore-eos -p The").arg(&model);
        stop.iter().fold(program, |p, s| p.arg("--stop").arg(s)).run().json()["results"][0].clone()
    };
    let whole = run(&[]);
    assert_eq!(whole["prompt_token_ids"], json!(b"The".to_vec()));
    assert_eq!(whole["finish_reason"], "length");
    let text: Vec<char> = whole["text"].as_str().unwrap().chars().collect();
    // Two characters in the middle of the answer, so that the stop string spans tokens.
    let pair = text.windows(2).skip(1).find(|w| !w.contains(&'\u{fffd}')).expect("two plain characters in the answer");
    let stop: String = pair.iter().collect();
    let stopped = run(&["never occurs in it", &stop]);
    assert_eq!(stopped["finish_reason"], "stop");
    let text: String = text.into_iter().collect();
    assert_eq!(stopped["text"], json!(text.split(&stop).next().unwrap()));
    assert!(stopped["token_ids"].as_array().unwrap().len() < 24);
}

#[test]
fn without_json_the_answer_is_text() {
    let dir = scratch();
    let model = program::with_words(&tiny(), &dir.path().join("model"));
    let output = Program::new("generate --max-new-tokens 3 -p Hi -p Ho").arg(&model).run().ok();
    assert!(output.stdout.contains("> Hi\n") && output.stdout.contains("> Ho\n"), "{}", output.stdout);
    assert_eq!(output.stderr, "");
}

#[test]
fn wrong_input_is_one_line_and_exit_code_1() {
    short("--input-ids 35,74 --max-new-tokens 4").ok();
    short("--input-ids 35,x").fails(&["--input-ids", "\"x\""]);
    short("--input-ids=-1").fails(&["--input-ids", "\"-1\""]);
    short("--input-ids 99999999999").fails(&["--input-ids", "99999999999"]);
    short("--input-ids 256").fails(&["256"]);
    short("--input-ids ,").fails(&["prompt"]);
    short("").fails(&["--prompt"]);
    short("-p Hi").fails(&["tokenizer.json"]);
    for temperature in ["NaN", "-1", "inf"] {
        short(&format!("--input-ids 35 --temperature {temperature}")).fails(&["temperature", temperature]);
    }
    short("--input-ids 35 --top-p 0").fails(&["top_p"]);
    short("--input-ids 35 --top-p 2").fails(&["top_p"]);
    let several = short("--input-ids 35 --device cuda:0,1").fails(&["--device cuda:0,1: expected one device, found 2"]);
    assert!(several.ends_with("name one of them, such as cuda:0"), "{several}");
    short("--input-ids 35 --device cuda:1-3").fails(&["--device cuda:1-3: expected one device, found 3", "cuda:1"]);
    short("--input-ids 35 --max-model-len 0").fails(&["--max-model-len"]);
    Program::new("generate ./no/such/model --input-ids 35").run().fails(&["./no/such/model"]);
}

#[test]
fn wrong_usage_is_exit_code_2() {
    for words in [
        "generate --bogus",
        "",
        "nonsense",
        "generate m --threads 0",
        "generate m --threads 999999999",
        "quantize m",
        "generate m --device tpu",
        "generate m --device cuda:1,",
        "compare m n --original-device cuda:",
    ] {
        let output = Program::new(words).run();
        assert_eq!(output.code, 2, "{words:?}: {}", output.stderr);
        assert_eq!(output.stdout, "");
    }
    assert!(Program::new("--version").run().ok().stdout.starts_with("planish "));
    assert!(Program::new("--help").run().ok().stdout.contains("quantize"));
}

#[test]
fn nothing_to_generate_is_an_empty_answer() {
    let result = short("--input-ids 35 --max-new-tokens 0").json()["results"][0].clone();
    assert_eq!((&result["token_ids"], &result["finish_reason"]), (&json!([]), &json!("length")));
}

#[test]
fn sequences_longer_than_the_model_was_made_for() {
    let run = |model: &str, longest: &str| {
        let program = Program::new("generate --json --max-new-tokens 2 --input-ids 35 --max-model-len").arg(longest);
        program.arg(golden(model)).run()
    };
    run("llama", "99999").ok();
    run("opt_f32", "96").ok();
    run("opt_f32", "97").fails(&["--max-model-len: expected at most 96", "learned", "found 97"]);
}
