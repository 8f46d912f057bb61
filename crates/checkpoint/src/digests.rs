//! `planish_digests.json`: SHA-256 of every file and every tensor, because safetensors detects no corruption.
use crate::{
    Error, Result,
    entry::{Root, check_plain_name},
    header, json,
};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use std::{
    collections::BTreeMap,
    fmt,
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
    sync::Mutex,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
};

/// Name of the digest file.
pub const DIGESTS: &str = "planish_digests.json";
const MAX_BYTES: u64 = 256 << 20;

/// What a checkpoint's files held when they were written.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Digests {
    /// File name -> its digest. The digest file itself is not among them.
    pub files: BTreeMap<String, FileDigest>,
    /// Tensor name -> its digest.
    pub tensors: BTreeMap<String, TensorDigest>,
}

/// Digest of a file.
#[derive(Clone, Debug, PartialEq)]
pub struct FileDigest {
    /// Length.
    pub bytes: u64,
    /// SHA-256, lower-case hexadecimal.
    pub sha256: String,
}

/// Digest of a tensor's bytes.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorDigest {
    /// The file that holds the tensor.
    pub file: String,
    /// SHA-256, lower-case hexadecimal.
    pub sha256: String,
}

/// One way in which a checkpoint differs from its digests.
#[derive(Clone, Debug, PartialEq)]
pub struct Problem {
    /// The file.
    pub file: PathBuf,
    /// The tensor, where the damage is in one.
    pub tensor: Option<String>,
    /// What was expected.
    pub expected: String,
    /// What was found.
    pub found: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.file.display())?;
        if let Some(tensor) = &self.tensor {
            write!(f, "tensor {}: ", crate::error::quoted(tensor))?;
        }
        write!(f, "expected {}, found {}", self.expected, self.found)
    }
}

impl Digests {
    /// Reads the digests of a directory; `None` when it has none. A digest file that was changed is an error.
    pub fn open(dir: &Path) -> Result<Option<Digests>> {
        let root = Root::open(dir)?;
        if !root.exists(DIGESTS) {
            return Ok(None);
        }
        let (bytes, path) = root.read(DIGESTS, MAX_BYTES)?;
        Digests::from_json(&bytes, &path).map(Some)
    }

    /// The text of the digest file. Its last field seals the rest.
    pub(crate) fn to_json(&self) -> Vec<u8> {
        let files = self.files.iter().map(|(k, d)| (k.clone(), json!({"bytes": d.bytes, "sha256": d.sha256})));
        let tensors = self.tensors.iter().map(|(k, d)| (k.clone(), json!({"file": d.file, "sha256": d.sha256})));
        let mut root = json!({
            "version": 1,
            "files": Value::Object(files.collect()),
            "tensors": Value::Object(tensors.collect()),
        });
        root["sha256"] = json!(sha256(root.to_string().as_bytes()));
        json::pretty(&root)
    }

    fn from_json(bytes: &[u8], path: &Path) -> Result<Digests> {
        let root = Value::Object(json::parse_object(bytes, path)?);
        let digests = Digests::from_value(&root);
        // Written again, every byte must be the same: this covers the seal and every space.
        match digests {
            Some(digests) if digests.to_json() == bytes => Ok(digests),
            _ => Err(Error::file(path, "digests as they were written", "a changed file")),
        }
    }

    fn from_value(root: &Value) -> Option<Digests> {
        let text = |v: &Value| v.as_str().map(String::from);
        let mut out = Digests::default();
        for (name, v) in root["files"].as_object()? {
            check_plain_name(name).ok()?;
            out.files.insert(name.clone(), FileDigest { bytes: v["bytes"].as_u64()?, sha256: text(&v["sha256"])? });
        }
        for (name, v) in root["tensors"].as_object()? {
            let digest = TensorDigest { file: text(&v["file"])?, sha256: text(&v["sha256"])? };
            out.tensors.insert(name.clone(), digest);
        }
        Some(out)
    }
}

/// Reads every file of a checkpoint and compares it with its digests. An empty list means: as it was written.
/// A directory without digests is an error.
pub fn verify(dir: &Path) -> Result<Vec<Problem>> {
    let root = Root::open(dir)?;
    let path = dir.join(DIGESTS);
    if !root.exists(DIGESTS) {
        return Err(Error::file(&path, "the digests of this checkpoint", "no such file"));
    }
    let digests = match root.read(DIGESTS, MAX_BYTES).and_then(|(bytes, path)| Digests::from_json(&bytes, &path)) {
        Ok(digests) => digests,
        Err(e) => return Ok(vec![problem(path, None, "digests as they were written", e.to_string())]),
    };
    let mut problems = check_files(&root, dir, &digests);
    for entry in fs::read_dir(dir).map_err(Error::io(dir, "list"))? {
        let name = entry.map_err(Error::io(dir, "list"))?.file_name().to_string_lossy().into_owned();
        let weights = name.ends_with(crate::shards::SUFFIX) || name == crate::shards::INDEX;
        if weights && !digests.files.contains_key(&name) {
            problems.push(problem(dir.join(&name), None, "only files with a digest", "one without".into()));
        }
    }
    Ok(problems)
}

/// Checks all files, several at a time: one is hashed from its beginning to its end.
fn check_files(root: &Root, dir: &Path, digests: &Digests) -> Vec<Problem> {
    let (files, next) = (digests.files.iter().collect::<Vec<_>>(), AtomicUsize::new(0));
    let found = Mutex::new(Vec::new());
    let work = || {
        while let Some((i, (name, digest))) = files.iter().enumerate().nth(next.fetch_add(1, Ordering::Relaxed)) {
            let mut problems = Vec::new();
            check_file(root, &dir.join(name), name, digest, digests, &mut problems);
            found.lock().unwrap_or_else(|e| e.into_inner()).push((i, problems));
        }
    };
    let threads = thread::available_parallelism().map_or(1, |n| n.get()).min(files.len());
    thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let mut found = found.into_inner().unwrap_or_else(|e| e.into_inner());
    found.sort_by_key(|(i, _)| *i);
    found.into_iter().flat_map(|(_, problems)| problems).collect()
}

fn check_file(
    root: &Root,
    path: &Path,
    name: &str,
    expected: &FileDigest,
    digests: &Digests,
    problems: &mut Vec<Problem>,
) {
    let mut report =
        |tensor, expected: String, found: String| problems.push(problem(path.into(), tensor, &expected, found));
    let read = root.file(name).and_then(|(file, _, length)| Ok((hash(&file, path)?, length)));
    let (found, length) = match read {
        Ok(read) => read,
        Err(e) => return report(None, "a readable file".into(), e.to_string()),
    };
    if length != expected.bytes {
        report(None, format!("{} bytes", expected.bytes), format!("{length} bytes"));
    }
    if found == expected.sha256 {
        return;
    }
    let damaged = damaged_tensors(root, name, digests);
    if damaged.is_empty() {
        report(None, format!("sha256 {}", expected.sha256), found);
    }
    for (tensor, expected, found) in damaged {
        report(Some(tensor), format!("sha256 {expected}"), found);
    }
}

/// Tensors of a damaged shard whose bytes differ: name, expected, found. Empty when its header cannot be trusted.
fn damaged_tensors(root: &Root, name: &str, digests: &Digests) -> Vec<(String, String, String)> {
    let Ok((file, path, length)) = root.file(name) else { return Vec::new() };
    if !name.ends_with(crate::shards::SUFFIX) || length < 8 {
        return Vec::new();
    }
    let Ok(mapping) = crate::mapping::Mapping::open(&file, &path) else { return Vec::new() };
    let bytes: &[u8] = mapping.as_ref();
    let entries = header::parse(bytes, &path).unwrap_or_default();
    let differing = entries.into_iter().filter_map(|e| {
        let expected = digests.tensors.get(&e.name).filter(|d| d.file == name)?.sha256.clone();
        let found = sha256(&bytes[e.range]);
        (found != expected).then_some((e.name, expected, found))
    });
    differing.collect()
}

fn problem(file: PathBuf, tensor: Option<String>, expected: &str, found: String) -> Problem {
    Problem { file, tensor, expected: expected.into(), found }
}

/// SHA-256 of bytes in memory, lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes).as_slice())
}

/// SHA-256 of the rest of a file.
pub(crate) fn hash(mut file: &File, path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        match file.read(&mut buffer).map_err(Error::io(path, "read"))? {
            0 => return Ok(hex(hasher.finalize().as_slice())),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// Bytes in lower-case hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}
