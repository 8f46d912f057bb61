//! Tools in chat templates: conversations as templates expect them, and as text for templates that know no tools.

use serde_json::{Value, json};

use super::{Format, Tool};

/// Whether a template shows tools to the model.
pub fn shows_tools(template: &str) -> bool {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let parts = template.match_indices("tools");
    parts.into_iter().any(|(at, found)| {
        let (before, after) = (template[..at].chars().next_back(), template[at + found.len()..].chars().next());
        !before.is_some_and(is_word) && !after.is_some_and(is_word)
    })
}

/// Brings messages into the form that templates expect: arguments as objects, not as their text; content that is
/// missing beside calls as an empty text; ids as long as the format wants them.
pub fn for_template(format: &Format, messages: &mut Value) {
    for message in messages.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut) {
        if let Some(id) = message.get_mut("tool_call_id").filter(|_| format.short_ids) {
            shorten(id);
        }
        let Some(calls) = message.get_mut("tool_calls").and_then(Value::as_array_mut) else { continue };
        if calls.is_empty() {
            // Templates ask whether there are calls by asking for the field.
            message.remove("tool_calls");
            continue;
        }
        for call in calls {
            if let Some(id) = call.get_mut("id").filter(|_| format.short_ids) {
                shorten(id);
            }
            let Some(arguments) = call.pointer_mut("/function/arguments") else { continue };
            if let Some(object) = arguments.as_str().and_then(|text| serde_json::from_str::<Value>(text).ok()) {
                *arguments = object;
            }
        }
        // Some templates search the content for marks, which fails where there is none.
        let content = message.entry("content").or_insert(Value::Null);
        if content.is_null() {
            *content = json!("");
        }
    }
}

/// For templates that know no tools: the definitions become part of the system message, calls the text that the model
/// would have written, and their results messages of the user.
pub fn spell_out(format: &Format, tools: &[Tool], messages: &mut Value) {
    let Some(list) = messages.as_array_mut() else { return };
    for message in list.iter_mut() {
        let content = message["content"].as_str().unwrap_or_default().to_owned();
        if message["role"] == "tool" {
            *message = json!({"role": "user", "content": format!("<tool_response>\n{content}\n</tool_response>")});
        } else if let Some(calls) = message["tool_calls"].as_array() {
            let calls: Vec<String> = calls.iter().map(|call| spelled(format, &call["function"])).collect();
            let parts = [content].into_iter().chain(calls).filter(|part| !part.is_empty());
            *message = json!({"role": "assistant", "content": parts.collect::<Vec<_>>().join("\n")});
        }
    }
    if tools.is_empty() {
        return;
    }
    let text = description(format, tools);
    match list.first_mut().filter(|first| first["role"] == "system") {
        Some(first) => {
            let own = first["content"].as_str().unwrap_or_default().to_owned();
            first["content"] = json!(format!("{own}\n\n{text}"));
        }
        None => list.insert(0, json!({"role": "system", "content": text})),
    }
}

fn description(format: &Format, tools: &[Tool]) -> String {
    let lines: Vec<String> = tools.iter().map(|tool| tool.definition().to_string()).collect();
    let example = spelled(format, &json!({"name": "NAME", "arguments": {"ARGUMENT": "VALUE"}}));
    format!(
        "You can call functions. Each line describes one:\n{}\n\nTo call one, answer with nothing but its name and \
         arguments in this form:\n{example}",
        lines.join("\n")
    )
}

/// A call as the model writes it.
fn spelled(format: &Format, function: &Value) -> String {
    let arguments = match function["arguments"].as_str() {
        Some(text) => text.to_owned(),
        None => function["arguments"].to_string(),
    };
    let call = format!("{{\"name\": {}, \"{}\": {arguments}}}", function["name"], format.arguments);
    let open = format.opens.first().copied().unwrap_or_default();
    match (format.bare, format.close) {
        (true, _) => call,
        (_, "") => format!("{open}[{call}]"),
        (_, close) => format!("{open}\n{call}\n{close}"),
    }
}

/// The last nine letters and digits of an id that is longer.
fn shorten(id: &mut Value) {
    let text = id.as_str().unwrap_or_default();
    let kept: Vec<char> = text.chars().filter(char::is_ascii_alphanumeric).collect();
    if kept.len() >= 9 && text.len() != 9 {
        *id = json!(kept[kept.len() - 9..].iter().collect::<String>());
    }
}
