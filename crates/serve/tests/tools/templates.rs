//! Conversations with calls and results on their way into chat templates.
use planish_serve::tools::{Format, Tool, for_template, shows_tools, spell_out};
use planish_text::{ChatInput, ChatTemplate};
use serde_json::{Value, json};

fn format(name: &str) -> &'static Format {
    Format::named(name).unwrap()
}

/// As OpenAI's clients send it.
fn conversation() -> Value {
    json!([
        {"role": "user", "content": "Weather?"},
        {"role": "assistant", "tool_calls": [
            {"id": "call_abcdefghijkl", "type": "function",
             "function": {"name": "get_weather", "arguments": "{\"city\": \"Paris\", \"n\": 1.50}"}}]},
        {"role": "tool", "tool_call_id": "call_abcdefghijkl", "content": "22"},
        {"role": "assistant", "content": "22.", "tool_calls": []},
        {"role": "assistant", "tool_calls": [{"id": "x", "function": {"name": "a", "arguments": "no JSON"}}]},
    ])
}

fn tools() -> Vec<Tool> {
    let parameters = Some(json!({"type": "object", "properties": {"city": {"type": "string"}}}));
    vec![Tool { name: "get_weather".to_owned(), description: Some("The weather".to_owned()), parameters }]
}

#[test]
fn arguments_become_objects_and_ids_fit() {
    let mut messages = conversation();
    for_template(format("hermes"), &mut messages);
    assert_eq!(messages[1]["tool_calls"][0]["function"]["arguments"], json!({"city": "Paris", "n": 1.5}));
    assert_eq!(messages[1]["content"], json!(""), "templates search it");
    assert_eq!(messages[3], json!({"role": "assistant", "content": "22."}), "an empty list is no list");
    assert_eq!(messages[4]["tool_calls"][0]["function"]["arguments"], json!("no JSON"));
    assert_eq!(messages[2]["tool_call_id"], json!("call_abcdefghijkl"));
    for_template(format("mistral"), &mut messages);
    assert_eq!(messages[2]["tool_call_id"], json!("defghijkl"));
    assert_eq!(messages[1]["tool_calls"][0]["id"], json!("defghijkl"));
    assert_eq!(messages[4]["tool_calls"][0]["id"], json!("x"), "too short to be shortened");
}

#[test]
fn a_template_without_tools_gets_them_as_text() {
    let mut messages = conversation();
    spell_out(format("hermes"), &tools(), &mut messages);
    let text = |at: usize| messages[at]["content"].as_str().unwrap();
    assert!(text(0).contains("\"get_weather\"") && text(0).contains("<tool_call>"), "{}", text(0));
    assert_eq!(
        text(2),
        "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Paris\", \"n\": 1.50}}\n</tool_call>"
    );
    assert_eq!((text(3), &messages[3]["role"]), ("<tool_response>\n22\n</tool_response>", &json!("user")));
    assert!(messages.as_array().unwrap().iter().all(|m| m.get("tool_calls").is_none() && m["content"].is_string()));
    let mut messages = json!([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]);
    spell_out(format("llama3"), &tools(), &mut messages);
    let system = messages[0]["content"].as_str().unwrap();
    assert!(system.starts_with("Be kind.\n\n") && system.contains("\"parameters\": {\"ARGUMENT\""), "{system}");
    assert_eq!(messages.as_array().unwrap().len(), 2);
    let mut messages = json!([{"role": "user", "content": "Hi"}]);
    spell_out(format("hermes"), &[], &mut messages);
    assert_eq!(messages, json!([{"role": "user", "content": "Hi"}]));
}

#[test]
fn templates_that_show_tools_are_known() {
    for (template, shows) in [
        ("{% if tools %}x{% endif %}", true),
        ("{%- for t in tools %}", true),
        ("{{ messages }}", false),
        ("{{ mytools }} {{ tools_in_user }}", false),
    ] {
        assert_eq!(shows_tools(template), shows, "{template}");
    }
    assert!(shows_tools(format("internlm2").own_template().unwrap()));
    assert!(["hermes", "llama3", "mistral"].iter().all(|name| format(name).own_template().is_none()));
}

#[test]
fn internlm_s_own_template_shows_everything() {
    let mut messages = conversation();
    messages.as_array_mut().unwrap().truncate(3);
    for_template(format("internlm2"), &mut messages);
    let tools = Value::Array(tools().iter().map(Tool::definition).collect());
    let input = ChatInput { messages, tools: Some(tools), add_generation_prompt: true, ..ChatInput::default() };
    let template = ChatTemplate::new(format("internlm2").own_template().unwrap(), [("bos_token", "<s>")]).unwrap();
    assert_eq!(
        template.render(&input).unwrap(),
        "<s><|im_start|>system name=<|plugin|>\n[{\"name\": \"get_weather\", \"description\": \"The weather\", \
         \"parameters\": {\"type\": \"object\", \"properties\": {\"city\": {\"type\": \"string\"}}}}]<|im_end|>\n\
         <|im_start|>user\nWeather?<|im_end|>\n<|im_start|>assistant\n<|action_start|><|plugin|>\n{\"name\": \
         \"get_weather\", \"parameters\": {\"city\": \"Paris\", \"n\": 1.5}}<|action_end|><|im_end|>\n\
         <|im_start|>environment name=<|plugin|>\n22<|im_end|>\n<|im_start|>assistant\n"
    );
}
