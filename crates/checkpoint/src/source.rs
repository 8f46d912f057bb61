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
}
