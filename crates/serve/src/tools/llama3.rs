//! Llama 3.1 and later: `{"name": …, "parameters": {…}}` as the whole answer or a line of it, or after
//! `<|python_tag|>`; several calls stand behind each other with `;` or a new line between them.
use super::Format;

/// The format.
pub const FORMAT: Format = Format {
    name: "llama3",
    opens: &["<|python_tag|>"],
    close: "",
    bare: true,
    list: false,
    named: None,
    separator: Some(';'),
    arguments: "parameters",
    signs: &["<|python_tag|>", "Environment: ipython"],
    families: &[],
    short_ids: false,
    template: None,
};
