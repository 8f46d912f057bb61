//! One file of a model directory, opened so that it can only be that: a regular file inside the directory,
//! or a blob of the same hub cache.
use crate::{Error, Result, error::quoted};
use std::{
    fs::{self, File},
    io::Read,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

/// A model directory with its symbolic links resolved.
pub(crate) struct Root {
    dir: PathBuf,
    real: PathBuf,
    blobs: Option<PathBuf>,
}

impl Root {
    /// Opens the directory.
    pub(crate) fn open(dir: &Path) -> Result<Root> {
        let real = fs::canonicalize(dir).map_err(Error::io(dir, "open"))?;
        if !real.is_dir() {
            return Err(Error::file(dir, "a model directory", "something else"));
        }
        Ok(Root { dir: dir.into(), blobs: blobs_of(&real), real })
    }

    /// True when a directory entry of this name exists, of whatever kind.
    pub(crate) fn exists(&self, name: &str) -> bool {
        fs::symlink_metadata(self.real.join(name)).is_ok()
    }

    /// Opens a regular file; gives its path for messages and its length.
    pub(crate) fn file(&self, name: &str) -> Result<(File, PathBuf, u64)> {
        let shown = self.dir.join(name);
        let real = fs::canonicalize(self.real.join(name)).map_err(Error::io(&shown, "open"))?;
        if !self.confines(&real) {
            return Err(Error::file(&shown, "a file inside the model directory", "a link that leaves it"));
        }
        // The kind is looked at before opening: opening a FIFO would wait for a writer.
        let before = fs::symlink_metadata(&real).map_err(Error::io(&shown, "read the kind of"))?;
        if !before.file_type().is_file() {
            return Err(Error::file(&shown, "a regular file", kind(&before)));
        }
        let file = File::open(&real).map_err(Error::io(&shown, "open"))?;
        let after = file.metadata().map_err(Error::io(&shown, "read the size of"))?;
        if (before.dev(), before.ino()) != (after.dev(), after.ino()) {
            return Err(Error::file(&shown, "a file that stays in place", "another file of the same name"));
        }
        Ok((file, shown, after.len()))
    }

    /// Reads a whole file of at most `limit` bytes.
    pub(crate) fn read(&self, name: &str, limit: u64) -> Result<(Vec<u8>, PathBuf)> {
        let (file, path, len) = self.file(name)?;
        if len > limit {
            return Err(Error::file(&path, format!("at most {limit} bytes"), format!("{len} bytes")));
        }
        let mut bytes = Vec::with_capacity(len as usize);
        file.take(limit + 1).read_to_end(&mut bytes).map_err(Error::io(&path, "read"))?;
        Ok((bytes, path))
    }

    fn confines(&self, real: &Path) -> bool {
        let parent = real.parent();
        parent == Some(&self.real) || (parent.is_some() && parent == self.blobs.as_deref())
    }
}

/// Reads a small file (tokenizer, template, configuration; at most 256 MiB) of a model directory, under the same
/// rules as its shards: one plain name, a regular file, no link that leaves the directory or its hub cache.
pub fn read_model_file(dir: &Path, name: &str) -> Result<Vec<u8>> {
    check_plain_name(name).map_err(|found| Error::file(dir, "one plain file name", found))?;
    Ok(Root::open(dir)?.read(name, 256 << 20)?.0)
}

/// Checks that `name` is one plain file name of ASCII letters, digits and `. _ - +`; otherwise says what is wrong.
pub(crate) fn check_plain_name(name: &str) -> Result<(), String> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-' | '+');
    let ok = !name.is_empty()
        && name.len() <= 255
        && !name.starts_with('.')
        && !name.contains("..")
        && name.chars().all(plain);
    if ok { Ok(()) } else { Err(quoted(name)) }
}

/// The blob folder of the hub cache that holds this snapshot: `models--o--n/snapshots/REV` -> `models--o--n/blobs`.
fn blobs_of(real: &Path) -> Option<PathBuf> {
    let snapshots = real.parent()?;
    let repository = snapshots.parent()?;
    let named = repository.file_name()?.to_str()?.starts_with("models--");
    (snapshots.file_name()? == "snapshots" && named).then(|| repository.join("blobs"))
}

fn kind(metadata: &fs::Metadata) -> &'static str {
    use std::os::unix::fs::FileTypeExt;
    let t = metadata.file_type();
    match () {
        _ if t.is_dir() => "a directory",
        _ if t.is_fifo() => "a FIFO",
        _ if t.is_socket() => "a socket",
        _ if t.is_char_device() || t.is_block_device() => "a device",
        _ => "something else",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn hub_cache_blobs_are_allowed_and_nothing_beyond() {
        let top = tempfile::tempdir().unwrap();
        let repository = top.path().join("models--o--n");
        let snapshot = repository.join("snapshots/abc");
        fs::create_dir_all(&snapshot).unwrap();
        fs::create_dir_all(repository.join("blobs")).unwrap();
        fs::write(repository.join("blobs/0f"), "ours").unwrap();
        fs::write(top.path().join("secret"), "theirs").unwrap();
        symlink("../../blobs/0f", snapshot.join("config.json")).unwrap();
        symlink("../../../secret", snapshot.join("bad.json")).unwrap();
        symlink(top.path().join("secret"), repository.join("blobs/1f")).unwrap();
        symlink("../../blobs/1f", snapshot.join("two_steps.json")).unwrap();
        assert_eq!(read_model_file(&snapshot, "config.json").unwrap(), b"ours");
        for name in ["bad.json", "two_steps.json"] {
            let error = read_model_file(&snapshot, name).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("a link that leaves it"), "{error}");
        }
    }

    #[test]
    fn blobs_need_the_cache_layout() {
        let top = tempfile::tempdir().unwrap();
        let dir = top.path().join("x/snapshots/abc");
        fs::create_dir_all(&dir).unwrap();
        fs::create_dir_all(top.path().join("x/blobs")).unwrap();
        fs::write(top.path().join("x/blobs/0f"), "no").unwrap();
        symlink("../../blobs/0f", dir.join("config.json")).unwrap();
        assert!(read_model_file(&dir, "config.json").is_err());
    }
}
