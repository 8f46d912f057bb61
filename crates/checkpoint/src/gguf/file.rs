//! The container: header, metadata, tensor table and the check that the tensors tile the data section.
use super::cursor::Cursor;
use super::error::{GgufError, Result};
use super::metadata::Metadata;
use super::types::GgmlType;
use planish_tensor::SharedBytes;
use std::collections::HashMap;
use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

const MAGIC: [u8; 4] = *b"GGUF";
const DEFAULT_ALIGNMENT: u64 = 32;
/// Header, metadata and table together: ten times the largest vocabulary, and a bound on what parsing may allocate.
const MAX_HEADER_BYTES: usize = 256 << 20;
/// ggml's limit on dimensions.
const MAX_RANK: u32 = 4;
const MAX_NAME_BYTES: usize = 1024;
/// Name length, rank, type and offset of a scalar.
const MIN_TENSOR_BYTES: usize = 8 + 4 + 4 + 8;

/// A checked GGUF file. Cloning shares the bytes.
#[derive(Clone)]
pub struct GgufFile {
    bytes: SharedBytes,
    version: u32,
    metadata: Metadata,
    tensors: Vec<GgufTensor>,
    index: HashMap<String, usize>,
}

/// One row of the tensor table.
#[derive(Clone, Debug, PartialEq)]
pub struct GgufTensor {
    /// The name in the file.
    pub name: String,
    /// Element type.
    pub ty: GgmlType,
    /// Dimensions, outermost first (the reverse of the file's order).
    pub shape: Vec<usize>,
    /// Where the data lies in the file, in bytes; within the file and of exactly the size of `shape`.
    pub range: Range<usize>,
}

impl std::fmt::Debug for GgufFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "GgufFile(version {}, {} tensors)", self.version, self.tensors.len())
    }
}

impl GgufFile {
    /// Maps and checks the file at `path`.
    ///
    /// # Errors
    /// The system's error, or any [`GgufError`] about the contents, with the path in front.
    pub fn open(path: impl AsRef<Path>) -> Result<GgufFile> {
        let path = path.as_ref();
        let bytes = map(path).map_err(|source| GgufError::Io { path: path.to_owned(), source })?;
        GgufFile::parse(bytes).map_err(|source| GgufError::InFile { path: path.to_owned(), source: Box::new(source) })
    }

    /// Checks a file that is already in memory.
    ///
    /// # Errors
    /// Any [`GgufError`] about the contents.
    pub fn parse(bytes: SharedBytes) -> Result<GgufFile> {
        let all = (*bytes).as_ref();
        let mut cursor = Cursor::new(&all[..all.len().min(MAX_HEADER_BYTES)]);
        let version = read_version(&mut cursor)?;
        // The tensor count comes first in the file; both counts are bounded by what is left.
        let tensor_count = cursor.count(MIN_TENSOR_BYTES, "tensor count")?;
        let key_count = cursor.count(Metadata::min_entry_bytes(), "metadata count")?;
        let metadata = Metadata::read(&mut cursor, key_count)?;
        let alignment = read_alignment(&metadata)?;

        let mut tensors = Vec::new();
        let mut index = HashMap::new();
        for i in 0..tensor_count {
            let tensor = read_tensor(&mut cursor, alignment)?;
            if index.insert(tensor.name.clone(), i).is_some() {
                return Err(GgufError::Duplicate { kind: "tensor", name: tensor.name });
            }
            tensors.push(tensor);
        }
        place(&mut tensors, cursor.position(), alignment, all.len())?;
        Ok(GgufFile { version, metadata, tensors, index, bytes })
    }

    /// Version of the format, 2 or 3.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The key-value section.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// The tensor table, in file order.
    pub fn tensors(&self) -> &[GgufTensor] {
        &self.tensors
    }

    /// The tensor with this name in the file.
    pub fn tensor(&self, name: &str) -> Option<&GgufTensor> {
        self.index.get(name).map(|&i| &self.tensors[i])
    }

    /// The raw blocks of a tensor of this file.
    pub fn data(&self, tensor: &GgufTensor) -> &[u8] {
        &(*self.bytes).as_ref()[tensor.range.clone()]
    }
}

fn read_version(cursor: &mut Cursor<'_>) -> Result<u32> {
    let magic: [u8; 4] = cursor.array("magic")?;
    if magic != MAGIC {
        let found = format!("bytes {magic:02x?}");
        return Err(GgufError::NotGguf { expected: "the magic 'GGUF'", found });
    }
    let version = cursor.u32("version")?;
    if !(2..=3).contains(&version) {
        let big_endian = (1..=3).contains(&version.swap_bytes());
        let found = if big_endian { "a big-endian file".to_owned() } else { format!("version {version}") };
        return Err(GgufError::NotGguf { expected: "version 2 or 3, little endian", found });
    }
    Ok(version)
}

fn read_alignment(metadata: &Metadata) -> Result<u64> {
    let alignment = metadata.integer("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT);
    if !alignment.is_power_of_two() || alignment > 1 << 30 {
        return Err(GgufError::malformed("general.alignment", "a power of two, at most 2^30", alignment));
    }
    Ok(alignment)
}

/// Reads one row of the table. Its `range` is still relative to the data section.
fn read_tensor(cursor: &mut Cursor<'_>, alignment: u64) -> Result<GgufTensor> {
    let name = cursor.string("tensor name")?.to_owned();
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        let found = format!("{} bytes", name.len());
        return Err(GgufError::malformed("tensor name", format!("1 to {MAX_NAME_BYTES} bytes"), found));
    }
    let what = format!("tensor '{name}'");
    let rank = cursor.u32(&what)?;
    if rank > MAX_RANK {
        return Err(GgufError::malformed(what, format!("at most {MAX_RANK} dimensions"), rank));
    }
    let mut shape = Vec::with_capacity(rank as usize);
    for _ in 0..rank {
        let dim = cursor.u64(&what)?;
        if dim == 0 {
            return Err(GgufError::malformed(what, "dimensions of at least 1", 0));
        }
        shape.push(usize::try_from(dim).map_err(|_| GgufError::overflow(&what))?);
    }
    shape.reverse();
    let id = cursor.u32(&what)?;
    let ty = GgmlType::from_id(id).ok_or_else(|| GgufError::TensorType {
        tensor: name.clone(),
        found: GgmlType::describe(id),
        supported: GgmlType::supported(),
    })?;
    let offset = cursor.u64(&what)?;
    if offset % alignment != 0 {
        return Err(GgufError::malformed(what, format!("an offset that is a multiple of {alignment}"), offset));
    }
    let size = byte_size(ty, &shape, &what)?;
    let start = usize::try_from(offset).map_err(|_| GgufError::overflow(&what))?;
    let end = start.checked_add(size).ok_or_else(|| GgufError::overflow(&what))?;
    Ok(GgufTensor { name, ty, shape, range: start..end })
}

fn byte_size(ty: GgmlType, shape: &[usize], what: &str) -> Result<usize> {
    let row = shape.last().copied().unwrap_or(1);
    if row % ty.block_elements() != 0 {
        let expected = format!("rows of a multiple of {} elements for {ty}", ty.block_elements());
        return Err(GgufError::malformed(what, expected, row));
    }
    let elements = shape.iter().try_fold(1usize, |n, &d| n.checked_mul(d));
    elements
        .and_then(|n| (n / ty.block_elements()).checked_mul(ty.block_bytes()))
        .ok_or_else(|| GgufError::overflow(what))
}

/// Makes the ranges absolute, and checks that the tensors follow each other from the start of the data section with
/// nothing but padding between them, inside the file.
fn place(tensors: &mut [GgufTensor], header_end: usize, alignment: u64, file_len: usize) -> Result<()> {
    let align = |n: usize, what: &str| {
        (n as u64)
            .checked_next_multiple_of(alignment)
            .and_then(|n| usize::try_from(n).ok())
            .ok_or_else(|| GgufError::overflow(what))
    };
    let base = align(header_end, "data section")?;
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| tensors[i].range.start);
    let mut expected = 0;
    for i in order {
        let tensor = &mut tensors[i];
        let what = format!("tensor '{}'", tensor.name);
        if tensor.range.start != expected {
            let kind = if tensor.range.start < expected { "an overlap" } else { "a gap" };
            let found = format!("{} ({kind})", tensor.range.start);
            return Err(GgufError::malformed(what, format!("data at offset {expected}"), found));
        }
        expected = align(tensor.range.end, &what)?;
        let shifted = |n: usize| base.checked_add(n).ok_or_else(|| GgufError::overflow(&what));
        let range = shifted(tensor.range.start)?..shifted(tensor.range.end)?;
        if range.end > file_len {
            let (needed, offset) = (range.len() as u64, range.start as u64);
            let left = file_len.saturating_sub(range.start) as u64;
            return Err(GgufError::Truncated { what, needed, offset, left });
        }
        tensor.range = range;
    }
    Ok(())
}

/// Maps a file for reading.
#[allow(unsafe_code)]
fn map(path: &Path) -> std::io::Result<SharedBytes> {
    // Asked before opening: opening a FIFO would block.
    if !std::fs::metadata(path)?.is_file() {
        return Err(std::io::Error::other("expected a regular file"));
    }
    let file = File::open(path)?;
    // SAFETY: the mapping is private to this process and only read. If another process shortens the file, reads beyond
    // its new end raise SIGBUS: that is the documented limit of every mapped checkpoint, as with safetensors.
    let map = unsafe { memmap2::Mmap::map(&file)? };
    Ok(Arc::new(map))
}
