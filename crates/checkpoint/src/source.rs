//! Where tensors come from, whatever the file format.
use crate::Result;
use planish_tensor::HostTensor;

/// Named tensors: an HF directory, or a GGUF file.
pub trait TensorSource: Send + Sync {
    /// Every name, sorted.
    fn names(&self) -> Vec<String>;
    /// True when the name exists.
    fn contains(&self, name: &str) -> bool;
    /// The tensor, usually a view of a mapped file. An absent name is an error that names file and tensor.
    fn tensor(&self, name: &str) -> Result<HostTensor>;
    /// The tensor's pages are not needed soon: lets resident memory shrink. Views stay valid. Unknown names do nothing.
    fn release(&self, name: &str);
    /// What tells the tensor from another of its name, without reading all of it. An absent name is an error.
    fn ends(&self, name: &str) -> Result<Ends> {
        let tensor = self.tensor(name)?;
        let ends = Ends::of(tensor.dtype().name(), tensor.shape(), tensor.bytes());
        self.release(name);
        Ok(ends)
    }
}

/// A tensor's type and shape, and its stored bytes at both ends.
#[derive(Clone, Debug, PartialEq)]
pub struct Ends {
    /// Type of the stored elements, in the words of the file's format.
    pub dtype: String,
    /// Dimensions, outermost first.
    pub shape: Vec<usize>,
    /// At most [`Ends::BYTES`].
    pub first: Vec<u8>,
    /// At most [`Ends::BYTES`]; of a short tensor they overlap with the first.
    pub last: Vec<u8>,
}

impl Ends {
    /// Bytes of an end.
    pub const BYTES: usize = 4096;

    pub(crate) fn of(dtype: &str, shape: &[usize], bytes: &[u8]) -> Ends {
        let n = bytes.len().min(Ends::BYTES);
        let (first, last) = (bytes[..n].to_vec(), bytes[bytes.len() - n..].to_vec());
        Ends { dtype: dtype.into(), shape: shape.into(), first, last }
    }
}
