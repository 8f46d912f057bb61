//! Streaming a block's tensors into the checkpoint, in the family's own names and conventions.
use super::fold::FloatBlock;
use super::solve::Solved;
use crate::error::Result;
use planish_checkpoint::source::TensorSource;
use planish_checkpoint::writer::CheckpointWriter;
use planish_model::{Plan, Role};
use planish_tensor::{DType, host::encode_f32};

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

/// Writes one block.
pub fn write_block(
    writer: &mut CheckpointWriter,
    plan: &Plan,
    layer: usize,
    block: &FloatBlock,
    solved: &[Solved],
    layout: Layout,
) -> Result<()> {
    let prefix = plan.block_prefix(layer);
    let names = plan.arch.names;
    for (name, weight) in [(names.attention_norm, &block.attention_norm), (names.mlp_norm, &block.mlp_norm)] {
        let stored: Vec<f32> = weight.iter().map(|w| w - plan.arch.norm_offset).collect();
        write_float(writer, &format!("{prefix}{name}"), &[stored.len()], &stored, layout.float_dtype)?;
    }
    for role in Role::ALL {
        let name = plan.linear_name(layer, role);
        let (n, k) = plan.linear_size(role);
        match solved.iter().find(|s| s.role == role) {
            Some(s) => {
                writer.add(&format!("{name}.weight"), s.weight.kind.dtype(), &[n, k], &s.weight.codes)?;
                let scale_name = format!("{name}.{}", layout.scale_name);
                write_float(writer, &scale_name, &[n, 1], &s.weight.scales, layout.scale_dtype)?;
            }
            None => {
                let w = &block.weights[role as usize];
                write_float(writer, &format!("{name}.weight"), &[n, k], w, layout.float_dtype)?;
            }
        }
        if let Some(bias) = &block.biases[role as usize] {
            write_float(writer, &format!("{name}.bias"), &[n], bias, layout.float_dtype)?;
        }
    }
    Ok(())
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

fn write_float(writer: &mut CheckpointWriter, name: &str, shape: &[usize], values: &[f32], dtype: DType) -> Result<()> {
    Ok(writer.add(name, dtype, shape, &encode_f32(dtype, values)?)?)
}
