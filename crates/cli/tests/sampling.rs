//! Flags that decide how answers are made and how the engine runs them.
mod program;

use program::{Output, Program, golden, scratch, with_words};
use serde_json::{Value, json};

/// A short prompt on the tiny Llama.
fn short(flags: &str) -> Output {
    Program::new("generate --json --input-ids 35,74,190 --max-new-tokens 12").arg(golden("llama")).words(flags).run()
}

fn ids(flags: &str) -> Vec<u64> {
    of(&short(flags).json()["results"][0])
}

fn of(result: &Value) -> Vec<u64> {
    result["token_ids"].as_array().unwrap().iter().map(|id| id.as_u64().unwrap()).collect()
}

#[test]
fn biases_choose_and_forbid_tokens() {
    let plain = ids("--ignore-eos");
    assert_eq!(ids("--ignore-eos --logit-bias 77=1000"), [77; 12]);
    let without = ids(&format!("--ignore-eos --logit-bias {}=-1000", plain[0]));
    assert!(!without.contains(&plain[0]) && without.len() == 12, "{without:?}");
}

#[test]
fn penalties_push_repetitions_down() {
    // Biased towards one token, so that only a penalty can leave it.
    let bias = "--ignore-eos --logit-bias 77=50";
    assert_eq!(ids(bias), [77; 12]);
    let count = |flags: &str| ids(&format!("{bias} {flags}")).iter().filter(|id| **id == 77).count();
    assert_eq!(count("--presence-penalty 1000"), 1);
    assert_eq!(count("--frequency-penalty 1000"), 1);
    let some = count("--frequency-penalty 10");
    assert!((2..12).contains(&some), "each time a little more: {some}");
    assert_eq!(count("--presence-penalty -5"), 12);
}

#[test]
fn stop_ids_end_answers_but_not_before_the_least_length() {
    let plain = ids("--ignore-eos");
    let stop = plain[3];
    let first = plain.iter().position(|id| *id == stop).unwrap();
    let result = short(&format!("--ignore-eos --stop-id {stop} --stop-id 255")).json()["results"][0].clone();
    assert_eq!((of(&result), &result["finish_reason"]), (plain[..first].to_vec(), &json!("stop")));
    let least = ids(&format!("--ignore-eos --stop-id {stop} --min-new-tokens 9"));
    assert!(least.len() >= 9 && !least[..9].contains(&stop), "{least:?}");
}

#[test]
fn several_answers_to_each_prompt() {
    let run = |more: &str| {
        let flags = "generate --json --max-new-tokens 8 --ignore-eos --temperature 1.5";
        let program = Program::new(flags).words(more).arg(golden("llama"));
        program.words("--input-ids 35,74 --input-ids 9,8,7").run().json()
    };
    let document = run("--n 3 --seed 5");
    let results = document["results"].as_array().unwrap();
    assert_eq!(results.len(), 6);
    for (i, result) in results.iter().enumerate() {
        assert_eq!(result["choice"], json!(i % 3));
        assert_eq!(result["prompt"], json!(if i < 3 { "35,74" } else { "9,8,7" }));
        assert_eq!(of(result).len(), 8);
    }
    assert_ne!(of(&results[0]), of(&results[1]));
    assert_eq!(document["usage"], json!({"prompt_tokens": 5, "completion_tokens": 48}));
    let alone = run("--seed 5");
    assert_eq!(of(&alone["results"][0]), of(&results[0]), "the first answer is the one of n = 1");
    assert!(alone["results"][0].get("choice").is_none());
    assert_eq!(of(&run("--seed 7")["results"][1]), of(&results[5]), "answer i draws with seed + i");
}

#[test]
fn each_answer_has_its_own_stop_strings() {
    let dir = scratch();
    let model = with_words(&golden("llama"), &dir.path().join("model"));
    let run = |stop: &str| {
        let program = Program::new("generate --json --max-new-tokens 30 --ignore-eos --temperature 2 --n 4 -p The");
        program.arg(&model).arg("--stop").arg(stop).run().json()["results"].as_array().unwrap().clone()
    };
    let whole = run("never in it, surely");
    let text = whole[2]["text"].as_str().unwrap();
    let stop = text.chars().find(|c| c.is_ascii_alphanumeric()).expect("a plain letter").to_string();
    for (result, whole) in run(&stop).iter().zip(&whole) {
        let whole = whole["text"].as_str().unwrap();
        assert_eq!(result["text"], json!(whole.split(&stop).next().unwrap()));
        assert_eq!(result["finish_reason"] == "stop", whole.contains(&stop));
    }
    let output = Program::new("generate --max-new-tokens 3 --n 2 -p Hi").arg(&model).run().ok();
    assert!(output.stdout.contains("> Hi\n[0] ") && output.stdout.contains("[1] "), "{}", output.stdout);
}

#[test]
fn prompts_have_log_probabilities_too() {
    let flags = "generate --json --max-new-tokens 4 --ignore-eos --logprobs 2 --prompt-logprobs 3 --input-ids";
    let run = |ids: &str| Program::new(flags).arg(ids).arg(golden("llama")).run().json()["results"][0].clone();
    let result = run("35 74 190 3 9");
    let prompt = result["prompt_logprobs"].as_array().unwrap();
    let found: Vec<u64> = prompt.iter().map(|p| p["id"].as_u64().unwrap()).collect();
    assert_eq!(found, [74, 190, 3, 9], "every token but the first");
    assert!(prompt.iter().all(|p| p["top"].as_array().unwrap().len() == 3 && p["logprob"].as_f64().unwrap() <= 0.0));
    let both = Program::new(flags).arg("35 74 190 3 9").words("--n 2").arg(golden("llama")).run().json();
    let of_answer = |i: usize| both["results"][i]["prompt_logprobs"].clone();
    assert!(of_answer(0) == result["prompt_logprobs"] && of_answer(1) == of_answer(0));
    // What was generated has the same log-probability when it comes as a prompt.
    let made = of(&result);
    let again = run(&format!("35 74 190 3 9 {} {}", made[0], made[1]));
    for i in 0..2 {
        let (a, b) = (&result["logprobs"][i]["logprob"], &again["prompt_logprobs"][4 + i]["logprob"]);
        assert!((a.as_f64().unwrap() - b.as_f64().unwrap()).abs() < 1e-4, "{a} {b}");
    }
}

#[test]
fn the_engine_s_flags_do_not_change_greedy_answers() {
    let plain = ids("--ignore-eos");
    for flags in ["--no-prefix-cache", "--overlap on", "--overlap off", "--speculate 4", "--kv-dtype f32"] {
        assert_eq!(ids(&format!("--ignore-eos {flags}")), plain, "{flags}");
    }
    assert_eq!(ids("--ignore-eos --kv-cache-memory 64MB"), plain);
    for flags in ["--kv-dtype bf16", "--kv-dtype int8", "--kv-dtype fp8", "--lm-head int8"] {
        assert_eq!(ids(&format!("--ignore-eos {flags}")).len(), 12, "{flags}");
    }
}

#[test]
fn wrong_values_are_named_by_their_flag() {
    for (flags, pieces) in [
        ("--presence-penalty NaN", ["--presence-penalty", "NaN"]),
        ("--frequency-penalty inf", ["--frequency-penalty", "inf"]),
        ("--repetition-penalty 0", ["--repetition-penalty", "0"]),
        ("--min-p 2", ["--min-p", "2"]),
        ("--min-new-tokens 13", ["--min-new-tokens", "13"]),
        ("--logit-bias 256=1", ["256", "256"]),
        ("--speculate 9999", ["--speculate", "9999"]),
        ("--max-batch 0", ["--max-batch", "found 0"]),
        (
            "--max-batch 18446744073709551615",
            ["--max-batch: expected a number from 1 to", "found 18446744073709551615"],
        ),
        ("--max-model-len 18446744073709551615", ["--max-model-len: expected", "found 18446744073709551615"]),
        ("--kv-cache-memory 99999GB", ["--kv-cache-memory: expected at most", "found 99999000000000"]),
    ] {
        short(flags).fails(&pieces);
    }
    for usage in [
        "--logit-bias 3",
        "--logit-bias x=1",
        "--logit-bias 3=inf",
        "--stop-id -1",
        "--n 0",
        "--n 99999",
        "--kv-dtype int4",
        "--kv-cache-memory 4XB",
        "--kv-cache-memory 0",
        "--lm-head fp8",
        "--overlap maybe",
        "--speculate x",
        "--json-object --regex a",
    ] {
        let output = short(usage);
        assert_eq!((output.code, output.stdout.as_str()), (2, ""), "{usage}: {}", output.stderr);
        assert!(output.stderr.contains(usage.split(' ').next().unwrap()), "{usage}: {}", output.stderr);
    }
}
