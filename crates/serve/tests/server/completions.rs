//! `/v1/completions`: every kind of prompt, and the scores that evaluation harnesses read.
use crate::setting::*;
use serde_json::{Value, json};

fn text(answer: &Value, index: usize) -> &str {
    answer["choices"][index]["text"].as_str().unwrap()
}

#[test]
fn texts_and_ids_one_and_many_mean_the_same() {
    let server = server();
    let ids: Vec<u32> = "Hello".bytes().map(u32::from).collect();
    let one = server.complete(json!({"prompt": "Hello"})).ok();
    assert_eq!((&one["object"], one["choices"].as_array().unwrap().len()), (&json!("text_completion"), 1));
    assert!(one["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(text(&server.complete(json!({"prompt": ids})).ok(), 0), text(&one, 0));
    let other = server.complete(json!({"prompt": "World"})).ok();
    let many = server.complete(json!({"prompt": ["Hello", "World"]})).ok();
    assert_eq!((text(&many, 0), text(&many, 1)), (text(&one, 0), text(&other, 0)));
    assert_eq!(many["usage"]["prompt_tokens"], 10);
    let world: Vec<u32> = "World".bytes().map(u32::from).collect();
    let lists = server.complete(json!({"prompt": [ids, world]})).ok();
    assert_eq!(lists["choices"], many["choices"]);
    assert!(many["choices"].as_array().unwrap().iter().enumerate().all(|(i, c)| c["index"] == i));
}

#[test]
fn a_stream_tells_the_same_as_one_answer() {
    let server = server();
    let ask = json!({"prompt": ["Hello", "World"], "n": 2, "max_tokens": 9, "ignore_eos": true, "logprobs": 2,
        "echo": true, "temperature": 1, "seed": 3});
    let whole = server.complete(ask.clone()).ok();
    let mut texts = vec![String::new(); 4];
    let mut tokens = vec![Vec::new(); 4];
    let mut offsets = vec![Vec::new(); 4];
    let streamed = json!({"stream": true, "stream_options": {"include_usage": true}});
    let events = server.complete(with(ask, streamed)).events();
    for event in &events {
        for choice in event["choices"].as_array().unwrap() {
            let index = choice["index"].as_u64().unwrap() as usize;
            texts[index] += choice["text"].as_str().unwrap();
            tokens[index].extend(choice["logprobs"]["token_logprobs"].as_array().unwrap().clone());
            offsets[index].extend(choice["logprobs"]["text_offset"].as_array().unwrap().clone());
        }
    }
    for (index, choice) in whole["choices"].as_array().unwrap().iter().enumerate() {
        assert_eq!(choice["text"], texts[index]);
        assert_eq!(choice["logprobs"]["token_logprobs"], json!(tokens[index]));
        assert_eq!(choice["logprobs"]["text_offset"], json!(offsets[index]));
    }
    assert_eq!(events.last().unwrap()["usage"], whole["usage"]);
}

#[test]
fn a_text_is_scored_as_lm_eval_asks() {
    let server = server();
    let prompt = "The quick brown fox";
    let ask = json!({"prompt": prompt, "echo": true, "logprobs": 1, "max_tokens": 1, "temperature": 0, "seed": 1234});
    let answer = server.complete(ask.clone()).ok();
    let l = &answer["choices"][0]["logprobs"];
    let (known, top) = (l["token_logprobs"].as_array().unwrap(), l["top_logprobs"].as_array().unwrap());
    // One entry for each token of the prompt, the first null, and exactly one generated token at the end.
    assert_eq!((known.len(), top.len()), (prompt.len() + 1, prompt.len() + 1));
    assert!(known[0].is_null() && top[0].is_null() && known[1..].iter().all(Value::is_f64));
    assert!(answer["choices"][0]["text"].as_str().unwrap().starts_with(prompt));
    for ((token, top), name) in known[1..].iter().zip(&top[1..]).zip(l["tokens"].as_array().unwrap().iter().skip(1)) {
        // The very same float in both places.
        assert_eq!(top[name.as_str().unwrap()], *token, "{name}");
        let best = top.as_object().unwrap().values().map(|x| x.as_f64().unwrap()).fold(f64::MIN, f64::max);
        assert!(token.as_f64().unwrap() <= best);
    }
    // The generated token is the likeliest: its float is the maximum, exactly.
    let last = top.last().unwrap().as_object().unwrap();
    let best = last.values().map(|x| x.as_f64().unwrap()).fold(f64::MIN, f64::max);
    assert_eq!(known.last().unwrap().as_f64().unwrap(), best);
    // Ids instead of text, and no generated token, score the same.
    let ids: Vec<u32> = prompt.bytes().map(u32::from).collect();
    let of_ids = server.complete(with(ask.clone(), json!({"prompt": ids}))).ok();
    assert_eq!(of_ids["choices"][0]["logprobs"], *l);
    let alone = server.complete(with(ask, json!({"max_tokens": 0}))).ok();
    let alone = &alone["choices"][0];
    assert_eq!((&alone["text"], &alone["finish_reason"]), (&json!(prompt), &json!("length")));
    assert_eq!(alone["logprobs"]["token_logprobs"].as_array().unwrap()[..], known[..prompt.len()]);
}

#[test]
fn offsets_count_characters_and_spellings_stay_apart() {
    let server = server();
    let answer = server.complete(json!({"prompt": "aé!", "echo": true, "logprobs": 0, "max_tokens": 0})).ok();
    let l = &answer["choices"][0]["logprobs"];
    assert_eq!(l["tokens"], json!(["a", "bytes:\\xc3", "bytes:\\xa9", "!"]));
    assert_eq!(l["text_offset"], json!([0, 1, 1, 2]), "a character's tokens begin where it does");
    assert_eq!(l["top_logprobs"][2].as_object().unwrap().len(), 1, "the chosen one is always told");
}

#[test]
fn sixteen_tokens_unless_told_otherwise() {
    let server = server();
    let answer = server.complete(json!({"max_tokens": null, "ignore_eos": true})).ok();
    assert_eq!(answer["usage"]["completion_tokens"], 16);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    let none = server.complete(json!({"max_tokens": 0})).ok();
    assert_eq!((text(&none, 0), &none["usage"]["completion_tokens"]), ("", &json!(0)));
    server.at_rest();
}

#[test]
fn prompts_that_cannot_be_run_are_refused() {
    let server = server();
    let over: Vec<u32> = vec![65; CONTEXT + 1];
    for prompt in [
        json!(""),
        json!([]),
        json!([[]]),
        json!([""]),
        json!([256]),
        json!([-1]),
        json!([[1], [300]]),
        json!(over),
        json!("x".repeat(CONTEXT + 1)),
        json!({"a": 1}),
        json!([1, "a"]),
        Value::Null,
        json!(1.5),
        json!("x".repeat(CONTEXT * 17)),
        json!(vec!["x"; 4000]),
    ] {
        let error = server.complete(json!({"prompt": prompt})).error(400);
        assert!(error["param"].is_string(), "{error}");
    }
    // The place within a list is named.
    for (prompt, place) in
        [(json!([1, "a"]), "prompt[1]"), (json!([[1], [2, 0.5]]), "prompt[1][1]"), (json!(["a", 1]), "prompt[1]")]
    {
        assert_eq!(server.complete(json!({"prompt": prompt})).error(400)["param"], place);
    }
    // The same with the prompt given back, and more rows than an answer may hold.
    for prompt in [json!([256]), json!(over), json!([[1], []])] {
        assert_eq!(server.complete(json!({"prompt": prompt, "echo": true})).error(400)["param"], "prompt");
    }
    let scored = json!({"prompt": vec!["x".repeat(700); 40], "echo": true, "logprobs": 5, "max_tokens": 0, "n": 16});
    assert_eq!(server.complete(scored).error(400)["param"], "n");
    server.complete(json!({"suffix": "x"})).error(400);
    server.complete(json!({"best_of": 2})).error(400);
    server.complete(json!({"best_of": 21, "n": 21})).error(400);
    server.complete(json!({"logprobs": 6})).error(400);
    server.complete(json!({"logprobs": -1})).error(400);
    server.complete(json!({"n": 128, "prompt": vec!["x"; 100]})).error(400);
    assert_eq!(server.get("/health").status, 200);
}
