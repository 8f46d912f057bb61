//! A GGUF file as a source of tensors like any other.
use super::GgufModel;
use crate::source::{Ends, TensorSource};
use crate::{Error, Result};
use planish_tensor::HostTensor;
use std::path::PathBuf;

/// A GGUF model together with its path, for messages.
pub struct GgufSource {
    /// The view.
    pub model: GgufModel,
    /// The file.
    pub path: PathBuf,
}

impl TensorSource for GgufSource {
    fn names(&self) -> Vec<String> {
        self.model.names().map(str::to_owned).collect()
    }

    fn contains(&self, name: &str) -> bool {
        self.model.contains(name)
    }

    fn tensor(&self, name: &str) -> Result<HostTensor> {
        if !self.model.contains(name) {
            return Err(Error::tensor(&self.path, name, "a tensor of this name", "none"));
        }
        self.model.tensor(name).map_err(|e| Error::file(&self.path, "a readable tensor", e.to_string()))
    }

    fn ends(&self, name: &str) -> Result<Ends> {
        // Converting every tensor would read the whole file.
        let missing = || Error::tensor(&self.path, name, "a tensor of this name", "none");
        let (dtype, shape, blocks) = self.model.stored(name).ok_or_else(missing)?;
        Ok(Ends::of(&format!("{dtype:?}"), shape, blocks))
    }

    fn release(&self, _name: &str) {
        // Values are made on demand and owned by the caller; the file's own pages are clean and small.
    }
}
