//! The files of this repository, as git sees them: tracked ones and new ones that it does not ignore.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The repository and its files; every path is relative to `root` and uses `/`.
pub struct Tree {
    root: PathBuf,
    /// Sorted, and present on disk.
    pub paths: Vec<String>,
}

impl Tree {
    /// Lists the files of the checkout that this program was built from.
    pub fn open() -> Result<Self, String> {
        let root = workspace_root();
        let listed = Command::new("git")
            // A checkout that belongs to another user (as in many containers) may be listed too.
            .args(["-c", "safe.directory=*"])
            .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
            .current_dir(&root)
            .output()
            .map_err(|e| format!("git ls-files in {}: {e}", root.display()))?;
        if !listed.status.success() {
            let said = String::from_utf8_lossy(&listed.stderr);
            return Err(format!("git ls-files in {}: {}", root.display(), said.trim()));
        }
        let mut paths: Vec<String> = listed
            .stdout
            .split(|b| *b == 0)
            .filter(|name| !name.is_empty())
            .map(|name| String::from_utf8_lossy(name).into_owned())
            .filter(|path| root.join(path).is_file())
            .collect();
        paths.sort();
        paths.dedup();
        Ok(Self { root, paths })
    }

    /// The whole file as text, or `None` where it is binary.
    pub fn text(&self, path: &str) -> Result<Option<String>, String> {
        let bytes = std::fs::read(self.root.join(path)).map_err(|e| format!("{path}: {e}"))?;
        if bytes.contains(&0) {
            return Ok(None);
        }
        Ok(String::from_utf8(bytes).ok())
    }

    /// Size in bytes.
    pub fn bytes(&self, path: &str) -> Result<u64, String> {
        let meta = std::fs::metadata(self.root.join(path)).map_err(|e| format!("{path}: {e}"))?;
        Ok(meta.len())
    }
}

/// The folder of the root `Cargo.toml`.
pub fn workspace_root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_path_buf()
}

/// The folder a path is counted under: `crates/<name>`, or its first part.
pub fn folder_of(path: &str) -> &str {
    let mut slashes = path.match_indices('/').map(|(at, _)| at);
    let first = slashes.next();
    let end = if path.starts_with("crates/") { slashes.next() } else { first };
    match end.or(first) {
        Some(end) => &path[..end],
        None => ".",
    }
}

#[cfg(test)]
mod tests {
    use super::folder_of;

    #[test]
    fn a_path_is_counted_under_its_crate() {
        assert_eq!(folder_of("crates/cpu/src/scalar.rs"), "crates/cpu");
        assert_eq!(folder_of("xtask/src/main.rs"), "xtask");
        assert_eq!(folder_of("Cargo.toml"), ".");
    }
}
