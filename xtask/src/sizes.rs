//! How big the house is: lines per crate, the largest files, and the binary where one was built.

use std::collections::BTreeMap;

use crate::tree::{Tree, folder_of, workspace_root};

const LARGEST: usize = 10;

/// Prints the three tables.
pub fn run() -> Result<(), String> {
    let tree = Tree::open()?;
    let mut files = Vec::new();
    for path in tree.paths.iter().filter(|path| is_source(path)) {
        if let Some(text) = tree.text(path)? {
            files.push((text.lines().count(), path.as_str()));
        }
    }
    println!("{:>7} {:>6}  folder", "lines", "files");
    for (folder, (lines, count)) in per_folder(&files) {
        println!("{lines:>7} {count:>6}  {folder}");
    }
    let total: usize = files.iter().map(|(lines, _)| lines).sum();
    println!("{total:>7} {:>6}  in all\n", files.len());

    files.sort_by_key(|(lines, path)| (std::cmp::Reverse(*lines), *path));
    println!("{:>7}  largest files", "lines");
    for (lines, path) in files.iter().take(LARGEST) {
        println!("{lines:>7}  {path}");
    }
    print_binary();
    Ok(())
}

fn is_source(path: &str) -> bool {
    !path.contains("tests/data/") && [".rs", ".cu", ".cuh", ".py"].iter().any(|end| path.ends_with(end))
}

/// Lines and files of each folder.
fn per_folder<'a>(files: &[(usize, &'a str)]) -> BTreeMap<&'a str, (usize, usize)> {
    let mut sums = BTreeMap::new();
    for (lines, path) in files {
        let sum: &mut (usize, usize) = sums.entry(folder_of(path)).or_default();
        *sum = (sum.0 + lines, sum.1 + 1);
    }
    sums
}

fn print_binary() {
    let target = std::env::var_os("CARGO_TARGET_DIR").map(Into::into);
    let target = target.unwrap_or_else(|| workspace_root().join("target"));
    let name = format!("planish{}", std::env::consts::EXE_SUFFIX);
    let binary = workspace_root().join(target).join("release").join(name);
    match std::fs::metadata(&binary) {
        Ok(meta) => println!("\nrelease binary: {:.1} MB", meta.len() as f64 / 1e6),
        Err(_) => println!("\nrelease binary: none built"),
    }
}

#[cfg(test)]
mod tests {
    use super::{is_source, per_folder};

    #[test]
    fn lines_and_files_add_up_per_crate() {
        let files = [(10, "crates/cpu/src/lib.rs"), (5, "crates/cpu/src/null.rs"), (3, "xtask/src/main.rs")];
        let sums = per_folder(&files);
        assert_eq!(sums["crates/cpu"], (15, 2));
        assert_eq!(sums["xtask"], (3, 1));
    }

    #[test]
    fn fixtures_are_not_counted() {
        assert!(is_source("crates/cpu/src/lib.rs"));
        assert!(!is_source("crates/cpu/tests/data/make.py"));
        assert!(!is_source("README.md"));
    }
}
