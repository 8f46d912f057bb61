//! The house rules. Each rule is a pure function from a path and its text to findings;
//! this file walks the repository and prints them as `file:line: message`.

mod floors;
mod mask;
mod source;
mod words;

use std::fmt;

use crate::tree::Tree;

/// What a finding does to the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// Printed only.
    Warning,
    /// Printed, and tidy fails.
    Error,
}

/// One broken rule at one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    level: Level,
    path: String,
    /// Counted from 1.
    line: usize,
    message: String,
}

impl Finding {
    fn error(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { level: Level::Error, path: path.to_owned(), line, message: message.into() }
    }

    fn warning(path: &str, line: usize, message: impl Into<String>) -> Self {
        Self { level: Level::Warning, ..Self::error(path, line, message) }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = if self.level == Level::Warning { "warning: " } else { "" };
        write!(f, "{}:{}: {mark}{}", self.path, self.line, self.message)
    }
}

/// Checks every file; fails when any finding is an error.
pub fn run() -> Result<(), String> {
    let tree = Tree::open()?;
    let mut findings = source::stale_allowances(&tree.paths);
    let mut read = 0;
    for path in &tree.paths {
        findings.extend(source::name(path));
        if let Some(text) = tree.text(path)? {
            read += 1;
            findings.extend(check(path, &text));
        }
    }
    for finding in &findings {
        println!("{finding}");
    }
    let errors = findings.iter().filter(|f| f.level == Level::Error).count();
    let warnings = findings.len() - errors;
    println!("tidy: {read} text files, {errors} errors, {warnings} warnings");
    if errors > 0 { Err(format!("{errors} house rules broken")) } else { Ok(()) }
}

fn check(path: &str, text: &str) -> Vec<Finding> {
    let mut findings = words::check(path, text);
    if path.ends_with(".rs") {
        findings.extend(source::check(path, text));
    }
    if path == "Cargo.toml" {
        findings.extend(floors::pins(path, text));
    } else if path.ends_with("Cargo.toml") {
        findings.extend(floors::check(path, text));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::{Finding, check};

    #[test]
    fn a_finding_names_file_and_line() {
        let error = Finding::error("crates/cpu/src/lib.rs", 7, "too long");
        assert_eq!(error.to_string(), "crates/cpu/src/lib.rs:7: too long");
        let warning = Finding::warning("a.rs", 1, "long");
        assert_eq!(warning.to_string(), "a.rs:1: warning: long");
    }

    #[test]
    fn each_kind_of_file_meets_its_rules() {
        assert_eq!(check("crates/cpu/src/gemm.rs", "//! Products.\n"), vec![]);
        assert_eq!(check("crates/cpu/src/gemm.rs", "fn f() {} \n").len(), 2);
        assert_eq!(check("notes.md", "fn f() {} \n").len(), 1);
        let upward = "[dependencies]\nplanish-engine.workspace = true\n";
        assert_eq!(check("crates/tensor/Cargo.toml", upward).len(), 1);
        assert_eq!(check("Cargo.toml", "[workspace.dependencies]\nx = \"1\"\n").len(), 1);
    }
}
