//! Streaming a block's tensors into the checkpoint, in the family's own names and conventions.
use super::fold::FloatBlock;
use super::solve::Solved;
use crate::error::Result;
use planish_checkpoint::Error;
use planish_checkpoint::source::TensorSource;
use planish_checkpoint::writer::CheckpointWriter;
use planish_model::Plan;
use planish_tensor::{Backend, DType, HostTensor};
use std::path::Path;

/// How tensors are named and typed.
#[derive(Clone, Copy, Debug)]
pub struct Layout {
    /// Suffix of the channel scales: `weight_scale`, or LMDeploy's `scale`.
    pub scale_name: &'static str,
    /// Scales are `[n, 1]` of this type.
    pub scale_dtype: DType,
    /// Norms, biases and linears left in float are of this type.
    pub float_dtype: DType,
}

/// The tensors of one block as they are stored.
pub fn block_tensors<B: Backend>(
    plan: &Plan,
    layer: usize,
    block: &FloatBlock<'_, B>,
    solved: &[Solved],
    layout: Layout,
) -> Result<Vec<(String, HostTensor)>> {
    let prefix = plan.block_prefix(layer);
    let names = plan.arch.names;
    let float = |dtype, shape, values: &[f32]| HostTensor::from_f32_as(dtype, shape, values);
    let mut out = Vec::new();
    for (name, weight) in [(names.attention_norm, &block.attention_norm), (names.mlp_norm, &block.mlp_norm)] {
        let stored: Vec<f32> = weight.iter().map(|w| w - plan.arch.norm_offset).collect();
        out.push((format!("{prefix}{name}"), float(layout.float_dtype, vec![stored.len()], &stored)?));
    }
    for role in plan.roles(layer) {
        let name = plan.linear_name(layer, role);
        let (n, k) = plan.linear_size(role);
        match solved.iter().find(|s| s.role == role) {
            Some(s) => {
                let scales = s.part.scales.as_deref().unwrap_or_default();
                out.push((format!("{name}.weight"), s.part.weight.clone()));
                out.push((format!("{name}.{}", layout.scale_name), float(layout.scale_dtype, vec![n, 1], scales)?));
            }
            None => {
                let values = block.weights.values(role)?;
                out.push((format!("{name}.weight"), float(layout.float_dtype, vec![n, k], &values)?));
            }
        }
        if let Some(bias) = block.biases.get(&role) {
            out.push((format!("{name}.bias"), float(layout.float_dtype, vec![n], bias)?));
        }
    }
    Ok(out)
}

/// A block's tensors as a source, to run the block as it will be read.
pub struct Stored<'a>(pub &'a [(String, HostTensor)]);

impl TensorSource for Stored<'_> {
    fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.clone()).collect()
    }

    fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|(stored, _)| stored == name)
    }

    fn tensor(&self, name: &str) -> planish_checkpoint::Result<HostTensor> {
        let found = self.0.iter().find(|(stored, _)| stored == name).map(|(_, tensor)| tensor.clone());
        found.ok_or_else(|| Error::tensor(Path::new("a block"), name, "a tensor of the block", "none"))
    }

    fn release(&self, _: &str) {}
}

/// Writes tensors in their order.
pub fn write(writer: &mut CheckpointWriter, tensors: &[(String, HostTensor)]) -> Result<()> {
    tensors.iter().try_for_each(|(name, t)| Ok(writer.add(name, t.dtype(), t.shape(), t.bytes())?))
}

/// Copies the tensors outside the blocks as they are stored.
pub fn write_ends(writer: &mut CheckpointWriter, plan: &Plan, source: &dyn TensorSource) -> Result<()> {
    let names = plan.arch.names;
    let head = format!("{}.weight", names.head);
    for name in [names.embed, names.norm, &head] {
        if writer.contains(name) || (name == head && !source.contains(&head)) {
            continue;
        }
        let tensor = source.tensor(name)?;
        writer.add(name, tensor.dtype(), tensor.shape(), tensor.bytes())?;
    }
    Ok(())
}
