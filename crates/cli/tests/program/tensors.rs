//! safetensors in a few lines of their own, so that the program's reader and writer are not checked by themselves.
use serde_json::Value;
use std::path::Path;

/// A file, taken apart.
pub struct File {
    /// Name to `dtype`, `shape`, `data_offsets`.
    pub header: Value,
    /// What follows the header.
    pub data: Vec<u8>,
}

impl File {
    /// Reads a file.
    pub fn open(path: &Path) -> File {
        let bytes = std::fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
        File { header, data: bytes[8 + length..].to_vec() }
    }

    /// Names of the tensors, sorted.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.header.as_object().unwrap().keys().cloned().collect();
        names.retain(|n| n != "__metadata__");
        names.sort();
        names
    }

    /// `dtype` and `shape` of a tensor.
    pub fn kind(&self, name: &str) -> (String, Vec<u64>) {
        let entry = &self.header[name];
        let shape = entry["shape"].as_array().unwrap_or_else(|| panic!("no tensor {name}"));
        (entry["dtype"].as_str().unwrap().to_owned(), shape.iter().map(|n| n.as_u64().unwrap()).collect())
    }

    /// Where a tensor's bytes are in `data`.
    pub fn place(&self, name: &str) -> std::ops::Range<usize> {
        let at = |i: usize| self.header[name]["data_offsets"][i].as_u64().unwrap() as usize;
        at(0)..at(1)
    }

    /// Bytes of a tensor.
    pub fn bytes(&self, name: &str) -> &[u8] {
        &self.data[self.place(name)]
    }

    /// A tensor of 32-bit integers.
    pub fn ints(&self, name: &str) -> Vec<i32> {
        self.bytes(name).chunks_exact(4).map(|b| i32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    /// A tensor of 32-bit floats.
    pub fn floats(&self, name: &str) -> Vec<f32> {
        assert_eq!(self.kind(name).0, "F32");
        self.bytes(name).chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect()
    }

    /// Writes the file.
    pub fn save(&self, path: &Path) {
        let header = serde_json::to_vec(&self.header).unwrap();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header);
        bytes.extend(&self.data);
        std::fs::write(path, bytes).unwrap();
    }
}
