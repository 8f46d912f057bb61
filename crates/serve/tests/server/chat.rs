//! `/v1/chat/completions`: streaming or not, every field that is plain chat.
use crate::setting::*;
use serde_json::{Value, json};

fn content(answer: &Value) -> &str {
    answer["choices"][0]["message"]["content"].as_str().unwrap()
}

#[test]
fn an_answer_has_openais_shape() {
    let server = server();
    let answer = server.chat(json!({"model": NAME})).ok();
    assert!(answer["id"].as_str().unwrap().starts_with("chatcmpl-"));
    assert_eq!((&answer["object"], &answer["model"]), (&json!("chat.completion"), &json!(NAME)));
    let choice = &answer["choices"][0];
    assert_eq!((&choice["index"], &choice["logprobs"]), (&json!(0), &Value::Null));
    assert_eq!(choice["message"]["role"], "assistant");
    assert_eq!(choice["message"]["refusal"], Value::Null);
    let usage = &answer["usage"];
    let prompt = "user: Hello\nassistant: ".len();
    assert_eq!(usage["prompt_tokens"], prompt);
    assert_eq!(usage["total_tokens"], prompt as u64 + usage["completion_tokens"].as_u64().unwrap());
    assert!(answer["created"].as_u64().unwrap() > 1_700_000_000);
    assert!(["stop", "length"].contains(&choice["finish_reason"].as_str().unwrap()));
    server.at_rest();
}

#[test]
fn a_stream_tells_the_same_as_one_answer() {
    let server = server();
    let whole = server.chat(json!({"max_tokens": 40})).ok();
    let events = server.chat(json!({"max_tokens": 40, "stream": true})).events();
    assert_eq!(events[0]["object"], "chat.completion.chunk");
    assert_eq!(events[0]["choices"][0]["delta"]["role"], "assistant");
    assert!(events.iter().skip(1).all(|e| e["choices"][0]["delta"].get("role").is_none()));
    assert!(events.iter().all(|e| e["id"] == events[0]["id"] && e.get("usage").is_none()));
    let text: String = events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(text, content(&whole));
    let (last, rest) = events.split_last().unwrap();
    assert_eq!(last["choices"][0]["finish_reason"], whole["choices"][0]["finish_reason"]);
    assert!(rest.iter().all(|e| e["choices"][0]["finish_reason"].is_null()));
}

#[test]
fn usage_comes_last_if_asked_for() {
    let server = server();
    let whole = server.chat(json!({})).ok();
    let ask = json!({"stream": true, "stream_options": {"include_usage": true}});
    let events = server.chat(ask).events();
    let (last, rest) = events.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"], whole["usage"]);
    assert!(rest.iter().all(|e| e["usage"].is_null() && e.get("usage").is_some()));
    let each = json!({"stream": true, "stream_options": {"include_usage": true, "continuous_usage_stats": true}});
    let events = server.chat(each).events();
    assert!(events.iter().all(|e| e["usage"]["prompt_tokens"] == whole["usage"]["prompt_tokens"]));
}

#[test]
fn several_answers_differ_and_stream_side_by_side() {
    let server = server();
    let ask = json!({"n": 3, "temperature": 1.5, "seed": 7, "max_tokens": 12, "ignore_eos": true});
    let whole = server.chat(ask.clone()).ok();
    let texts: Vec<&Value> = whole["choices"].as_array().unwrap().iter().map(|c| &c["message"]["content"]).collect();
    assert!(texts.len() == 3 && texts[0] != texts[1] && texts[1] != texts[2], "{texts:?}");
    assert_eq!(whole["usage"]["completion_tokens"], 36);
    let mut streamed = vec![String::new(); 3];
    for event in server.chat(with(ask, json!({"stream": true}))).events() {
        let choice = &event["choices"][0];
        let text = choice["delta"]["content"].as_str().unwrap_or_default();
        streamed[choice["index"].as_u64().unwrap() as usize] += text;
    }
    assert_eq!(texts, streamed.iter().map(|t| json!(t)).collect::<Vec<_>>().iter().collect::<Vec<_>>());
}

#[test]
fn a_seed_repeats_and_its_absence_does_not() {
    let server = server();
    let ask = |seed: Option<i64>| {
        let body = json!({"temperature": 1.5, "seed": seed, "max_tokens": 24, "ignore_eos": true});
        content(&server.chat(body).ok()).to_owned()
    };
    assert_eq!(ask(Some(-5)), ask(Some(-5)));
    assert_ne!(ask(Some(5)), ask(Some(6)));
    assert_ne!(ask(None), ask(None));
    let pair = |seed: Option<i64>| {
        let body = json!({"prompt": ["Hello", "Hello"], "temperature": 1.5, "seed": seed, "ignore_eos": true});
        let answer = server.complete(body).ok();
        [0, 1].map(|prompt| answer["choices"][prompt]["text"].clone())
    };
    let [one, other] = pair(Some(5));
    assert_eq!(one, other, "a seed is that of every prompt");
    let [one, other] = pair(None);
    assert_ne!(one, other);
}

#[test]
fn stop_strings_end_an_answer_and_are_left_out() {
    let server = server();
    let free = content(&server.chat(json!({"max_tokens": 30, "ignore_eos": true})).ok()).to_owned();
    let chars: Vec<char> = free.chars().collect();
    // A stop string of several characters, so of several tokens.
    let stop: String = chars[10..13].iter().collect();
    let before = &free[..free.find(&stop).unwrap()];
    for (ask, expected) in [
        (json!({"stop": stop}), before.to_owned()),
        (json!({"stop": ["\u{1}never", stop]}), before.to_owned()),
        (json!({"stop": stop, "include_stop_str_in_output": true}), format!("{before}{stop}")),
    ] {
        let ask = with(json!({"max_tokens": 30, "ignore_eos": true}), ask);
        let answer = server.chat(ask.clone()).ok();
        assert_eq!((content(&answer), &answer["choices"][0]["finish_reason"]), (&*expected, &json!("stop")));
        let events = server.chat(with(ask, json!({"stream": true}))).events();
        let text: String = events.iter().filter_map(|e| e["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(text, expected);
    }
    server.at_rest();
    // The engine knows of no stop strings: it is told that these requests are complete, or has come to their ends itself.
    let page = server.get("/metrics");
    assert!(page.text().contains("finished_reason=\"abort\"} 0"), "{}", page.text());
}

#[test]
fn stop_tokens_and_least_lengths() {
    let server = server();
    let ask = json!({"max_tokens": 10, "ignore_eos": true, "logprobs": true});
    let free = server.chat(ask.clone()).ok();
    let third = free["choices"][0]["logprobs"]["content"][2]["bytes"][0].clone();
    let count = |answer: &Value| answer["usage"]["completion_tokens"].as_u64().unwrap();
    let stopped = server.chat(with(ask.clone(), json!({"stop_token_ids": [third]}))).ok();
    assert!(count(&stopped) <= 2 && stopped["choices"][0]["finish_reason"] == "stop");
    let at_least = server.chat(with(ask, json!({"stop_token_ids": [third], "min_tokens": 6}))).ok();
    assert!(count(&at_least) >= 6);
}

#[test]
fn a_bias_chooses_the_token() {
    let server = server();
    let answer = server.chat(json!({"logit_bias": {"65": 100}, "max_tokens": 3, "ignore_eos": true})).ok();
    assert_eq!(content(&answer), "AAA");
    let error = server.chat(json!({"logit_bias": {"256": 1}})).error(400);
    assert_eq!(error["param"], "logit_bias");
    server.chat(json!({"logit_bias": {"x": 1}})).error(400);
    server.chat(json!({"logit_bias": {"1": 101}})).error(400);
}

#[test]
fn log_probabilities_have_tokens_and_bytes() {
    let server = server();
    let ask = json!({"logprobs": true, "top_logprobs": 3, "max_tokens": 6, "ignore_eos": true});
    let whole = server.chat(ask.clone()).ok();
    let all = whole["choices"][0]["logprobs"]["content"].as_array().unwrap();
    assert_eq!(all.len(), 6);
    for one in all {
        let top = one["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        // Greedy: the chosen token is the likeliest, and its float is the same in both places.
        assert_eq!((&one["bytes"], &one["logprob"]), (&top[0]["bytes"], &top[0]["logprob"]));
        assert!(top[0]["logprob"].as_f64() >= top[1]["logprob"].as_f64());
        let bytes: Vec<u8> = serde_json::from_value(one["bytes"].clone()).unwrap();
        assert_eq!(one["token"], json!(String::from_utf8_lossy(&bytes)));
    }
    let streamed: Vec<Value> = server
        .chat(with(ask, json!({"stream": true})))
        .events()
        .iter()
        .flat_map(|e| e["choices"][0]["logprobs"]["content"].as_array().cloned().unwrap_or_default())
        .collect();
    assert_eq!(&streamed, all);
    server.chat(json!({"top_logprobs": 3})).error(400);
    server.chat(json!({"logprobs": true, "top_logprobs": 21})).error(400);
}

#[test]
fn lengths_are_checked_against_the_context() {
    let server = server();
    let prompt = "user: Hello\nassistant: ".len();
    let fits = CONTEXT - prompt;
    let answer = server.chat(json!({"max_tokens": fits, "ignore_eos": true})).ok();
    assert_eq!(answer["usage"]["completion_tokens"], fits);
    assert_eq!(answer["choices"][0]["finish_reason"], "length");
    let error = server.chat(json!({"max_tokens": fits + 1})).error(400);
    assert_eq!(error["code"], "context_length_exceeded");
    assert!(error["message"].as_str().unwrap().contains(&CONTEXT.to_string()));
    // Without a number an answer may take what is left.
    let free = server.chat(json!({"max_tokens": null, "ignore_eos": true})).ok();
    assert_eq!(free["usage"]["total_tokens"], CONTEXT);
    let newer = server.chat(json!({"max_tokens": null, "max_completion_tokens": 2, "ignore_eos": true})).ok();
    assert_eq!(newer["usage"]["completion_tokens"], 2);
    let long = json!({"messages": [{"role": "user", "content": "x".repeat(CONTEXT)}]});
    assert_eq!(server.chat(long).error(400)["code"], "context_length_exceeded");
    let absurd = json!({"messages": [{"role": "user", "content": "x".repeat(CONTEXT * 17)}]});
    assert_eq!(server.chat(absurd).error(400)["code"], "context_length_exceeded");
}

#[test]
fn an_answer_can_be_made_to_fit_a_schema() {
    let server = server();
    let schema = json!({"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"],
        "additionalProperties": false});
    let format = json!({"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": true}});
    let answer = server.chat(json!({"max_tokens": 120, "response_format": format})).ok();
    let value: Value = serde_json::from_str(content(&answer)).unwrap_or_else(|e| panic!("{e}: {answer}"));
    assert!(["x", "y"].contains(&value["a"].as_str().unwrap()));
    assert_eq!(answer["choices"][0]["finish_reason"], "stop");
    let regex = json!({"type": "regex", "regex": "[0-9]{3}"});
    let digits = server.chat(json!({"max_tokens": 20, "response_format": regex})).ok();
    assert!(content(&digits).len() == 3 && content(&digits).bytes().all(|b| b.is_ascii_digit()));
    let broken = json!({"type": "json_schema", "json_schema": {"name": "s", "schema": {"type": "nonsense"}}});
    assert_eq!(server.chat(json!({"response_format": broken})).error(400)["param"], "response_format");
    server.chat(json!({"response_format": {"type": "xml"}})).error(400);
    let bomb = json!({"type": "regex", "regex": "(a{1,9000}){1,100000}"});
    server.chat(json!({"response_format": bomb})).error(400);
}

#[test]
fn messages_have_roles_and_parts() {
    let server = server();
    let prompt_of = |messages: Value| {
        let body = json!({"messages": messages});
        let ids = server.post("/tokenize", &body).ok()["tokens"].clone();
        let bytes: Vec<u8> = ids.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u8).collect();
        String::from_utf8(bytes).unwrap()
    };
    let parts = json!([{"role": "developer", "content": "S"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": null}]);
    assert_eq!(prompt_of(parts), "system: S\nuser: a\nb\nassistant: \nassistant: ");
    for (messages, param) in [
        (json!([]), "messages"),
        (
            json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}}]}]),
            "messages[0].content[0]",
        ),
        (json!([{"role": "robot", "content": "x"}]), "messages[0].role"),
        (json!([{"role": "user"}]), "messages[0].content"),
        (json!([{"content": "x"}]), "messages[0]"),
    ] {
        let error = server.chat(json!({"messages": messages})).error(400);
        assert_eq!(error["param"], param, "{error}");
    }
}

#[test]
fn fields_that_are_not_offered_are_refused_by_name() {
    let server = server();
    for (name, value) in [
        ("audio", json!({"voice": "x"})),
        ("prediction", json!({"type": "content"})),
        ("modalities", json!(["audio"])),
        ("functions", json!([{"name": "f"}])),
        ("chat_template", json!("{{ messages }}")),
        ("use_beam_search", json!(true)),
        ("continue_final_message", json!(true)),
        ("service_tier", json!("priority")),
        ("prompt_logprobs", json!(0)),
        ("grammar", json!("root ::= x")),
        ("guided_json", json!({})),
    ] {
        let error = server.chat(json!({name: value})).error(400);
        assert_eq!((&error["param"], &error["code"]), (&json!(name), &json!("unsupported_parameter")));
    }
    // Of other APIs that lack what chats have, and within messages.
    let (text, turn) = (json!({"input": "x"}), json!({"messages": hello(), "max_tokens": 2}));
    for (path, body, name, value) in [
        ("/v1/completions", json!({"prompt": "x"}), "tools", json!([{"type": "function"}])),
        ("/v1/completions", json!({"prompt": "x"}), "top_logprobs", json!(3)),
        ("/v1/responses", text.clone(), "response_format", json!({"type": "json_object"})),
        ("/v1/responses", text.clone(), "seed", json!(1)),
        ("/v1/responses", text.clone(), "stop", json!("x")),
        ("/v1/responses", text.clone(), "n", json!(2)),
        ("/v1/responses", text.clone(), "logit_bias", json!({"1": 1})),
        ("/v1/responses", text.clone(), "max_tokens", json!(1)),
        ("/v1/messages", turn.clone(), "n", json!(2)),
        ("/v1/messages", turn.clone(), "stop", json!(["x"])),
        ("/v1/messages", turn.clone(), "min_p", json!(0.5)),
        ("/v1/messages", turn.clone(), "seed", json!(0)),
    ] {
        let error = server.post(path, &with(body, json!({name: value}))).error(400);
        assert_eq!((&error["param"], &error["code"]), (&json!(name), &json!("unsupported_parameter")), "{path}");
    }
    let called = json!([{"role": "assistant", "content": "", "function_call": {"name": "f", "arguments": ""}}]);
    assert_eq!(server.chat(json!({"messages": called})).error(400)["param"], "messages[0].function_call");
    let without = json!([{"role": "assistant", "content": "x", "function_call": null}]);
    server.chat(json!({"messages": without})).ok();
    server.post("/v1/responses", &with(text, json!({"n": 1, "stop": null, "max_output_tokens": 1}))).ok();
    server.post("/v1/messages", &with(turn, json!({"metadata": {"user_id": "u"}, "n": 1, "seed": null}))).ok();
    // What asks for nothing, or nobody knows, is let pass, unless the server is strict.
    let idle = json!({"audio": null, "store": false, "modalities": ["text"], "service_tier": "auto", "sparkle": 1});
    server.chat(idle).ok();
    let options = planish_serve::Options { strict_fields: true, ..Default::default() };
    let strict = start(options, vec![served(NAME, engine())]);
    assert_eq!(strict.chat(json!({"sparkle": 1})).error(400)["code"], "unknown_parameter");
    strict.chat(json!({"store": false})).ok();
}

#[test]
fn other_names_of_the_same_are_taken() {
    let server = server();
    let tokens = |answer: crate::client::Answer| answer.ok()["usage"]["completion_tokens"].clone();
    assert_eq!(tokens(server.complete(json!({"prompt": "x", "max_tokens": 9, "min_new_tokens": 9}))), 9);
    let ask = json!({"prompt": "x", "max_completion_tokens": 3, "ignore_eos": true});
    assert_eq!(tokens(server.post("/v1/completions", &ask)), 3);
    let mut model = served(NAME, engine());
    let source = "{{ 'thinks' if enable_thinking else 'answers' }}";
    model.chat = Some(planish_text::ChatTemplate::new(source, [("eos_token", "x")]).unwrap());
    let server = start(Default::default(), vec![model]);
    let length = |more: Value| server.chat(more).ok()["usage"]["prompt_tokens"].clone();
    assert_eq!(length(json!({"enable_thinking": true})), 6);
    assert_eq!(length(json!({"enable_thinking": false})), 7);
    assert_eq!(length(json!({"enable_thinking": true, "chat_template_kwargs": {"enable_thinking": false}})), 7);
}

#[test]
fn template_variables_cannot_shadow_what_the_template_is_given() {
    let server = server();
    server.chat(json!({"chat_template_kwargs": {"enable_thinking": false}})).ok();
    let long = json!({"note": ["x".repeat(CONTEXT * 16)]});
    assert_eq!(server.chat(json!({"chat_template_kwargs": long})).error(400)["code"], "context_length_exceeded");
    for name in ["messages", "tools", "add_generation_prompt", "eos_token", "a-b"] {
        server.chat(json!({"chat_template_kwargs": {name: true}})).error(400);
    }
}

#[test]
fn models_have_names() {
    let server = start(Default::default(), vec![served("a", engine()), served("org/b", engine())]);
    assert_eq!(server.chat(json!({})).ok()["model"], "a");
    assert_eq!(server.chat(json!({"model": "org/b"})).ok()["model"], "org/b");
    let error = server.chat(json!({"model": "c"})).error(404);
    assert_eq!((&error["code"], &error["param"]), (&json!("model_not_found"), &json!("model")));
    let list = server.get("/v1/models").ok();
    let ids: Vec<&Value> = list["data"].as_array().unwrap().iter().map(|m| &m["id"]).collect();
    assert_eq!(ids, [&json!("a"), &json!("org/b")]);
    assert_eq!(list["data"][0]["max_model_len"], CONTEXT);
    assert_eq!(server.get("/v1/models/org/b").ok()["id"], "org/b");
    server.get("/v1/models/c").error(404);
}
