//! Qwen and Hermes: `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, once for each call (SmolLM2 puts a list of
//! calls there).
use super::Format;

/// The format.
pub const FORMAT: Format = Format {
    name: "hermes",
    opens: &["<tool_call>"],
    close: "</tool_call>",
    bare: false,
    list: true,
    named: None,
    separator: None,
    arguments: "arguments",
    signs: &["<tool_call>"],
    families: &[],
    short_ids: false,
    template: None,
};
