//! InternLM 2 and 2.5: `<|action_start|><|plugin|>{"name": …, "parameters": {…}}<|action_end|>`, once for each call.
use super::Format;

/// The format.
pub const FORMAT: Format = Format {
    name: "internlm2",
    opens: &["<|action_start|><|plugin|>", "<|action_start|> <|plugin|>"],
    close: "<|action_end|>",
    bare: false,
    list: false,
    named: None,
    separator: None,
    arguments: "parameters",
    signs: &["<|action_start|>"],
    families: &["internlm2"],
    short_ids: false,
    template: Some(include_str!("internlm2.jinja")),
};
