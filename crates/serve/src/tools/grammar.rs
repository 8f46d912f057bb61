//! `tool_choice` required or named: a grammar of calls in the model's own format, so that the reader finds in it what
//! a free answer would have had.

use planish_engine::GrammarSpec;
use planish_text::Tokenizer;
use serde_json::{Value, json};

use super::{Format, Tool, ToolChoice, pieces};

/// White space between the tokens of arguments: enough for indentation, an end for a model that would go on for ever.
const WHITE_SPACE: &str = r"[\x20\x0A\x0D\x09]{1,40}";
/// Keywords that explain and do not constrain.
const ANNOTATIONS: [&str; 6] = ["description", "title", "examples", "default", "$comment", "deprecated"];
/// Keywords whose value is a map of schemas.
const MAPS: [&str; 5] = ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];
/// Keywords whose value is plain data.
const DATA: [&str; 3] = ["enum", "const", "required"];

/// What an answer must be so that it is one call, or several if `parallel`, of the tools that the choice allows. `None`
/// if the choice leaves the model free. The arguments follow each tool's schema.
pub fn call_grammar(
    format: &Format,
    tools: &[Tool],
    choice: &ToolChoice,
    parallel: bool,
    tokenizer: &Tokenizer,
) -> Option<GrammarSpec> {
    let allowed: Vec<&Tool> = match choice {
        ToolChoice::None | ToolChoice::Auto => return None,
        ToolChoice::Required => tools.iter().collect(),
        ToolChoice::Named(name) => tools.iter().filter(|tool| tool.name == *name).collect(),
    };
    let names: Vec<String> = (0..allowed.len()).map(|i| format!("call_{i}")).collect();
    let form = Form::of(format, tokenizer);
    let again = form.again.iter().map(|again| format!(" ({again} call)*")).filter(|_| parallel).collect::<String>();
    let mut text = format!("start: {} call{again} {}\ncall: {}\n", form.before, form.after, names.join(" | "));
    for (i, tool) in allowed.into_iter().enumerate() {
        let mut schema = tool.schema();
        strip(&mut schema);
        schema["x-guidance"] = json!({"whitespace_pattern": WHITE_SPACE});
        let [before, after] = (form.call)(&tool.name);
        text += &format!("call_{i}: {before} arguments_{i} {after}\narguments_{i}: %json {schema}\n");
    }
    Some(GrammarSpec::Lark(text))
}

/// What stands before and behind the arguments of a call with a name.
type Around = Box<dyn Fn(&str) -> [String; 2]>;

/// The parts of an answer around its calls, as terms of the grammar.
struct Form {
    before: String,
    after: String,
    /// Between two calls; none if there cannot be several.
    again: Option<String>,
    /// Around the arguments of a call with this name.
    call: Around,
}

impl Form {
    fn of(format: &Format, tokenizer: &Tokenizer) -> Form {
        let marker =
            |text: &'static str| pieces(text).map(|piece| term(piece, tokenizer)).collect::<Vec<_>>().join(" ");
        let key = format.arguments;
        let object = move |name: &str| [literal(&format!("{{\"name\": \"{name}\", \"{key}\": ")), literal("}")];
        let open = format.opens.first().copied().unwrap_or_default();
        if let Some(behind) = format.named.filter(|behind| tokenizer.token_to_id(behind).is_some()) {
            let (open, behind) = (marker(open), marker(behind));
            let call = move |name: &str| [format!("{} {behind}", literal(name)), String::new()];
            return Form { before: open.clone(), after: String::new(), again: Some(open), call: Box::new(call) };
        }
        let (before, after, again) = if format.bare {
            (String::new(), String::new(), literal("; "))
        } else if format.close.is_empty() {
            (format!("{} {}", marker(open), literal("[")), literal("]"), literal(", "))
        } else {
            let (open, close) = (format!("{} {}", marker(open), literal("\n")), marker(format.close));
            let again = format!("{} {close} {} {open}", literal("\n"), literal("\n"));
            (open, format!("{} {close}", literal("\n")), again)
        };
        Form { before, after, again: Some(again), call: Box::new(object) }
    }
}

/// A marker: its token if it is a special one, which no text matches, else its text.
fn term(marker: &str, tokenizer: &Tokenizer) -> String {
    match tokenizer.token_to_id(marker).filter(|&id| tokenizer.is_special(id)) {
        Some(id) => format!("<[{id}]>"),
        None => literal(marker),
    }
}

/// A text in quotes: JSON's escapes are Lark's.
fn literal(text: &str) -> String {
    Value::from(text).to_string()
}

/// Leaves out what explains: it makes a grammar long, and its brackets would be counted.
fn strip(schema: &mut Value) {
    match schema {
        Value::Array(items) => items.iter_mut().for_each(strip),
        Value::Object(members) => {
            members.retain(|key, _| !ANNOTATIONS.contains(&key.as_str()));
            for (key, value) in members.iter_mut().filter(|(key, _)| !DATA.contains(&key.as_str())) {
                match value.as_object_mut().filter(|_| MAPS.contains(&key.as_str())) {
                    Some(map) => map.values_mut().for_each(strip),
                    None => strip(value),
                }
            }
        }
        _ => {}
    }
}
