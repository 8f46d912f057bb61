//! The cache on disk, in the layout that other tools of the hub read and write too.
use super::error::{HubError, Result};
use super::names::{Kind, is_commit};
use std::fs;
use std::path::{Path, PathBuf};

/// The cache of one repository.
pub(super) struct RepoCache {
    root: PathBuf,
    locks: PathBuf,
}

impl RepoCache {
    /// `repo` must have passed the check of repository ids.
    pub(super) fn new(cache_dir: &Path, kind: Kind, repo: &str) -> RepoCache {
        let folder = format!("{}--{}", kind.plural(), repo.replace('/', "--"));
        RepoCache { root: cache_dir.join(&folder), locks: cache_dir.join(".locks").join(folder) }
    }

    pub(super) fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    pub(super) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    /// The commit that a revision meant when it was last fetched.
    pub(super) fn commit_of(&self, revision: &str) -> Option<String> {
        if is_commit(revision) {
            return Some(revision.to_owned());
        }
        let text = fs::read_to_string(self.root.join("refs").join(revision)).ok()?;
        Some(text.trim().to_owned()).filter(|c| is_commit(c))
    }

    /// Remembers what `revision` means.
    pub(super) fn set_commit(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit {
            return Ok(());
        }
        let path = self.root.join("refs").join(revision);
        let temporary = temporary(&path);
        create_parent(&path)?;
        fs::write(&temporary, commit).map_err(HubError::io(&temporary))?;
        fs::rename(&temporary, &path).map_err(HubError::io(&path))
    }

    /// True when a file of a snapshot is there, and is not a link to somewhere outside this repository.
    pub(super) fn has(&self, commit: &str, file: &str) -> bool {
        let (Ok(found), Ok(root)) = (self.snapshot(commit).join(file).canonicalize(), self.root.canonicalize()) else {
            return false;
        };
        found.starts_with(root) && found.is_file()
    }

    /// Makes `snapshots/<commit>/<file>` a relative link to a blob.
    pub(super) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<()> {
        let path = self.snapshot(commit).join(file);
        create_parent(&path)?;
        let temporary = temporary(&path);
        let _ = fs::remove_file(&temporary);
        link_or_copy(&self.blob(etag), etag, file, &temporary).map_err(HubError::io(&temporary))?;
        fs::rename(&temporary, &path).map_err(HubError::io(&path))
    }

    /// Holds other processes off one blob until the returned file is dropped.
    pub(super) fn lock(&self, etag: &str) -> Result<fs::File> {
        let path = self.locks.join(format!("{etag}.lock"));
        create_parent(&path)?;
        let file = fs::File::options().create(true).append(true).open(&path).map_err(HubError::io(&path))?;
        file.lock().map_err(HubError::io(&path))?;
        Ok(file)
    }

    /// The files of a snapshot, as paths from its folder, in order.
    pub(super) fn files(&self, commit: &str) -> Vec<String> {
        let (mut found, mut folders) = (Vec::new(), vec![String::new()]);
        while let Some(folder) = folders.pop() {
            let entries = fs::read_dir(self.snapshot(commit).join(&folder)).into_iter().flatten().flatten();
            for entry in entries {
                let Ok(name) = entry.file_name().into_string() else { continue };
                let path = if folder.is_empty() { name } else { format!("{folder}/{name}") };
                match entry.file_type() {
                    Ok(kind) if kind.is_dir() => folders.push(path),
                    _ if self.has(commit, &path) => found.push(path),
                    _ => {}
                }
            }
        }
        found.sort();
        found
    }

    /// What a snapshot lacks to be used as a model, if anything.
    pub(super) fn lacks(&self, commit: &str) -> Option<String> {
        let folder = self.snapshot(commit);
        let Ok(entries) = fs::read_dir(&folder) else {
            return Some(format!("no folder {}", folder.display()));
        };
        let names: Vec<String> = entries
            .flatten()
            .filter_map(|e| e.file_name().into_string().ok())
            .filter(|n| self.has(commit, n))
            .collect();
        let any = |end: &str| names.iter().any(|n| n.ends_with(end));
        let index = "model.safetensors.index.json";
        if names.iter().any(|n| n == index) {
            let shards = indexed_shards(&folder.join(index))?;
            let missing = shards.into_iter().find(|s| !names.contains(s));
            return missing.map(|s| format!("no {s} in {}", folder.display()));
        }
        if any(".gguf") || (any(".safetensors") && names.iter().any(|n| n == "config.json")) {
            return None;
        }
        Some(format!("no config.json or no weights in {}", folder.display()))
    }
}

/// The values of an index's `weight_map`; none if it cannot be read, which its loader will report.
fn indexed_shards(path: &Path) -> Option<Vec<String>> {
    let index: serde_json::Value = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    let map = index.get("weight_map")?.as_object()?;
    Some(map.values().filter_map(|v| v.as_str().map(str::to_owned)).collect())
}

/// A name beside `path` that only this process uses.
fn temporary(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.tmp", std::process::id()));
    path.with_file_name(name)
}

pub(super) fn create_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(path);
    fs::create_dir_all(parent).map_err(HubError::io(parent))
}

#[cfg(unix)]
fn link_or_copy(_blob: &Path, etag: &str, file: &str, to: &Path) -> std::io::Result<()> {
    let up = "../".repeat(2 + file.matches('/').count());
    std::os::unix::fs::symlink(format!("{up}blobs/{etag}"), to)
}

#[cfg(not(unix))]
fn link_or_copy(blob: &Path, _etag: &str, _file: &str, to: &Path) -> std::io::Result<()> {
    fs::copy(blob, to).map(drop)
}
