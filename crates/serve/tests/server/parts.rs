//! What a model writes comes apart over HTTP: calls that it makes of its own accord, thoughts, and what only looks like them.
use crate::scripted::{saying, server_saying};
use crate::setting::*;
use planish_serve::tools::Format;
use planish_serve::{Options, Served};
use serde_json::{Value, json};

fn tools() -> Value {
    json!([{"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}])
}

/// The message of a whole answer and of a stream, which must be the same but for the calls' ids.
fn both(server: &Server, ask: Value) -> (Value, Value) {
    let ask = with(json!({"max_tokens": 400}), ask);
    let whole = server.chat(ask.clone()).ok()["choices"][0].clone();
    let mut told = json!({"content": null, "reasoning_content": null, "tool_calls": []});
    let mut end = Value::Null;
    for event in server.chat(with(ask, json!({"stream": true}))).events() {
        let choice = &event["choices"][0];
        for part in ["content", "reasoning_content"] {
            if let Some(text) = choice["delta"][part].as_str() {
                told[part] = json!(told[part].as_str().unwrap_or_default().to_owned() + text);
            }
        }
        for call in choice["delta"]["tool_calls"].as_array().into_iter().flatten() {
            let calls = told["tool_calls"].as_array_mut().unwrap();
            let index = call["index"].as_u64().unwrap() as usize;
            if let Some(name) = call["function"]["name"].as_str() {
                assert_eq!((index, call["type"].as_str()), (calls.len(), Some("function")));
                calls.push(json!([name, ""]));
            }
            let arguments = calls[index][1].as_str().unwrap().to_owned();
            calls[index][1] = json!(arguments + call["function"]["arguments"].as_str().unwrap());
        }
        end = choice["finish_reason"].clone();
    }
    let message = &whole["message"];
    let calls: Vec<Value> = message["tool_calls"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|call| json!([call["function"]["name"], call["function"]["arguments"]]))
        .collect();
    assert_eq!(json!(calls), told["tool_calls"], "{whole}");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    assert_eq!(text(&message["content"]), text(&told["content"]));
    assert_eq!(text(&message["reasoning_content"]), text(&told["reasoning_content"]));
    assert_eq!(whole["finish_reason"], end);
    server.at_rest();
    (told, end)
}

#[test]
fn a_model_may_call_in_every_format() {
    let rome = r#"{"city": "Rome"}"#;
    for (format, text) in [
        ("hermes", format!("<tool_call>\n{{\"name\": \"weather\", \"arguments\": {rome}}}\n</tool_call>")),
        ("llama3", format!("{{\"name\": \"weather\", \"parameters\": {rome}}}")),
        ("mistral", format!("[TOOL_CALLS][{{\"name\": \"weather\", \"arguments\": {rome}}}]")),
        (
            "internlm2",
            format!("<|action_start|><|plugin|>\n{{\"name\": \"weather\", \"parameters\": {rome}}}<|action_end|>"),
        ),
    ] {
        let model = Served { tool_format: Format::named(format), ..saying(&text) };
        let server = start(Options::default(), vec![model]);
        let (told, end) = both(&server, json!({"tools": tools(), "tool_choice": "auto"}));
        assert_eq!((&told["tool_calls"], &end), (&json!([["weather", rome]]), &json!("tool_calls")), "{format}");
        assert_eq!(told["content"].as_str().unwrap_or_default(), "", "{format}");
        // Without tools, or where none may be called, it is a text like any other.
        for ask in [json!({}), json!({"tools": tools(), "tool_choice": "none"})] {
            let (told, end) = both(&server, ask);
            assert_eq!((&told["content"], &told["tool_calls"], &end), (&json!(text), &json!([]), &json!("stop")));
        }
    }
}

#[test]
fn text_and_several_calls_come_in_order() {
    let call = |city: &str| {
        format!("<tool_call>{{\"name\": \"weather\", \"arguments\": {{\"city\": \"{city}\"}}}}</tool_call>")
    };
    let server = server_saying(&format!("I look. {}\n{}", call("Rome"), call("Oslo")));
    let (told, _) = both(&server, json!({"tools": tools()}));
    assert_eq!(told["content"].as_str().unwrap().trim_end(), "I look.");
    assert_eq!(told["tool_calls"], json!([["weather", "{\"city\": \"Rome\"}"], ["weather", "{\"city\": \"Oslo\"}"]]));
    let (told, _) = both(&server, json!({"tools": tools(), "parallel_tool_calls": false}));
    assert_eq!(told["tool_calls"], json!([["weather", "{\"city\": \"Rome\"}"]]));
    let ids =
        server.chat(json!({"tools": tools(), "max_tokens": 400})).ok()["choices"][0]["message"]["tool_calls"].clone();
    assert_ne!(ids[0]["id"], ids[1]["id"]);
}

#[test]
fn what_is_no_call_is_content() {
    for text in [
        "<tool_call>{\"name\": \"weather\", \"arguments\": </tool_call>",
        "<tool_call>{\"name\": \"fly\", \"arguments\": {}}</tool_call>",
        "<tool_call>{\"name\": \"weather\"",
        "a < b",
    ] {
        let (told, end) = both(&server_saying(text), json!({"tools": tools()}));
        assert_eq!((&told["content"], &told["tool_calls"], &end), (&json!(text), &json!([]), &json!("stop")));
    }
}

/// A model that thinks.
fn thinking(text: &str) -> Server {
    let model = saying(text);
    let template = "{{ '<think>' if false }}".to_owned() + &model.template;
    start(Options::default(), vec![Served { template, ..model }])
}

#[test]
fn thoughts_are_told_apart_in_every_api() {
    let server = thinking("<think>\nhm, hm\n</think>\n\nYes.");
    let (told, end) = both(&server, json!({}));
    let found = [&told["reasoning_content"], &told["content"], &end];
    assert_eq!(found, [&json!("hm, hm"), &json!("Yes."), &json!("stop")]);
    let (told, _) = both(&server, json!({"separate_reasoning": false}));
    assert_eq!(told["content"], "<think>\nhm, hm\n</think>\n\nYes.");
    let response = server.post("/v1/responses", &json!({"input": "x", "temperature": 0})).ok();
    assert_eq!(response["output"][0]["type"], "reasoning");
    assert_eq!(response["output"][0]["content"][0]["text"], "hm, hm");
    assert_eq!(response["output"][1]["content"][0]["text"], "Yes.");
    let message = server.post("/v1/messages", &json!({"messages": hello(), "max_tokens": 99, "temperature": 0})).ok();
    assert_eq!(
        (&message["content"][0]["thinking"], &message["content"][1]["text"]),
        (&json!("hm, hm"), &json!("Yes."))
    );
    // What breaks off within is thought, and the answer is empty.
    let (told, _) = both(&thinking("<think>never ends"), json!({}));
    assert_eq!((&told["reasoning_content"], told["content"].as_str().unwrap_or_default()), (&json!("never ends"), ""));
}

#[test]
fn a_call_may_follow_a_thought() {
    let server = thinking("<think>weather?</think><tool_call>{\"name\": \"weather\", \"arguments\": {}}</tool_call>");
    let (told, end) = both(&server, json!({"tools": tools()}));
    let found = [&told["reasoning_content"], &told["tool_calls"], &end];
    assert_eq!(found, [&json!("weather?"), &json!([["weather", "{}"]]), &json!("tool_calls")]);
}
