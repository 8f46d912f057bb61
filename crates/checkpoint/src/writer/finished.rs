//! The tensors of a checkpoint's complete blocks, read back while the rest is not written yet.
use super::{CheckpointWriter, seal::sealed_order};
use crate::{Error, Result, journal::Written, source::TensorSource};
use planish_tensor::{DType, HostTensor};
use std::{
    collections::BTreeMap,
    fs::File,
    io::Read,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
};

/// Where each tensor is.
pub struct Finished {
    dir: PathBuf,
    tensors: BTreeMap<String, Place>,
}

struct Place {
    file: PathBuf,
    offset: u64,
    dtype: DType,
    shape: Vec<usize>,
    bytes: u64,
}

impl CheckpointWriter {
    /// The tensors of the complete blocks.
    pub fn finished(&self) -> Result<Finished> {
        let mut tensors = BTreeMap::new();
        let recorded = &self.tensors[..self.recorded];
        for number in 1..=recorded.last().map_or(0, |t| t.shard) {
            let (data, sealed) = (self.staging.data(number), self.staging.sealed(number));
            let whole = !data.exists();
            let (file, mut next) = if whole { (&sealed, header_bytes(&sealed)?) } else { (&data, 0) };
            // A completed shard has its tensors in another order, behind a header.
            for (written, dtype) in sealed_order(recorded.iter().filter(|t| t.shard == number)) {
                let offset = if whole { next } else { written.offset };
                next += written.bytes;
                tensors.insert(written.name.clone(), place(file, offset, dtype, written));
            }
        }
        Ok(Finished { dir: self.dir.clone(), tensors })
    }
}

fn place(file: &Path, offset: u64, dtype: DType, written: &Written) -> Place {
    Place { file: file.into(), offset, dtype, shape: written.shape.clone(), bytes: written.bytes }
}

/// Length of a shard's header, its own length included.
fn header_bytes(path: &Path) -> Result<u64> {
    let mut length = [0; 8];
    let read = File::open(path).and_then(|mut file| file.read_exact(&mut length));
    read.map_err(Error::io(path, "read"))?;
    Ok(8 + u64::from_le_bytes(length))
}

impl TensorSource for Finished {
    fn names(&self) -> Vec<String> {
        self.tensors.keys().cloned().collect()
    }

    fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    fn tensor(&self, name: &str) -> Result<HostTensor> {
        let missing = || Error::tensor(&self.dir, name, "a tensor that is written", "none");
        let place = self.tensors.get(name).ok_or_else(missing)?;
        let file = File::open(&place.file).map_err(Error::io(&place.file, "open"))?;
        let mut bytes = vec![0; place.bytes as usize];
        file.read_exact_at(&mut bytes, place.offset).map_err(Error::io(&place.file, "read"))?;
        let wrong = |e: planish_tensor::Error| Error::tensor(&self.dir, name, "a tensor as written", e.to_string());
        HostTensor::from_bytes(place.dtype, place.shape.clone(), bytes).map_err(wrong)
    }

    fn release(&self, _: &str) {}
}
