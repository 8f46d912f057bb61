//! Rules about Rust source: how a file opens, how long it is, what it is called,
//! and where `unsafe`, `cfg(feature)` and unfinished code may stand (nowhere, for the last).

use super::Finding;
use super::mask::{find_word, line_of, mask};

const LONGEST: usize = 500;
const LONG: usize = 400;

/// Files that may be longer than [`LONGEST`], and why: tables, never stories.
const ALLOWED_LONG: &[(&str, &str)] = &[];

/// A name that says nothing about what is inside.
const EMPTY_NAMES: [&str; 9] = ["utils", "util", "helpers", "helper", "common", "misc", "manager", "managers", "base"];

/// The only crates with `unsafe`: device code, and one memory map.
const UNSAFE_CRATES: [&str; 3] = ["cpu", "cuda", "checkpoint"];

/// The only crate that asks what it was built with.
const CFG_CRATE: &str = "devices";

/// Checks one `.rs` file.
pub fn check(path: &str, text: &str) -> Vec<Finding> {
    let code = mask(text);
    let mut findings = Vec::new();
    findings.extend(opening(path, text));
    findings.extend(length(path, text, ALLOWED_LONG));
    findings.extend(modules(path, &code));
    findings.extend(features(path, text, &code));
    findings.extend(forbids(path, &code));
    findings.extend(unsafety(path, text, &code));
    findings.extend(unfinished(path, &code));
    findings
}

/// Checks the name of any source file. Fixtures keep the names they came with.
pub fn name(path: &str) -> Option<Finding> {
    let (stem, extension) = path.rsplit_once('.')?;
    let source = ["rs", "cu", "cuh", "h", "py", "sh"].contains(&extension);
    if !source || path.contains("tests/data/") {
        return None;
    }
    let part = stem.split('/').find(|part| EMPTY_NAMES.contains(part))?;
    Some(Finding::error(path, 1, format!("`{part}` names nothing: say what is inside")))
}

/// An allowance for a file that is gone must go too.
pub fn stale_allowances(paths: &[String]) -> Vec<Finding> {
    let gone = |(path, _): &&(&str, &str)| !paths.iter().any(|known| known == path);
    let stale = ALLOWED_LONG.iter().filter(gone);
    stale.map(|(path, _)| Finding::error(path, 1, "allowed to be long, but does not exist")).collect()
}

fn opening(path: &str, text: &str) -> Option<Finding> {
    let message = "must open with `//!`: one to five lines on what this file is for";
    (!text.starts_with("//!")).then(|| Finding::error(path, 1, message))
}

fn length(path: &str, text: &str, allowed: &[(&str, &str)]) -> Option<Finding> {
    let lines = text.lines().count();
    if allowed.iter().any(|(known, _)| *known == path) || lines <= LONG {
        return None;
    }
    if lines > LONGEST {
        return Some(Finding::error(path, lines, format!("{lines} lines, more than {LONGEST}: split it by topic")));
    }
    Some(Finding::warning(path, lines, format!("{lines} lines, more than {LONG}: time to split it")))
}

fn modules(path: &str, code: &str) -> Vec<Finding> {
    let named = find_word(code, "mod").filter_map(|at| {
        let rest = code[at + 3..].trim_start();
        let end = rest.find(|c: char| c != '_' && !c.is_alphanumeric()).unwrap_or(rest.len());
        let message = format!("module `{}` names nothing: say what is inside", &rest[..end]);
        EMPTY_NAMES.contains(&&rest[..end]).then(|| Finding::error(path, line_of(code, at), message))
    });
    named.collect()
}

/// Any `cfg(…)`, `cfg!(…)` or `cfg_attr(…)` whose condition asks for a feature.
fn features(path: &str, text: &str, code: &str) -> Vec<Finding> {
    if crate_of(path) == Some(CFG_CRATE) {
        return Vec::new();
    }
    let asks = |at: &usize| {
        let rest = &code[*at..];
        let Some(open) = rest.find('(') else {
            return false;
        };
        let between = rest[..open].trim_start_matches(|c: char| c == '_' || c.is_alphanumeric());
        between.trim_start_matches('!').trim().is_empty()
            && find_word(&rest[..group_end(rest, open)], "feature").next().is_some()
    };
    let found = ["cfg", "cfg_attr"].into_iter().flat_map(|word| find_word(code, word)).filter(asks);
    let message = "cfg(feature) outside crates/devices: there is one place that names back ends";
    found.map(|at| Finding::error(path, line_of(text, at), message)).collect()
}

/// The end of the parenthesised group that opens at `open`.
fn group_end(code: &str, open: usize) -> usize {
    let mut depth = 0usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'(' => depth += 1,
            b')' if depth == 1 => return at,
            b')' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

fn forbids(path: &str, code: &str) -> Option<Finding> {
    let root = path.ends_with("/src/lib.rs") || path.ends_with("/src/main.rs");
    let missing = root && !may_be_unsafe(path) && !code.contains("#![forbid(unsafe_code)]");
    missing.then(|| Finding::error(path, 1, "`#![forbid(unsafe_code)]` is missing"))
}

fn unsafety(path: &str, text: &str, code: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    let lines: Vec<&str> = text.lines().collect();
    for at in find_word(code, "unsafe") {
        let line = line_of(code, at);
        let rest = code[at + "unsafe".len()..].trim_start();
        if !may_be_unsafe(path) {
            let message = format!("`unsafe` outside {}", UNSAFE_CRATES.join(", "));
            findings.push(Finding::error(path, line, message));
        } else if (rest.starts_with('{') || rest.starts_with("impl")) && !is_argued(&lines, line - 1) {
            findings.push(Finding::error(path, line, "no `// SAFETY:` on or right above this `unsafe`"));
        }
    }
    findings
}

/// Whether `SAFETY:` stands on line `at` or in the comments above the statement that it belongs to.
fn is_argued(lines: &[&str], at: usize) -> bool {
    if lines[at].contains("SAFETY:") {
        return true;
    }
    for line in lines[..at].iter().rev().map(|line| line.trim()) {
        let beside = line.starts_with("//") || line.starts_with("#[");
        if beside && line.contains("SAFETY:") {
            return true;
        }
        if !beside && (line.is_empty() || line.ends_with([';', '{', '}', ','])) {
            return false;
        }
    }
    false
}

fn unfinished(path: &str, code: &str) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (sign, message) in [
        ("#[ignore", "an ignored test proves nothing: mend or remove it"),
        ("todo!(", "unfinished code"),
        ("unimplemented!(", "unfinished code"),
    ] {
        let found = code.match_indices(sign).map(|(at, _)| line_of(code, at));
        findings.extend(found.map(|line| Finding::error(path, line, message)));
    }
    findings
}

fn may_be_unsafe(path: &str) -> bool {
    crate_of(path).is_some_and(|krate| UNSAFE_CRATES.contains(&krate))
}

/// `crates/<this>/…`
fn crate_of(path: &str) -> Option<&str> {
    path.strip_prefix("crates/")?.split('/').next()
}

#[cfg(test)]
mod tests;
