//! Writes a checkpoint tensor by tensor. Everything is made in `DIR/.planish-partial` and becomes visible at the end,
//! the file that makes a directory loadable last; a run that was killed continues where its journal ends.
mod finished;
mod publish;
mod seal;
mod staging;

pub use finished::Finished;
pub use publish::recover;

use crate::{
    Error, Result,
    digests::{DIGESTS, Digests, hex, sha256},
    durable::Disk,
    entry::check_plain_name,
    error::quoted,
    header,
    journal::{Header, Journal, Record, Settings, State, StateRecord, Written},
    shards::{INDEX, MAX_SHARDS, SUFFIX},
};
use planish_tensor::DType;
use sha2::{Digest, Sha256};
use staging::Staging;
use std::{
    collections::{BTreeSet, HashSet},
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// Longest header that one shard may grow to: far below what a reader accepts.
const HEADER_ROOM: usize = header::MAX_HEADER / 2;

/// How to write.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// Bytes of tensors after which the next shard begins; one tensor may exceed it.
    pub max_shard_size: u64,
    /// Replace a model that is in the directory. It stays whole until the new one is complete.
    pub overwrite: bool,
    /// Continue an unfinished run, if there is one.
    pub resume: bool,
    /// The caller's inputs and flags: a run continues only with equal settings.
    pub settings: Settings,
    /// Directory of the model that is read, which must not be the one that is written.
    pub input: Option<PathBuf>,
}

impl Default for WriterOptions {
    fn default() -> Self {
        WriterOptions {
            max_shard_size: 5_000_000_000,
            overwrite: false,
            resume: false,
            settings: Settings::new(),
            input: None,
        }
    }
}

/// A checkpoint being written. Dropping it leaves nothing that can be loaded, and what a resumed run needs.
pub struct CheckpointWriter {
    disk: Disk,
    dir: PathBuf,
    /// Whether the directory is this writer's own.
    made: bool,
    staging: Staging,
    journal: Journal,
    max_shard_size: u64,
    settings: Settings,
    tensors: Vec<Written>,
    names: HashSet<String>,
    files: BTreeSet<String>,
    /// The shard being filled: its data file, its length, and an upper bound of its header's length.
    current: Option<Current>,
    /// Complete blocks, and how many tensors they wrote.
    blocks: usize,
    recorded: usize,
    state: Option<StateRecord>,
    pending: Option<(usize, StateRecord)>,
    sealed: seal::Sealed,
    failed: bool,
}

struct Current {
    number: usize,
    file: File,
    length: u64,
    header: usize,
}

impl CheckpointWriter {
    /// Opens `dir` for a new checkpoint, or to continue one. Makes the directory where it is missing.
    /// Refuses a directory that is not empty (unless `overwrite`), one that another process writes to, and unfinished
    /// work (unless `resume` or `overwrite`). Completes a publication that was cut short; with `overwrite` one that
    /// cannot be completed is given up.
    pub fn create(dir: &Path, options: WriterOptions) -> Result<CheckpointWriter> {
        Self::create_on(Disk::default(), dir, options)
    }

    fn create_on(disk: Disk, dir: &Path, options: WriterOptions) -> Result<CheckpointWriter> {
        staging::check_target(dir, &options)?;
        let made = !dir.exists();
        let staging = Staging::open(&disk, dir)?;
        match publish::roll_forward(&disk, dir, &staging) {
            Err(_) if options.overwrite => publish::abandon(&disk, &staging)?,
            done => drop(done?),
        }
        staging::check_empty(dir, &staging, &options)?;
        staging.ensure()?;
        let header = Header::new(options.max_shard_size, options.settings);
        let resumed = match options.resume {
            true => Journal::resume(&disk, &staging.journal(), &header)?,
            false => None,
        };
        let (journal, records) = match resumed {
            Some((journal, records)) => (journal, records),
            None => {
                staging.clear(&disk)?;
                (Journal::create(&disk, &staging.journal(), &header)?, Vec::new())
            }
        };
        let mut writer = CheckpointWriter {
            disk,
            dir: dir.into(),
            made,
            staging,
            journal,
            max_shard_size: header.max_shard_size,
            settings: header.settings,
            tensors: Vec::new(),
            names: HashSet::new(),
            files: BTreeSet::new(),
            current: None,
            blocks: 0,
            recorded: 0,
            state: None,
            pending: None,
            sealed: seal::Sealed::default(),
            failed: false,
        };
        writer.restore(records)?;
        Ok(writer)
    }

    /// Ends work that failed. Where no block is complete there is nothing to resume, so that nothing of it stays.
    pub fn give_up(self) {
        if self.blocks > 0 {
            return;
        }
        // What cannot be removed is found as unfinished work next time.
        let _ = std::fs::remove_dir_all(self.staging.path(""));
        if self.made {
            let _ = std::fs::remove_dir(&self.dir);
        }
    }

    /// Blocks that are complete: 0 for a new checkpoint. The next [`finish_block`](Self::finish_block) takes this number.
    pub fn completed_blocks(&self) -> usize {
        self.blocks
    }

    /// Bytes of the tensors written so far, those of a resumed run included.
    pub fn tensor_bytes(&self) -> u64 {
        self.tensors.iter().map(|t| t.bytes).sum()
    }

    /// True when a tensor of this name is written. After resuming, those of the complete blocks are.
    pub fn contains(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// Writes a tensor: little-endian, row-major, exactly as many bytes as `shape` needs.
    pub fn add(&mut self, name: &str, dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<()> {
        self.guard(|w| w.add_tensor(name, dtype, shape, bytes))
    }

    /// Adds a file beside the tensors: `config.json`, tokenizer files. Not part of the journal: a resumed run adds its
    /// files again. A second file of a name replaces the first.
    pub fn add_file(&mut self, name: &str, bytes: &[u8]) -> Result<()> {
        self.guard(|w| {
            let path = w.dir.join(name);
            check_plain_name(name).map_err(|found| Error::file(&w.dir, "one plain file name", found))?;
            if name.ends_with(SUFFIX) || name == INDEX || name == DIGESTS {
                return Err(Error::file(&path, "a file that is not the writer's own", quoted(name)));
            }
            w.disk.write_file(&w.staging.file(name), bytes)?;
            w.files.insert(name.into());
            Ok(())
        })
    }

    /// Saves what the caller needs to continue after `block`, such as hidden states; replaces the state before it once
    /// [`finish_block`](Self::finish_block) records the block.
    pub fn save_state(&mut self, block: usize, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<()> {
        self.guard(|w| {
            w.check_block(block)?;
            let name = format!("state-{block:05}.bin");
            let path = w.staging.path(&name);
            let aside = w.staging.path("state.tmp");
            let file = w.disk.create(&aside)?;
            let mut out = io::BufWriter::with_capacity(
                1 << 20,
                StateWriter { disk: &w.disk, file: &file, path: &aside, hasher: Sha256::new(), bytes: 0 },
            );
            write(&mut out).and_then(|()| out.flush()).map_err(Error::io(&path, "write"))?;
            let out = out.into_inner().map_err(|e| Error::io(&path, "write")(e.into_error()))?;
            let record = StateRecord { file: name, bytes: out.bytes, sha256: hex(out.hasher.finalize().as_slice()) };
            w.disk.sync(&file, &aside)?;
            w.disk.rename(&aside, &path)?;
            w.pending = Some((block, record));
            Ok(())
        })
    }

    /// The state saved with the last complete block, if any.
    pub fn state(&self) -> Result<Option<State>> {
        self.state.as_ref().map(|record| State::open(&self.staging.path(""), record)).transpose()
    }

    /// Records, durably, that everything up to now belongs to complete blocks, `block` being the newest.
    /// Blocks are numbered from 0 without gaps.
    pub fn finish_block(&mut self, block: usize) -> Result<()> {
        self.guard(|w| {
            w.check_block(block)?;
            if let Some(current) = &w.current {
                w.disk.sync(&current.file, &w.staging.data(current.number))?;
            }
            w.disk.sync_dir(&w.staging.path(""))?;
            let state = w.pending.take().map(|(_, record)| record);
            let record = Record { block, tensors: w.tensors[w.recorded..].to_vec(), state: state.clone() };
            w.journal.append(&w.disk, &record)?;
            w.blocks += 1;
            w.recorded = w.tensors.len();
            if let Some(old) = std::mem::replace(&mut w.state, state) {
                w.disk.remove(&w.staging.path(&old.file))?;
            }
            // Shards before the current one are complete and recorded: their data files can go.
            let complete = w.current.as_ref().map_or(1, |c| c.number);
            (1..complete).try_for_each(|n| w.seal(n, true))
        })
    }

    /// Completes the shards, writes index and digests, and makes the checkpoint visible.
    pub fn finish(mut self) -> Result<Digests> {
        self.guard(|w| {
            if w.tensors.is_empty() {
                return Err(Error::file(&w.dir, "at least one tensor", "none"));
            }
            if let Some(current) = w.current.take() {
                w.disk.sync(&current.file, &w.staging.data(current.number))?;
            }
            let shards = w.tensors.last().map_or(0, |t| t.shard);
            // A crash before the checkpoint is visible resumes from the data files, so they stay until then.
            (1..=shards).try_for_each(|n| w.seal(n, false))?;
            let (plan, digests) = w.plan(shards)?;
            publish::commit(&w.disk, &w.staging, &plan)?;
            publish::roll_forward(&w.disk, &w.dir, &w.staging)?;
            Ok(digests)
        })
    }

    /// Runs one operation; after a failure, which may have left half a tensor behind, no other may follow.
    fn guard<T>(&mut self, work: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        if self.failed {
            return Err(Error::file(&self.dir, "a writer that has not failed", "one that has; resume with a new one"));
        }
        let result = work(self);
        self.failed = result.is_err();
        result
    }

    fn check_block(&self, block: usize) -> Result<()> {
        match &self.pending {
            Some((pending, _)) if *pending != block => {
                Err(Error::file(&self.dir, format!("block {pending}, whose state is saved"), format!("block {block}")))
            }
            _ if block != self.blocks => {
                Err(Error::file(&self.dir, format!("block {}", self.blocks), format!("block {block}")))
            }
            _ => Ok(()),
        }
    }

    fn add_tensor(&mut self, name: &str, dtype: DType, shape: &[usize], bytes: &[u8]) -> Result<()> {
        let wrong = |expected: String, found: String| Err(Error::tensor(&self.dir, name, expected, found));
        if let Err(found) = header::check_name(name) {
            return wrong("a printable name of at most 1024 bytes".into(), found);
        }
        if self.names.contains(name) {
            return wrong("a new name".into(), "one that was written already".into());
        }
        if shape.len() > header::MAX_RANK || header::byte_count(shape, dtype.size()) != Some(bytes.len()) {
            return wrong(format!("bytes for {dtype} {shape:?}"), format!("{} bytes", bytes.len()));
        }
        let room = 2 * name.len() + 200;
        self.make_room(bytes.len() as u64, room)?;
        let current = self.current.as_mut().expect("make_room opens a shard");
        let path = self.staging.data(current.number);
        self.disk.write(&current.file, &path, bytes)?;
        self.tensors.push(Written {
            name: name.into(),
            dtype: dtype.name().into(),
            shape: shape.into(),
            shard: current.number,
            offset: current.length,
            bytes: bytes.len() as u64,
            sha256: sha256(bytes),
        });
        self.names.insert(name.into());
        current.length += bytes.len() as u64;
        current.header += room;
        Ok(())
    }

    /// Opens the next shard when the current one has no room for `bytes` more.
    fn make_room(&mut self, bytes: u64, header: usize) -> Result<()> {
        let number = match &self.current {
            Some(c) if c.header == 0 => return Ok(()),
            Some(c) if c.length + bytes <= self.max_shard_size && c.header + header <= HEADER_ROOM => return Ok(()),
            Some(c) => {
                self.disk.sync(&c.file, &self.staging.data(c.number))?;
                c.number + 1
            }
            None => 1,
        };
        if number > MAX_SHARDS {
            let expected = format!("at most {MAX_SHARDS} shards, as many as are read; a larger --max-shard-size");
            return Err(Error::file(&self.dir, expected, "more"));
        }
        let file = self.disk.create(&self.staging.data(number))?;
        self.current = Some(Current { number, file, length: 0, header: 0 });
        Ok(())
    }

    /// Takes up where the records end; whatever was written after them goes.
    fn restore(&mut self, records: Vec<Record>) -> Result<()> {
        self.blocks = records.len();
        self.state = records.last().and_then(|r| r.state.clone());
        self.tensors = records.into_iter().flat_map(|r| r.tensors).collect();
        self.recorded = self.tensors.len();
        self.names = self.tensors.iter().map(|t| t.name.clone()).collect();
        let last = self.tensors.last().map_or(0, |t| t.shard);
        self.staging.drop_unrecorded(&self.disk, last, self.state.as_ref().map(|s| s.file.as_str()))?;
        for number in 1..=last {
            let of_shard = || self.tensors.iter().filter(|t| t.shard == number);
            let length = of_shard().map(|t| t.bytes).sum();
            let whole = number < last && self.staging.sealed(number).exists();
            if !whole {
                let file = self.staging.reopen(&self.disk, number, length)?;
                let header = of_shard().map(|t| 2 * t.name.len() + 200).sum();
                self.current = Some(Current { number, file, length, header });
            }
        }
        Ok(())
    }
}

/// Counts and hashes a state while writing it.
struct StateWriter<'a> {
    disk: &'a Disk,
    file: &'a File,
    path: &'a Path,
    hasher: Sha256,
    bytes: u64,
}

impl Write for StateWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.disk.write(self.file, self.path, bytes).map_err(|e| match e {
            Error::Io { source, .. } => source,
            other => io::Error::other(other.to_string()),
        })?;
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
        Ok(bytes.len())
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Names of the entries of a directory, sorted; none when it does not exist.
fn entries(dir: &Path) -> Result<Vec<String>> {
    let list = match fs::read_dir(dir) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(Error::io(dir, "list"))?,
    };
    let mut names = Vec::new();
    for entry in list {
        names.push(entry.map_err(Error::io(dir, "list"))?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

#[cfg(test)]
mod tests;
