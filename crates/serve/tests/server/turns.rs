//! Tools, and the two other ways to hold a conversation: OpenAI's Responses and Anthropic's Messages.
use crate::client::Answer;
use crate::setting::*;
use serde_json::{Value, json};

fn schema() -> Value {
    json!({"type": "object", "properties": {"city": {"enum": ["Rome", "Oslo"]}}, "required": ["city"],
        "additionalProperties": false})
}

fn tools() -> Value {
    json!([{"type": "function", "function": {"name": "weather", "parameters": schema()}},
        {"type": "function", "function": {"name": "stop"}}])
}

fn named() -> Value {
    json!({"type": "function", "function": {"name": "weather"}})
}

/// A call of `weather` with arguments that fit its schema.
#[track_caller]
fn check_call(name: &Value, arguments: &str) {
    assert_eq!(name, "weather");
    let arguments: Value = serde_json::from_str(arguments).unwrap_or_else(|e| panic!("{e}: {arguments}"));
    assert!(["Rome", "Oslo"].contains(&arguments["city"].as_str().unwrap()), "{arguments}");
}

#[test]
fn a_call_that_is_asked_for_comes_and_fits_its_schema() {
    let server = server();
    let ask = json!({"tools": tools(), "tool_choice": named(), "parallel_tool_calls": false, "max_tokens": 150});
    let whole = server.chat(ask.clone()).ok();
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "tool_calls", "{whole}");
    assert!(choice["message"]["content"].is_null());
    let calls = choice["message"]["tool_calls"].as_array().unwrap();
    assert_eq!((calls.len(), &calls[0]["type"]), (1, &json!("function")));
    check_call(&calls[0]["function"]["name"], calls[0]["function"]["arguments"].as_str().unwrap());
    let (mut name, mut arguments, mut ids) = (Value::Null, String::new(), Vec::new());
    let events = server.chat(with(ask, json!({"stream": true}))).events();
    for call in events.iter().filter_map(|e| e["choices"][0]["delta"]["tool_calls"][0].as_object()) {
        assert_eq!(call["index"], 0);
        ids.extend(call.get("id").cloned());
        name = call["function"].get("name").cloned().unwrap_or(name);
        arguments += call["function"]["arguments"].as_str().unwrap();
    }
    check_call(&name, &arguments);
    assert_eq!(ids.len(), 1, "the id comes once");
    assert_eq!(events.last().unwrap()["choices"][0]["finish_reason"], "tool_calls");
    let required = server
        .chat(json!({"tools": tools(), "tool_choice": "required", "max_tokens": 150,
        "parallel_tool_calls": false}))
        .ok();
    assert_eq!(required["choices"][0]["finish_reason"], "tool_calls");
    server.at_rest();
}

#[test]
fn a_conversation_may_hold_calls_and_their_results() {
    let server = server();
    let messages = json!([{"role": "user", "content": "w?"},
        {"role": "assistant", "tool_calls": [{"id": "call_1", "type": "function",
            "function": {"name": "weather", "arguments": "{\"city\":\"Rome\"}"}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "sunny"}]);
    let tokens = server.post("/tokenize", &json!({"messages": messages})).ok()["tokens"].clone();
    let bytes: Vec<u8> = tokens.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u8).collect();
    let text = String::from_utf8(bytes).unwrap();
    assert!(text.contains("weather") && text.contains("Rome") && text.contains("sunny"), "{text}");
    server.chat(json!({"messages": messages})).ok();
}

#[test]
fn wrong_tools_are_named() {
    let server = server();
    for (body, param) in [
        (json!({"tools": [{"type": "web_search", "function": {"name": "x"}}]}), "tools[0].type"),
        (json!({"tools": [{"type": "function", "function": {"name": "a b"}}]}), "tools[0].function.name"),
        (json!({"tools": [{"type": "function", "function": {}}]}), "tools[0].function"),
        (
            json!({"tools": tools(), "tool_choice": {"type": "function", "function": {"name": "fly"}}}),
            "tool_choice.function.name",
        ),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"tools": tools(), "tool_choice": "maybe"}), "tool_choice"),
        (
            json!({"tools": tools(), "tool_choice": "required", "response_format": {"type": "json_object"}}),
            "response_format",
        ),
    ] {
        assert_eq!(server.chat(body.clone()).error(400)["param"], param, "{body}");
    }
    let none = server.chat(json!({"tools": tools(), "tool_choice": "none"})).ok();
    assert_eq!(
        none["usage"],
        server.chat(json!({})).ok()["usage"],
        "the model is not shown tools that it may not call"
    );
    let broken = json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "nonsense"}}}]);
    assert_eq!(server.chat(json!({"tools": broken, "tool_choice": "required"})).error(400)["param"], "tools");
}

/// The events of a stream that has names instead of a `[DONE]`.
fn named_events(answer: &Answer) -> Vec<Value> {
    assert_eq!(answer.status, 200, "{}", answer.text());
    let parse = |event: &str| {
        let (name, data) = event.split_once("\ndata: ").unwrap();
        let data: Value = serde_json::from_str(data).unwrap();
        assert_eq!(name, format!("event: {}", data["type"].as_str().unwrap()));
        data
    };
    answer.text().split("\n\n").filter(|e| !e.is_empty()).map(parse).collect()
}

#[test]
fn responses_tell_a_text_in_items() {
    let server = server();
    let ask = json!({"input": "Hello", "instructions": "Be brief", "max_output_tokens": 9, "temperature": 0});
    let whole = server.post("/v1/responses", &ask).ok();
    assert_eq!((&whole["object"], &whole["status"]), (&json!("response"), &json!("incomplete")));
    assert_eq!(whole["incomplete_details"]["reason"], "max_output_tokens");
    let item = &whole["output"][0];
    assert_eq!(
        (&item["type"], &item["role"], &item["content"][0]["type"]),
        (&json!("message"), &json!("assistant"), &json!("output_text"))
    );
    assert_eq!(item["status"], "incomplete", "{item}");
    assert_eq!(whole["usage"]["input_tokens"], "system: Be brief\nuser: Hello\nassistant: ".len());
    assert_eq!(whole["usage"]["output_tokens"], 9);
    let events = named_events(&server.post("/v1/responses", &with(ask, json!({"stream": true}))));
    assert!(events.iter().enumerate().all(|(i, e)| e["sequence_number"] == i));
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!(
        kinds[..4],
        ["response.created", "response.in_progress", "response.output_item.added", "response.content_part.added"]
    );
    let tail =
        ["response.output_text.done", "response.content_part.done", "response.output_item.done", "response.incomplete"];
    assert_eq!(kinds[kinds.len() - 4..], tail);
    let text: String = events
        .iter()
        .filter(|e| e["type"] == "response.output_text.delta")
        .map(|e| e["delta"].as_str().unwrap())
        .collect();
    assert_eq!(item["content"][0]["text"], text);
    assert_eq!(events[events.len() - 2]["item"]["status"], "incomplete");
    assert_eq!(events.last().unwrap()["response"]["output"][0]["content"], item["content"]);
}

#[test]
fn responses_call_functions_and_take_their_results() {
    let server = server();
    let tools = json!([{"type": "function", "name": "weather", "parameters": schema()}]);
    let ask = json!({"input": "w?", "tools": tools, "tool_choice": "required", "max_output_tokens": 150,
        "parallel_tool_calls": false, "temperature": 0});
    let whole = server.post("/v1/responses", &ask).ok();
    let call = whole["output"].as_array().unwrap().iter().find(|i| i["type"] == "function_call").unwrap();
    check_call(&call["name"], call["arguments"].as_str().unwrap());
    assert_eq!(call["status"], "completed");
    let events = named_events(&server.post("/v1/responses", &with(ask, json!({"stream": true}))));
    let arguments: String = events
        .iter()
        .filter(|e| e["type"] == "response.function_call_arguments.delta")
        .map(|e| e["delta"].as_str().unwrap())
        .collect();
    check_call(&json!("weather"), &arguments);
    let input = json!([{"role": "user", "content": [{"type": "input_text", "text": "w?"}]}, call,
        {"type": "function_call_output", "call_id": call["call_id"], "output": "sunny"}]);
    server.post("/v1/responses", &json!({"input": input, "max_output_tokens": 2})).ok();
    for body in [
        json!({"input": "x", "previous_response_id": "resp_1"}),
        json!({"input": "x", "store": true}),
        json!({"input": "x", "background": true}),
        json!({"input": []}),
        json!({}),
        json!({"input": [{"type": "odd"}]}),
        json!({"input": "x", "tools": [{"type": "web_search"}]}),
        json!({"input": "x", "max_output_tokens": 0}),
    ] {
        server.post("/v1/responses", &body).error(400);
    }
}

#[test]
fn messages_tell_a_text_in_blocks() {
    let server = server();
    let ask = json!({"messages": hello(), "system": [{"type": "text", "text": "Be brief"}], "max_tokens": 9,
        "temperature": 0});
    let whole = server.post("/v1/messages", &ask).ok();
    assert_eq!(
        (&whole["type"], &whole["role"], &whole["stop_reason"]),
        (&json!("message"), &json!("assistant"), &json!("max_tokens"))
    );
    assert_eq!(whole["content"][0]["type"], "text");
    assert_eq!(whole["usage"]["output_tokens"], 9);
    let count = server.post("/v1/messages/count_tokens", &ask).ok();
    assert_eq!(count["input_tokens"], whole["usage"]["input_tokens"]);
    let events = named_events(&server.post("/v1/messages", &with(ask.clone(), json!({"stream": true}))));
    let kinds: Vec<&str> = events.iter().map(|e| e["type"].as_str().unwrap()).collect();
    assert_eq!((kinds[0], kinds[1]), ("message_start", "content_block_start"));
    assert_eq!(kinds[kinds.len() - 3..], ["content_block_stop", "message_delta", "message_stop"]);
    let text: String = events.iter().filter_map(|e| e["delta"]["text"].as_str()).collect();
    assert_eq!(whole["content"][0]["text"], text);
    let delta = &events[events.len() - 2];
    assert_eq!((&delta["delta"]["stop_reason"], &delta["usage"]["output_tokens"]), (&json!("max_tokens"), &json!(9)));
    // A stop sequence is told by name.
    let stop: String = text.chars().skip(3).take(2).collect();
    let stopped = server.post("/v1/messages", &with(ask, json!({"stop_sequences": [stop]}))).ok();
    assert_eq!((&stopped["stop_reason"], &stopped["stop_sequence"]), (&json!("stop_sequence"), &json!(stop)));
}

#[test]
fn messages_use_tools_and_take_their_results() {
    let server = server();
    let tools = json!([{"name": "weather", "input_schema": schema()}]);
    let ask = json!({"messages": hello(), "tools": tools, "max_tokens": 150, "temperature": 0,
        "tool_choice": {"type": "any", "disable_parallel_tool_use": true}});
    let whole = server.post("/v1/messages", &ask).ok();
    assert_eq!(whole["stop_reason"], "tool_use");
    let used = whole["content"].as_array().unwrap().iter().find(|b| b["type"] == "tool_use").unwrap();
    check_call(&used["name"], &used["input"].to_string());
    let events = named_events(&server.post("/v1/messages", &with(ask, json!({"stream": true}))));
    let input: String = events.iter().filter_map(|e| e["delta"]["partial_json"].as_str()).collect();
    check_call(&json!("weather"), &input);
    let messages = json!([{"role": "user", "content": "w?"}, {"role": "assistant", "content": [used]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": used["id"], "content": "sunny"}]}]);
    server.post("/v1/messages", &json!({"messages": messages, "max_tokens": 2})).ok();
    for body in [
        json!({"messages": hello()}),
        json!({"max_tokens": 5}),
        json!({"messages": [], "max_tokens": 5}),
        json!({"messages": [{"role": "system", "content": "x"}], "max_tokens": 5}),
        json!({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}], "max_tokens": 5}),
        json!({"messages": hello(), "max_tokens": 5, "tool_choice": {"type": "tool"}}),
        json!({"messages": hello(), "max_tokens": 5, "temperature": 1.5}),
        json!({"messages": hello(), "max_tokens": 5, "top_k": -1}),
        json!({"messages": hello(), "max_tokens": 5, "mcp_servers": [{}]}),
    ] {
        server.post("/v1/messages", &body).error(400);
    }
}

#[test]
fn an_answer_that_is_begun_is_not_taken_for_a_turn() {
    let server = server();
    let messages = json!([hello()[0], {"role": "assistant", "content": "The answer is ("}]);
    let error = server.post("/v1/messages", &json!({"messages": messages, "max_tokens": 5})).error(400);
    assert_eq!(error["param"], "messages[1]");
    server.post("/v1/messages/count_tokens", &json!({"messages": messages})).ok();
}

#[test]
fn a_failed_call_is_told_as_an_error() {
    let server = server();
    let count = |more: Value| {
        let result = with(json!({"type": "tool_result", "tool_use_id": "t", "content": "no"}), more);
        let called = json!({"type": "tool_use", "id": "t", "name": "f", "input": {}});
        let messages =
            json!([hello()[0], {"role": "assistant", "content": [called]}, {"role": "user", "content": [result]}]);
        let count = server.post("/v1/messages/count_tokens", &json!({"messages": messages})).ok();
        count["input_tokens"].as_u64().unwrap()
    };
    let plain = count(json!({}));
    assert_eq!(count(json!({"is_error": false})), plain);
    assert_eq!(count(json!({"is_error": true})), plain + "error: ".len() as u64);
}
