//! Writing so that a crash or a full disk leaves either the old file or the new one: write aside, fsync, rename,
//! fsync the directory.
use crate::{Error, Result};
use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Every change to the disk goes through here, so that tests can make any one of them fail.
#[derive(Default)]
pub(crate) struct Disk {
    /// Steps until everything fails; `None` never does.
    #[cfg(test)]
    pub(crate) steps_left: std::cell::Cell<Option<u64>>,
}

impl Disk {
    /// Creates or empties a file.
    pub(crate) fn create(&self, path: &Path) -> Result<File> {
        self.step().and_then(|()| File::create(path)).map_err(Error::io(path, "create"))
    }

    /// Appends `bytes` to a file opened for writing at its end.
    pub(crate) fn write(&self, mut file: &File, path: &Path, bytes: &[u8]) -> Result<()> {
        let done = match self.step() {
            Ok(()) => file.write_all(bytes),
            // A disk fills up in the middle of a write.
            Err(e) => file.write_all(&bytes[..bytes.len() / 2]).and(Err(e)),
        };
        done.map_err(Error::io(path, "write"))
    }

    /// Waits until a file's bytes are on the disk.
    pub(crate) fn sync(&self, file: &File, path: &Path) -> Result<()> {
        self.step().and_then(|()| flush(file)).map_err(Error::io(path, "fsync"))
    }

    /// Waits until a directory's names are on the disk.
    pub(crate) fn sync_dir(&self, path: &Path) -> Result<()> {
        self.step().and_then(|()| flush(&File::open(path)?)).map_err(Error::io(path, "fsync"))
    }

    /// Cuts a file.
    pub(crate) fn truncate(&self, file: &File, path: &Path, length: u64) -> Result<()> {
        self.step().and_then(|()| file.set_len(length)).map_err(Error::io(path, "truncate"))
    }

    /// Gives a complete, synced file its name, and waits until the name is on the disk.
    pub(crate) fn rename(&self, from: &Path, to: &Path) -> Result<()> {
        self.step().and_then(|()| fs::rename(from, to)).map_err(Error::io(to, "rename a file to"))?;
        self.sync_dir(to.parent().unwrap_or(Path::new(".")))
    }

    /// Removes a file; one that is gone already is no error.
    pub(crate) fn remove(&self, path: &Path) -> Result<()> {
        match self.step().and_then(|()| fs::remove_file(path)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::io(path, "remove")(e)),
            _ => Ok(()),
        }
    }

    /// Writes a whole small file durably.
    pub(crate) fn write_file(&self, path: &Path, bytes: &[u8]) -> Result<()> {
        let mut aside = path.as_os_str().to_owned();
        aside.push(".tmp");
        let aside = PathBuf::from(aside);
        let file = self.create(&aside)?;
        self.write(&file, &aside, bytes)?;
        self.sync(&file, &aside)?;
        self.rename(&aside, path)
    }

    #[cfg(not(test))]
    fn step(&self) -> io::Result<()> {
        Ok(())
    }

    #[cfg(test)]
    fn step(&self) -> io::Result<()> {
        match self.steps_left.get() {
            None => Ok(()),
            Some(0) => Err(io::Error::from(io::ErrorKind::StorageFull)),
            Some(n) => {
                self.steps_left.set(Some(n - 1));
                Ok(())
            }
        }
    }
}

#[cfg(not(test))]
fn flush(file: &File) -> io::Result<()> {
    file.sync_all()
}

/// The fault tests make thousands of these steps and cut no power; the tests from outside the crate do flush.
#[cfg(test)]
fn flush(_file: &File) -> io::Result<()> {
    Ok(())
}
