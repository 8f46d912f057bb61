//! Which crate may use which: arrows point down only. Also that versions are pinned in one place.

use super::Finding;

/// A crate, what it may depend on, and what its tests may use besides (always of a lower floor).
struct Floor {
    krate: &'static str,
    uses: &'static [&'static str],
    tests_use: &'static [&'static str],
}

const fn floor(krate: &'static str, uses: &'static [&'static str], tests_use: &'static [&'static str]) -> Floor {
    Floor { krate, uses, tests_use }
}

const BELOW_ROOF: &[&str] =
    &["tensor", "cpu", "cuda", "devices", "checkpoint", "text", "model", "quant", "engine", "serve", "eval"];
const THIRD_USES: &[&str] = &["model", "text", "checkpoint", "tensor"];
const FOURTH_USES: &[&str] = &["engine", "text", "checkpoint"];

/// From the ground up; ARCHITECTURE.md explains it.
const FLOORS: &[Floor] = &[
    floor("tensor", &[], &[]),
    floor("cpu", &["tensor"], &[]),
    floor("cuda", &["tensor"], &["cpu"]),
    floor("checkpoint", &["tensor"], &[]),
    floor("text", &["tensor"], &[]),
    floor("devices", &["cpu", "cuda", "tensor"], &[]),
    floor("model", &["tensor", "checkpoint"], &["cpu"]),
    floor("quant", THIRD_USES, &["cpu", "cuda"]),
    floor("engine", THIRD_USES, &["cpu"]),
    floor("serve", FOURTH_USES, &["cpu", "model", "tensor"]),
    floor("eval", FOURTH_USES, &["cpu", "model", "tensor"]),
    floor("cli", BELOW_ROOF, &[]),
    floor("python", &["cli", "devices", "engine", "quant", "text"], &[]),
];

/// Libraries have error enums; only the roof may give up types for a message.
const ROOF_ONLY: &[&str] = &["anyhow", "clap"];
const ROOF: &[&str] = &["cli", "python"];

/// Checks the manifest of one member of the workspace.
pub fn check(path: &str, text: &str) -> Vec<Finding> {
    let folder = path.trim_end_matches("/Cargo.toml").rsplit('/').next().unwrap_or_default();
    let uses = dependencies(text);
    if !path.starts_with("crates/") {
        return uses.iter().filter_map(|used| unpinned(path, used)).collect();
    }
    let Some(floor) = FLOORS.iter().find(|floor| floor.krate == folder) else {
        return vec![Finding::error(path, 1, format!("crate `{folder}` stands on no floor: add it to the table"))];
    };
    let broken = |used: &Dependency| forbidden(path, floor, used).or_else(|| unpinned(path, used));
    uses.iter().filter_map(broken).collect()
}

/// Every outside version in the root manifest is exact: an upgrade is a decision.
pub fn pins(path: &str, text: &str) -> Vec<Finding> {
    let outside = dependencies(text).into_iter().filter(|used| !used.value.contains("path ="));
    outside
        .filter(|used| !used.value.contains("\"="))
        .map(|used| Finding::error(path, used.line, format!("`{}` is not pinned as \"=x.y.z\"", used.name)))
        .collect()
}

fn forbidden(path: &str, floor: &Floor, used: &Dependency) -> Option<Finding> {
    if ROOF_ONLY.contains(&used.name.as_str()) && !ROOF.contains(&floor.krate) && !used.for_tests {
        let message = format!("`{}` uses `{}`, which belongs to the roof only", floor.krate, used.name);
        return Some(Finding::error(path, used.line, message));
    }
    let ours = used.name.strip_prefix("planish-")?;
    let allowed = floor.uses.contains(&ours) || (used.for_tests && floor.tests_use.contains(&ours));
    let kind = if used.for_tests { "dev-depend" } else { "depend" };
    let message = format!("`{}` may not {kind} on `{ours}`: arrows point down only", floor.krate);
    (!allowed).then(|| Finding::error(path, used.line, message))
}

fn unpinned(path: &str, used: &Dependency) -> Option<Finding> {
    let message = format!("`{}` must come from [workspace.dependencies]", used.name);
    (!used.value.contains("workspace")).then(|| Finding::error(path, used.line, message))
}

/// One dependency as a manifest writes it.
struct Dependency {
    /// The package, also where it is renamed.
    name: String,
    /// The rest of the line, or the whole body of its own table.
    value: String,
    for_tests: bool,
    line: usize,
}

/// Reads the part of TOML that manifests use: `name = …`, `name.workspace = true` and `[dependencies.name]`.
fn dependencies(text: &str) -> Vec<Dependency> {
    let mut found: Vec<Dependency> = Vec::new();
    let mut section = Section::Other;
    for (at, raw) in text.lines().enumerate() {
        let line = raw.split('#').next().unwrap_or_default().trim();
        if let Some(header) = line.strip_prefix('[') {
            section = Section::parse(header.trim_end_matches(']'));
            if let Section::Single { name, for_tests } = &section {
                let (name, for_tests) = (name.clone(), *for_tests);
                found.push(Dependency { name, value: String::new(), for_tests, line: at + 1 });
            }
            continue;
        }
        match (&section, line.split_once('=')) {
            (Section::List { for_tests }, Some((key, _))) => {
                let name = package(line).unwrap_or(key.split('.').next().unwrap_or(key).trim());
                let (name, value) = (name.to_owned(), line.to_owned());
                found.push(Dependency { name, value, for_tests: *for_tests, line: at + 1 });
            }
            (Section::Single { .. }, Some(_)) => {
                if let Some(last) = found.last_mut() {
                    last.value += line;
                    last.name = package(line).unwrap_or(&last.name).to_owned();
                }
            }
            _ => {}
        }
    }
    found
}

/// The name given by `package = "…"`.
fn package(line: &str) -> Option<&str> {
    line.split_once("package = \"")?.1.split('"').next()
}

enum Section {
    List { for_tests: bool },
    Single { name: String, for_tests: bool },
    Other,
}

impl Section {
    /// `dependencies`, `target.'…'.dev-dependencies`, `workspace.dependencies`, `dependencies.name`, …
    fn parse(header: &str) -> Self {
        let (before, last) = header.rsplit_once('.').unwrap_or(("", header));
        let is_list = |part: &str| part.ends_with("dependencies");
        let for_tests = header.contains("dev-dependencies");
        if is_list(last) {
            Self::List { for_tests }
        } else if is_list(before) {
            Self::Single { name: last.trim_matches('"').to_owned(), for_tests }
        } else {
            Self::Other
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{FLOORS, check, pins};

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(path, text).iter().map(|f| f.line).collect()
    }

    #[test]
    fn arrows_point_down_only() {
        let text = "[dependencies]\nplanish-tensor.workspace = true\nplanish-engine = { workspace = true }\n";
        assert_eq!(lines("crates/quant/Cargo.toml", text), vec![3]);
        assert_eq!(lines("crates/cli/Cargo.toml", text), vec![]);
        let table = "[dependencies.planish-cpu]\nworkspace = true\n";
        assert_eq!(lines("crates/text/Cargo.toml", table), vec![1]);
        let target = "[target.'cfg(unix)'.dependencies]\nplanish-cpu.workspace = true\n";
        assert_eq!(lines("crates/model/Cargo.toml", target), vec![2]);
        let renamed = "[dependencies]\nlower = { workspace = true, package = \"planish-quant\" }\n";
        assert_eq!(lines("crates/engine/Cargo.toml", renamed), vec![2]);
    }

    #[test]
    fn tests_may_use_the_reference_device_and_nothing_above() {
        let cpu = "[dev-dependencies]\nplanish-cpu.workspace = true\n";
        assert_eq!(lines("crates/model/Cargo.toml", cpu), vec![]);
        assert_eq!(lines("crates/tensor/Cargo.toml", cpu), vec![2]);
        let sideways = "[dev-dependencies]\nplanish-quant.workspace = true\n";
        assert_eq!(lines("crates/engine/Cargo.toml", sideways), vec![2]);
    }

    #[test]
    fn the_table_itself_points_down() {
        let floor_of = |name: &str| match name {
            "tensor" => 0,
            "cpu" | "cuda" | "checkpoint" | "text" => 1,
            "model" | "devices" => 2,
            "quant" | "engine" => 3,
            "serve" | "eval" => 4,
            "cli" => 5,
            "python" => 6,
            other => panic!("{other} has no height"),
        };
        for floor in FLOORS {
            for used in floor.uses.iter().chain(floor.tests_use) {
                // The reference that every machine is compared with stands on the CPU.
                let reference = floor.krate == "cuda" && *used == "cpu" && !floor.uses.contains(used);
                assert!(reference || floor_of(used) < floor_of(floor.krate), "{} uses {used}", floor.krate);
            }
        }
    }

    #[test]
    fn every_crate_has_a_floor() {
        assert_eq!(lines("crates/attic/Cargo.toml", ""), vec![1]);
    }

    #[test]
    fn versions_are_pinned_in_one_place() {
        let own = "[dependencies]\nserde = \"=1.0.0\"\n";
        assert_eq!(lines("crates/text/Cargo.toml", own), vec![2]);
        assert_eq!(lines("xtask/Cargo.toml", own), vec![2]);
        let root = "[workspace.dependencies]\nplanish-cpu = { path = \"crates/cpu\" }\na = \"=1.0.0\" # why\nb = \"1.0\"\nc = { version = \"1\", features = [] }\n";
        assert_eq!(pins("Cargo.toml", root).iter().map(|f| f.line).collect::<Vec<_>>(), vec![4, 5]);
    }

    #[test]
    fn untyped_errors_stay_on_the_roof() {
        let text = "[dependencies]\nanyhow.workspace = true\n";
        assert_eq!(lines("crates/engine/Cargo.toml", text), vec![2]);
        assert_eq!(lines("crates/cli/Cargo.toml", text), vec![]);
    }
}
