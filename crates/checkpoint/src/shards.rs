//! A model directory in HF layout: `model.safetensors`, or shards with `model.safetensors.index.json`, mapped.
use crate::{
    Error, Result,
    entry::{Root, check_plain_name},
    error::quoted,
    header::{self, Element, Entry},
    json,
    mapping::Mapping,
    source::TensorSource,
};
use planish_tensor::{DType, HostTensor};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

pub(crate) const SINGLE: &str = "model.safetensors";
pub(crate) const INDEX: &str = "model.safetensors.index.json";
pub(crate) const SUFFIX: &str = ".safetensors";
const MAX_INDEX: u64 = 64 << 20;
pub(crate) const MAX_SHARDS: usize = 10_000;

/// The mapped shards of one model. Opening checks every header, and that index and shards agree exactly.
pub struct ModelFiles {
    dir: PathBuf,
    shards: Vec<Shard>,
    /// Tensor name -> shard, entry of its header.
    tensors: BTreeMap<String, (usize, usize)>,
}

/// What is known of a tensor without reading it.
#[derive(Clone, Debug, PartialEq)]
pub struct TensorInfo {
    /// Element type.
    pub dtype: DType,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// The shard.
    pub file: PathBuf,
}

struct Shard {
    path: PathBuf,
    mapping: Arc<Mapping>,
    entries: Vec<Entry>,
}

impl ModelFiles {
    /// Opens a directory. As in transformers, `model.safetensors` wins over an index.
    pub fn open(dir: &Path) -> Result<ModelFiles> {
        let root = Root::open(dir)?;
        if root.exists(SINGLE) {
            let shard = Shard::open(&root, SINGLE)?;
            let tensors = shard.entries.iter().enumerate().map(|(i, e)| (e.name.clone(), (0, i))).collect();
            return Ok(ModelFiles { dir: dir.into(), shards: vec![shard], tensors });
        }
        if !root.exists(INDEX) {
            return Err(no_weights(dir));
        }
        let (bytes, index) = root.read(INDEX, MAX_INDEX)?;
        let weight_map = read_weight_map(&bytes, &index)?;
        let files: BTreeSet<&String> = weight_map.values().collect();
        if files.len() > MAX_SHARDS {
            return Err(Error::file(&index, format!("at most {MAX_SHARDS} shards"), files.len().to_string()));
        }
        let shards = files.into_iter().map(|f| Shard::open(&root, f)).collect::<Result<Vec<_>>>()?;
        let tensors = join(&weight_map, &shards, dir, &index)?;
        Ok(ModelFiles { dir: dir.into(), shards, tensors })
    }

    /// The directory as it was given.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The shards, in order of their names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.shards.iter().map(|s| s.path.as_path())
    }

    /// Type, shape and file of a tensor.
    pub fn info(&self, name: &str) -> Result<TensorInfo> {
        let (shard, entry) = self.find(name)?;
        let dtype = shard.dtype(entry)?;
        Ok(TensorInfo { dtype, shape: entry.shape.clone(), file: shard.path.clone() })
    }

    /// Bytes of all tensors.
    pub fn total_bytes(&self) -> u64 {
        self.shards.iter().flat_map(|s| &s.entries).map(|e| e.range.len() as u64).sum()
    }

    fn find(&self, name: &str) -> Result<(&Shard, &Entry)> {
        let &(shard, entry) =
            self.tensors.get(name).ok_or_else(|| Error::tensor(&self.dir, name, "a tensor of this name", "none"))?;
        Ok((&self.shards[shard], &self.shards[shard].entries[entry]))
    }
}

impl TensorSource for ModelFiles {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }
    fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
    fn tensor(&self, name: &str) -> Result<HostTensor> {
        let (shard, entry) = self.find(name)?;
        let dtype = shard.dtype(entry)?;
        HostTensor::new(dtype, entry.shape.clone(), shard.mapping.clone(), entry.range.clone())
            .map_err(|e| Error::tensor(&shard.path, name, "bytes of its shape", e.to_string()))
    }
    fn release(&self, name: &str) {
        if let Ok((shard, entry)) = self.find(name) {
            shard.mapping.release(entry.range.clone());
        }
    }
}

impl Shard {
    fn open(root: &Root, name: &str) -> Result<Shard> {
        let (file, path, len) = root.file(name)?;
        if len < 8 {
            return Err(Error::file(&path, "a safetensors file", format!("{len} bytes")));
        }
        let mapping = Arc::new(Mapping::open(&file, &path)?);
        let entries = header::parse((*mapping).as_ref(), &path)?;
        Ok(Shard { path, mapping, entries })
    }

    fn dtype(&self, entry: &Entry) -> Result<DType> {
        match entry.element {
            Element::Known(dtype) => Ok(dtype),
            Element::Other(name, _) => {
                Err(Error::tensor(&self.path, &entry.name, "an element type that a model computes with", name))
            }
        }
    }
}

/// The `weight_map`: tensor name -> one plain file name that ends in `.safetensors`.
fn read_weight_map(bytes: &[u8], index: &Path) -> Result<BTreeMap<String, String>> {
    let mut root = json::parse_object(bytes, index)?;
    let map = match root.remove("weight_map") {
        Some(Value::Object(map)) if !map.is_empty() => map,
        Some(other) => return Err(Error::field(index, "weight_map", "an object of tensors", json::shown(&other))),
        None => return Err(Error::field(index, "weight_map", "an object of tensors", "nothing")),
    };
    let mut out = BTreeMap::new();
    for (name, file) in map {
        let expected = "one plain file name that ends in .safetensors";
        let bad = |found: String| Error::field(index, format!("weight_map.{}", quoted(&name)), expected, found);
        let Value::String(file) = file else { return Err(bad(json::shown(&file))) };
        check_plain_name(&file).map_err(bad)?;
        if !file.ends_with(SUFFIX) || file.len() == SUFFIX.len() {
            return Err(bad(quoted(&file)));
        }
        out.insert(name, file);
    }
    Ok(out)
}

/// Joins index and shards, which must name the same tensors in the same files.
fn join(
    weight_map: &BTreeMap<String, String>,
    shards: &[Shard],
    dir: &Path,
    index: &Path,
) -> Result<BTreeMap<String, (usize, usize)>> {
    let mut out = BTreeMap::new();
    for (s, shard) in shards.iter().enumerate() {
        for (e, entry) in shard.entries.iter().enumerate() {
            let listed = weight_map.get(&entry.name).map(|f| dir.join(f));
            match listed {
                Some(path) if path == shard.path => out.insert(entry.name.clone(), (s, e)),
                Some(path) => {
                    let found = format!("it in {} too", shard.path.display());
                    return Err(Error::tensor(index, &entry.name, format!("it in {}", path.display()), found));
                }
                None => {
                    let found = format!("it in {} only", shard.path.display());
                    return Err(Error::tensor(index, &entry.name, "an entry in weight_map", found));
                }
            };
        }
    }
    match weight_map.iter().find(|(name, _)| !out.contains_key(*name)) {
        Some((name, file)) => Err(Error::tensor(&dir.join(file), name, "the tensor that the index puts here", "none")),
        None => Ok(out),
    }
}

fn no_weights(dir: &Path) -> Error {
    let names: Vec<String> =
        fs::read_dir(dir).into_iter().flatten().filter_map(|e| e.ok()?.file_name().into_string().ok()).collect();
    let ends = |list: &[&str]| names.iter().any(|n| list.iter().any(|s| n.ends_with(s)));
    let found = if names.iter().any(|n| n == crate::STAGING) {
        "an unfinished quantization; finish it with --resume"
    } else if ends(&[".bin", ".pt", ".pth", ".ckpt"]) {
        "pickle files only, which can run code when read; convert them with save_pretrained(safe_serialization=True)"
    } else if ends(&[".gguf"]) {
        "GGUF files; give the path of one of them"
    } else {
        "neither"
    };
    Error::file(dir, format!("{SINGLE} or {INDEX}"), found)
}
