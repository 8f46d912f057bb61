//! Turns the data file of a shard into the shard: header, then tensors by falling alignment, then by order of writing.
use super::CheckpointWriter;
use crate::{
    Error, Result,
    digests::{FileDigest, hash, hex, sha256},
    header,
    journal::Written,
};
use planish_tensor::DType;
use sha2::{Digest, Sha256};
use std::{collections::BTreeMap, fs::File, io, os::unix::fs::FileExt, path::Path};

/// Digests of the shards completed by this process.
pub(super) type Sealed = BTreeMap<usize, FileDigest>;

const CHUNK: usize = 1 << 20;

impl CheckpointWriter {
    /// Completes a shard, checking each tensor against the digest taken when it was added. Does nothing when done.
    pub(super) fn seal(&mut self, number: usize, drop_data: bool) -> Result<()> {
        let (data, sealed) = (self.staging.data(number), self.staging.sealed(number));
        if !sealed.exists() {
            let digest = self.write_shard(number, &data, &sealed)?;
            self.sealed.insert(number, digest);
        }
        if drop_data { self.disk.remove(&data) } else { Ok(()) }
    }

    /// Digest of a completed shard; read again when an earlier process completed it.
    pub(super) fn shard_digest(&self, number: usize) -> Result<FileDigest> {
        if let Some(digest) = self.sealed.get(&number) {
            return Ok(digest.clone());
        }
        let path = self.staging.sealed(number);
        let file = File::open(&path).map_err(Error::io(&path, "open"))?;
        let bytes = file.metadata().map_err(Error::io(&path, "read the size of"))?.len();
        Ok(FileDigest { bytes, sha256: hash(&file, &path)? })
    }

    fn write_shard(&self, number: usize, data: &Path, sealed: &Path) -> Result<FileDigest> {
        let tensors = sealed_order(self.tensors.iter().filter(|t| t.shard == number));
        let described: Vec<_> = tensors.iter().map(|(t, d)| (t.name.as_str(), *d, t.shape.as_slice())).collect();
        let header = header::compose(&described);
        let source = File::open(data).map_err(Error::io(data, "open"))?;
        let aside = sealed.with_extension("tmp");
        let out = self.disk.create(&aside)?;
        let mut whole = Sha256::new();
        let mut bytes = header.len() as u64;
        whole.update(&header);
        self.disk.write(&out, &aside, &header)?;
        let mut buffer = vec![0; CHUNK];
        for (tensor, _) in tensors {
            let mut one = Sha256::new();
            let mut done = 0;
            while done < tensor.bytes {
                let n = (tensor.bytes - done).min(CHUNK as u64) as usize;
                read_at(&source, &mut buffer[..n], tensor.offset + done).map_err(Error::io(data, "read"))?;
                one.update(&buffer[..n]);
                whole.update(&buffer[..n]);
                self.disk.write(&out, &aside, &buffer[..n])?;
                done += n as u64;
            }
            let found = hex(one.finalize().as_slice());
            if found != tensor.sha256 {
                let expected = format!("sha256 {} as it was written", tensor.sha256);
                return Err(Error::tensor(data, &tensor.name, expected, found));
            }
            bytes += tensor.bytes;
        }
        self.disk.sync(&out, &aside)?;
        self.disk.rename(&aside, sealed)?;
        Ok(FileDigest { bytes, sha256: hex(whole.finalize().as_slice()) })
    }
}

/// Wide elements first, so that every tensor starts at a multiple of its element size and readers can map it.
pub(super) fn sealed_order<'a>(tensors: impl Iterator<Item = &'a Written>) -> Vec<(&'a Written, DType)> {
    let typed = |t: &'a Written| (t, DType::from_name(&t.dtype).expect("the writer recorded a type it knows"));
    let mut out: Vec<_> = tensors.map(typed).collect();
    out.sort_by_key(|(_, dtype)| std::cmp::Reverse(dtype.size()));
    out
}

fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    file.read_exact_at(buffer, offset)
}

/// Digest of a small file in memory.
pub(super) fn digest_of(bytes: &[u8]) -> FileDigest {
    FileDigest { bytes: bytes.len() as u64, sha256: sha256(bytes) }
}
