//! The folder of unfinished work inside the output directory.
use super::{WriterOptions, entries, publish::MARKER};
use crate::{Error, Result, STAGING, durable::Disk};
use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{Seek, SeekFrom},
    path::{Path, PathBuf},
};

/// Paths inside the folder, and the lock that keeps other processes out.
pub(super) struct Staging {
    path: PathBuf,
    /// Held until dropped.
    _lock: File,
}

impl Staging {
    /// Makes output directory and folder where they are missing, and locks the folder.
    pub(super) fn open(disk: &Disk, dir: &Path) -> Result<Staging> {
        let path = dir.join(STAGING);
        fs::create_dir_all(&path).map_err(Error::io(&path, "create"))?;
        disk.sync_dir(dir)?;
        if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
            disk.sync_dir(parent)?;
        }
        let name = path.join("lock");
        let lock = File::create(&name).map_err(Error::io(&name, "create"))?;
        match lock.try_lock() {
            Ok(()) => Ok(Staging { path, _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                Err(Error::file(dir, "a directory that no other process writes to", "one that is being written"))
            }
            Err(TryLockError::Error(e)) => Err(Error::io(&name, "lock")(e)),
        }
    }

    /// Makes the folders that publishing removes.
    pub(super) fn ensure(&self) -> Result<()> {
        let files = self.path.join("files");
        fs::create_dir_all(&files).map_err(Error::io(&files, "create"))
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
    pub(super) fn journal(&self) -> PathBuf {
        self.path.join("journal")
    }
    /// Tensors of a shard in the order of writing.
    pub(super) fn data(&self, number: usize) -> PathBuf {
        self.path.join(format!("shard-{number:05}.data"))
    }
    /// The complete shard.
    pub(super) fn sealed(&self, number: usize) -> PathBuf {
        self.path.join(format!("shard-{number:05}.safetensors"))
    }
    pub(super) fn file(&self, name: &str) -> PathBuf {
        self.path.join("files").join(name)
    }

    /// Removes all unfinished work, the journal first: without it the rest means nothing.
    pub(super) fn clear(&self, disk: &Disk) -> Result<()> {
        disk.remove(&self.journal())?;
        self.drop_unrecorded(disk, 0, None)
    }

    /// Removes files beside the tensors, shards after number `last`, its sealed copy, and all states but `state`.
    pub(super) fn drop_unrecorded(&self, disk: &Disk, last: usize, state: Option<&str>) -> Result<()> {
        for name in entries(&self.path.join("files"))? {
            disk.remove(&self.file(&name))?;
        }
        for name in entries(&self.path)? {
            let number = name.strip_prefix("shard-").and_then(|rest| rest.get(..5)?.parse::<usize>().ok());
            let keep = match number {
                Some(n) => n < last && !name.ends_with(".tmp") || n == last && name.ends_with(".data"),
                None => matches!(name.as_str(), "lock" | "journal" | "files" | MARKER) || Some(name.as_str()) == state,
            };
            if !keep {
                disk.remove(&self.path.join(name))?;
            }
        }
        Ok(())
    }

    /// Opens a data file to continue it after `length` bytes.
    pub(super) fn reopen(&self, disk: &Disk, number: usize, length: u64) -> Result<File> {
        let path = self.data(number);
        let mut file = OpenOptions::new().write(true).open(&path).map_err(Error::io(&path, "open"))?;
        let found = file.metadata().map_err(Error::io(&path, "read the size of"))?.len();
        if found < length {
            let expected = format!("at least the {length} bytes that the journal records");
            return Err(Error::file(&path, expected, format!("{found} bytes; start again with --overwrite")));
        }
        disk.truncate(&file, &path, length)?;
        file.seek(SeekFrom::End(0)).map_err(Error::io(&path, "seek in"))?;
        Ok(file)
    }
}

/// The output must be a directory, or nothing yet, and not the input.
pub(super) fn check_target(dir: &Path, options: &WriterOptions) -> Result<()> {
    if dir.exists() && !dir.is_dir() {
        return Err(Error::file(dir, "a directory, or nothing", "a file"));
    }
    let same = |input: &Path| match (fs::canonicalize(dir), fs::canonicalize(input)) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    };
    match &options.input {
        Some(input) if same(input) => Err(Error::file(dir, "another directory than the input's", "the same")),
        _ => Ok(()),
    }
}

/// Refuses to mix with what is there, unless told to replace or continue it.
pub(super) fn check_empty(dir: &Path, staging: &Staging, options: &WriterOptions) -> Result<()> {
    if options.overwrite {
        return Ok(());
    }
    let inside = entries(dir)?;
    if let Some(name) = inside.iter().find(|n| !n.starts_with('.') && *n != "lost+found") {
        // Our own empty folder must not make the next attempt find unfinished work.
        if !staging.journal().exists() {
            let _ = fs::remove_dir_all(staging.path(""));
        }
        return Err(Error::file(dir, "an empty directory, or --overwrite", format!("{name:?} in it")));
    }
    if !options.resume && staging.journal().exists() {
        return Err(Error::file(dir, "no unfinished work, or --resume or --overwrite", "unfinished work"));
    }
    Ok(())
}
