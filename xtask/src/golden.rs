//! Fixture folders and their provenance: each `tests/data` has a README.md that says who made it and how.

use std::collections::BTreeMap;

use crate::tree::Tree;

/// What lies in one `tests/data`.
#[derive(Default)]
struct Folder {
    /// Per subfolder (`.` for loose files): number of files and bytes.
    parts: BTreeMap<String, (usize, u64)>,
    has_provenance: bool,
}

/// Lists fixture folders; fails where a README.md is missing or empty.
pub fn run() -> Result<(), String> {
    let tree = Tree::open()?;
    let mut sized = Vec::new();
    for path in tree.paths.iter().filter(|path| split(path).is_some()) {
        sized.push((path.as_str(), tree.bytes(path)?));
    }
    let folders = gather(&sized);
    for (name, folder) in &folders {
        let page = if folder.has_provenance { "README.md" } else { "NO README.md" };
        println!("{name}  ({page})");
        for (part, (files, bytes)) in &folder.parts {
            println!("  {:>9.1} KB {files:>4} files  {part}", *bytes as f64 / 1e3);
        }
    }
    let silent: Vec<_> = folders.iter().filter(|(_, f)| !f.has_provenance).map(|(n, _)| *n).collect();
    if silent.is_empty() {
        println!("golden: {} fixture folders, all with provenance", folders.len());
        return Ok(());
    }
    Err(format!("{}: expected a README.md that says where the data came from", silent.join(", ")))
}

/// `(…/tests/data, the rest)` of a fixture's path.
fn split(path: &str) -> Option<(&str, &str)> {
    let at = path.find("tests/data/")? + "tests/data".len();
    Some((&path[..at], &path[at + 1..]))
}

fn gather<'a>(sized: &[(&'a str, u64)]) -> BTreeMap<&'a str, Folder> {
    let mut folders: BTreeMap<&str, Folder> = BTreeMap::new();
    for (path, bytes) in sized {
        let Some((name, rest)) = split(path) else {
            continue;
        };
        let folder = folders.entry(name).or_default();
        folder.has_provenance |= rest == "README.md" && *bytes > 0;
        let part = rest.split_once('/').map_or(".", |(part, _)| part);
        let sum = folder.parts.entry(part.to_owned()).or_default();
        *sum = (sum.0 + 1, sum.1 + bytes);
    }
    folders
}

#[cfg(test)]
mod tests {
    use super::gather;

    #[test]
    fn a_folder_without_provenance_is_seen() {
        let folders = gather(&[
            ("crates/text/tests/data/README.md", 10),
            ("crates/text/tests/data/smollm/tokenizer.json", 7),
            ("crates/text/tests/data/smollm/cases.json", 5),
            ("crates/model/tests/data/llama/config.json", 3),
            ("crates/quant/tests/data/README.md", 0),
        ]);
        assert!(folders["crates/text/tests/data"].has_provenance);
        assert_eq!(folders["crates/text/tests/data"].parts["smollm"], (2, 12));
        assert!(!folders["crates/model/tests/data"].has_provenance);
        assert!(!folders["crates/quant/tests/data"].has_provenance, "an empty page says nothing");
    }
}
