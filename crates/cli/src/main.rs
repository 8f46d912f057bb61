//! The `planish` command.
#![forbid(unsafe_code)]
fn main() {}
