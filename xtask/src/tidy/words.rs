//! Rules about any text file: no trailing whitespace, nothing that names one machine or a package registry.

use super::Finding;

// Spelled in pieces, so that this file passes its own rules.
const MACHINE_PATHS: [&str; 3] = [concat!("/ro", "ot/"), concat!("/wo", "rk/"), concat!("../sha", "red")];
const REGISTRY_HOSTS: [&str; 6] = [
    concat!("crates", ".io"),
    concat!("pypi", ".org"),
    concat!("pythonhosted", ".org"),
    concat!("npmjs", ".org"),
    concat!("npmjs", ".com"),
    concat!("debian", ".org"),
];

/// Checks one text file line by line. Fixtures are other people's bytes and `Cargo.lock` is cargo's:
/// both may only not name this machine.
pub fn check(path: &str, text: &str) -> Vec<Finding> {
    let ours = !is_fixture(path) && !path.ends_with(".lock");
    let mut findings = Vec::new();
    for (at, line) in text.lines().enumerate() {
        let mut report = |message: String| findings.push(Finding::error(path, at + 1, message));
        for place in MACHINE_PATHS.iter().filter(|place| names_path(line, place)) {
            report(format!("path of one machine: {place}"));
        }
        if !ours {
            continue;
        }
        for host in REGISTRY_HOSTS.iter().filter(|host| line.contains(**host)) {
            report(format!("registry host name: {host}"));
        }
        if line.ends_with([' ', '\t', '\r']) {
            report("trailing whitespace".to_owned());
        }
    }
    findings
}

/// Test data, but not the pages beside it that tell where it came from.
fn is_fixture(path: &str) -> bool {
    path.contains("tests/data/") && !path.ends_with(".md")
}

/// An absolute path matches only where it begins; inside a longer one (`demo/…`) it is someone's folder.
fn names_path(line: &str, place: &str) -> bool {
    line.match_indices(place).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        let inside = |c: char| c.is_alphanumeric() || "_.-~})*".contains(c);
        !place.starts_with('/') || !before.is_some_and(inside)
    })
}

#[cfg(test)]
mod tests {
    use super::{MACHINE_PATHS, REGISTRY_HOSTS, check};

    #[test]
    fn paths_of_one_machine_are_caught() {
        for place in MACHINE_PATHS {
            let found = check("docs/a.md", &format!("fine\nsee {place}x\n"));
            assert_eq!(found.len(), 1, "{place}");
            assert_eq!(found[0].line, 2);
            assert_eq!(check("crates/cpu/tests/data/a.json", &format!("\"{place}x\"")).len(), 1);
        }
        assert_eq!(check("docs/a.md", &format!("demo{}x\n", MACHINE_PATHS[1])), vec![]);
    }

    #[test]
    fn registry_hosts_are_caught_outside_lock_files_and_fixtures() {
        for host in REGISTRY_HOSTS {
            let line = format!("https://{host}/x\n");
            assert_eq!(check("README.md", &line).len(), 1, "{host}");
            assert_eq!(check("Cargo.lock", &line), vec![]);
            assert_eq!(check("crates/text/tests/data/a.txt", &line), vec![]);
            assert_eq!(check("crates/text/tests/data/README.md", &line).len(), 1);
        }
    }

    #[test]
    fn trailing_whitespace_is_caught() {
        let found = check("Makefile", "a:\n\tb \nc\t\nd\n");
        assert_eq!(found.iter().map(|f| f.line).collect::<Vec<_>>(), vec![2, 3]);
        assert_eq!(check("crates/text/tests/data/a.txt", "a \n"), vec![]);
    }
}
