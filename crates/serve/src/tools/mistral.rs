//! Mistral: `[TOOL_CALLS][{"name": …, "arguments": {…}}, …]`; newer models write `[TOOL_CALLS]name[ARGS]{…}` for each
//! call.
use super::Format;

/// The format.
pub const FORMAT: Format = Format {
    name: "mistral",
    opens: &["[TOOL_CALLS]"],
    close: "",
    bare: false,
    list: true,
    named: Some("[ARGS]"),
    separator: None,
    arguments: "arguments",
    signs: &["[TOOL_CALLS]"],
    families: &["mistral", "mixtral"],
    short_ids: true,
    template: None,
};
