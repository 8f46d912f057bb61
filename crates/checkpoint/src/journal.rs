//! The journal of an unfinished checkpoint: which blocks are complete, and what of the data files belongs to them.
//! One line a record, each with its own digest, so that a torn last line is seen and dropped.
use crate::{
    Error, Result,
    digests::{hex, sha256},
    durable::Disk,
};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fs::{self, File, OpenOptions},
    io::{self, BufReader, Read},
    path::{Path, PathBuf},
};

const VERSION: u32 = 2;

/// What a run was told and given: the name of each thing, and its value or digest.
pub type Settings = BTreeMap<String, String>;

/// First line: what a run must agree on to continue this one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Header {
    version: u32,
    pub(crate) max_shard_size: u64,
    /// The caller's inputs and flags.
    pub(crate) settings: Settings,
}

/// One complete block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) block: usize,
    /// Tensors added since the record before.
    pub(crate) tensors: Vec<Written>,
    pub(crate) state: Option<StateRecord>,
}

/// A tensor in a data file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Written {
    pub(crate) name: String,
    /// safetensors' name of the type.
    pub(crate) dtype: String,
    pub(crate) shape: Vec<usize>,
    /// Shard number, from 1.
    pub(crate) shard: usize,
    /// Place in the shard's data file.
    pub(crate) offset: u64,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

/// The state that the caller saved after a block.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct StateRecord {
    pub(crate) file: String,
    pub(crate) bytes: u64,
    pub(crate) sha256: String,
}

/// An open journal.
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
}

impl Header {
    pub(crate) fn new(max_shard_size: u64, settings: Settings) -> Header {
        Header { version: VERSION, max_shard_size, settings }
    }
}

impl Journal {
    /// Starts an empty journal.
    pub(crate) fn create(disk: &Disk, path: &Path, header: &Header) -> Result<Journal> {
        disk.write_file(path, line(header).as_bytes())?;
        Journal::append_to(path)
    }

    /// Opens a journal to continue it, cutting off a torn last line. `None` when there is none to continue.
    pub(crate) fn resume(disk: &Disk, path: &Path, ours: &Header) -> Result<Option<(Journal, Vec<Record>)>> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(Error::io(path, "read")(e)),
        };
        let mut lines = text.split_inclusive(|&b| b == b'\n');
        let Some(header) = lines.next().and_then(unseal::<Header>) else {
            let expected = "the settings of a run in its first line";
            return Err(Error::file(path, expected, "a damaged line; start again with --overwrite"));
        };
        agree(path, &header, ours)?;
        let mut length = text.iter().position(|&b| b == b'\n').unwrap_or(0) + 1;
        let mut records: Vec<Record> = Vec::new();
        for raw in lines {
            match unseal::<Record>(raw) {
                Some(record) if record.block == records.len() => records.push(record),
                _ if length + raw.len() == text.len() => break,
                _ => {
                    let expected = format!("the record of block {}", records.len());
                    return Err(Error::file(path, expected, "a damaged line; start again with --overwrite"));
                }
            }
            length += raw.len();
        }
        let journal = Journal::append_to(path)?;
        disk.truncate(&journal.file, path, length as u64)?;
        disk.sync(&journal.file, path)?;
        Ok(Some((journal, records)))
    }

    /// Adds a record and waits until it is on the disk.
    pub(crate) fn append(&mut self, disk: &Disk, record: &Record) -> Result<()> {
        disk.write(&self.file, &self.path, line(record).as_bytes())?;
        disk.sync(&self.file, &self.path)
    }

    fn append_to(path: &Path) -> Result<Journal> {
        let file = OpenOptions::new().append(true).open(path).map_err(Error::io(path, "open"))?;
        Ok(Journal { file, path: path.into() })
    }
}

/// The saved state of the last complete block, as a stream. Reading to its end checks its digest.
pub struct State {
    file: BufReader<File>,
    hasher: Sha256,
    expected: StateRecord,
}

impl State {
    pub(crate) fn open(staging: &Path, record: &StateRecord) -> Result<State> {
        let path = staging.join(&record.file);
        let file = File::open(&path).map_err(Error::io(&path, "open"))?;
        let length = file.metadata().map_err(Error::io(&path, "read the size of"))?.len();
        if length != record.bytes {
            return Err(Error::file(&path, format!("{} bytes", record.bytes), format!("{length} bytes")));
        }
        Ok(State { file: BufReader::with_capacity(1 << 20, file), hasher: Sha256::new(), expected: record.clone() })
    }

    /// Length in bytes.
    pub fn bytes(&self) -> u64 {
        self.expected.bytes
    }
}

impl Read for State {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.file.read(buffer)?;
        self.hasher.update(&buffer[..n]);
        if n == 0 && !buffer.is_empty() && hex(self.hasher.clone().finalize().as_slice()) != self.expected.sha256 {
            let message = format!("{}: expected sha256 {}, found another", self.expected.file, self.expected.sha256);
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        Ok(n)
    }
}

fn agree(path: &Path, theirs: &Header, ours: &Header) -> Result<()> {
    let differs = |field: &str, expected: String, found: String| {
        Err(Error::field(path, field, format!("{expected}, as the run to be resumed had"), found))
    };
    if theirs.version != ours.version {
        return differs("version", theirs.version.to_string(), ours.version.to_string());
    }
    if theirs.max_shard_size != ours.max_shard_size {
        return differs("max_shard_size", theirs.max_shard_size.to_string(), ours.max_shard_size.to_string());
    }
    match differing(&theirs.settings, &ours.settings) {
        Some((name, [theirs, ours])) => differs(&format!("settings.{name}"), theirs, ours),
        None => Ok(()),
    }
}

/// The first thing that is not the same in both, and what it is in either.
fn differing(a: &Settings, b: &Settings) -> Option<(String, [String; 2])> {
    let value = |of: &Settings, name: &String| of.get(name).cloned().unwrap_or_else(|| "nothing".into());
    let name = a.keys().chain(b.keys()).find(|name| a.get(*name) != b.get(*name))?;
    Some((name.clone(), [value(a, name), value(b, name)]))
}

fn line(value: &impl Serialize) -> String {
    let json = serde_json::to_string(value).expect("plain data always serializes");
    format!("{} {json}\n", sha256(json.as_bytes()))
}

fn unseal<T: for<'de> Deserialize<'de>>(line: &[u8]) -> Option<T> {
    let text = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    let (digest, json) = text.split_once(' ')?;
    (sha256(json.as_bytes()) == digest).then(|| serde_json::from_str(json).ok())?
}
