//! Tools in the chat templates of four families: the same text as transformers renders.
//!
//! The templates are written for this test after the families' documentation, with the means that theirs use; what
//! they must give was rendered by transformers (see `data/README.md`).

use planish_text::{ChatInput, ChatTemplate, TextError};
use serde_json::Value;

const RENDERED: &[u8] = include_bytes!("data/templates/rendered.json");

#[test]
fn tools_calls_and_results_render_as_in_transformers() {
    let rendered: Value = serde_json::from_slice(RENDERED).unwrap();
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let special = rendered["special"].as_object().unwrap();
    let mut refused = 0;
    for (name, source) in [
        ("llama31", include_str!("data/templates/llama31.jinja")),
        ("qwen25", include_str!("data/templates/qwen25.jinja")),
        ("mistral", include_str!("data/templates/mistral.jinja")),
        ("internlm25", include_str!("data/templates/internlm25.jinja")),
    ] {
        let special = special.iter().map(|(name, token)| (name.as_str(), text(token)));
        let template = ChatTemplate::new(source, special).unwrap().with_time(rendered["now"].as_u64().unwrap());
        for case in rendered["cases"].as_array().unwrap() {
            let input = ChatInput {
                messages: case["messages"].clone(),
                tools: Some(case["tools"].clone()).filter(|tools| !tools.is_null()),
                add_generation_prompt: case["add_generation_prompt"] == true,
                ..ChatInput::default()
            };
            match (template.render(&input), &case["texts"][name]) {
                (Ok(found), Value::String(expected)) => assert_eq!(&found, expected, "{name}: {}", case["name"]),
                (Err(TextError::TemplateRefused(found)), expected) => {
                    assert_eq!(found, expected["refused"], "{name}: {}", case["name"]);
                    refused += 1;
                }
                (found, expected) => panic!("{name}: {}: {found:?}, expected {expected}", case["name"]),
            }
        }
    }
    assert!(refused < 3, "{refused}");
}
