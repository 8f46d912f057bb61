//! Streaming a block's tensors into the checkpoint, in the family's own names and conventions.
use super::fold::FloatBlock;
use super::solve::Solved;
use super::stored::stored_scales;
use crate::error::{Error, Result};
use planish_checkpoint::scheme::{ActQuant, INPUT_SCALE, INPUT_ZERO_POINT, WeightStrategy};
use planish_checkpoint::source::TensorSource;
use planish_checkpoint::writer::CheckpointWriter;
use planish_model::Plan;
use planish_model::packing::join;
use planish_model::plan::Stored;
use planish_tensor::{Backend, DType, Grid, HostTensor, LinearPart};
use std::collections::BTreeMap;
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

/// The tensors of one block as they are stored, by the scheme of `plan` if it has one.
pub fn block_tensors<B: Backend>(
    plan: &Plan,
    layer: usize,
    block: &FloatBlock<'_, B>,
    solved: &[Solved],
    layout: Layout,
) -> Result<Vec<(String, HostTensor)>> {
    let float = |shape, values: &[f32]| HostTensor::from_f32_as(layout.float_dtype, shape, values);
    let offset = plan.arch.norm.offset();
    let mut out = Vec::new();
    for (place, norm) in &block.norms {
        let name = plan.norm_name(layer, *place).unwrap_or_default();
        let stored: Vec<f32> = norm.weight.iter().map(|w| w - offset).collect();
        out.push((format!("{name}.weight"), float(vec![stored.len()], &stored)?));
        if let Some(bias) = &norm.bias {
            out.push((format!("{name}.bias"), float(vec![bias.len()], bias)?));
        }
    }
    for module in plan.stored(layer) {
        let part = module_part(plan, &module, block, solved)?;
        match part.scales {
            Some(_) => out.extend(codes(plan, &module.name, &part, layout)?),
            None => {
                let weight = float(vec![module.n, module.k], &part.weight.to_f32())?;
                out.push((format!("{}.weight", module.name), weight));
            }
        }
        if let Some(bias) = &part.bias {
            out.push((format!("{}.bias", module.name), float(vec![module.n], bias)?));
        }
    }
    Ok(out)
}

/// A quantized module's weight and scales as the scheme of `plan` stores them; without one, a scale for each row.
pub(super) fn codes(plan: &Plan, name: &str, part: &LinearPart, layout: Layout) -> Result<Vec<(String, HostTensor)>> {
    let (n, k) = (part.weight.shape()[0], part.weight.shape()[1]);
    let linear = plan.scheme.as_deref().and_then(|scheme| scheme.for_linear(name));
    let strategy = linear.map_or(WeightStrategy::Channel, |linear| linear.weights.strategy);
    let scales = stored_scales(part.scales.as_deref().unwrap_or_default(), strategy, n);
    let scale = |shape, values: &[f32]| HostTensor::from_f32_as(layout.scale_dtype, shape, values);
    let mut out = vec![
        (format!("{name}.weight"), part.weight.clone()),
        (format!("{name}.{}", layout.scale_name), scale(strategy.scale_shape(n, k), &scales)?),
    ];
    if let Grid::Static { scale: fixed, zero } = part.grid {
        out.push((format!("{name}.{INPUT_SCALE}"), scale(vec![1], &[fixed])?));
        if linear.is_some_and(|linear| linear.activations == ActQuant::Static { symmetric: false }) {
            let zero = HostTensor::from_bytes(DType::I8, vec![1], vec![zero as u8])?;
            out.push((format!("{name}.{INPUT_ZERO_POINT}"), zero));
        }
    }
    Ok(out)
}

/// A module of quantized linears, or of float ones.
fn module_part<B: Backend>(
    plan: &Plan,
    module: &Stored,
    block: &FloatBlock<'_, B>,
    solved: &[Solved],
) -> Result<LinearPart> {
    let mut parts = BTreeMap::new();
    for &role in &module.roles {
        let part = match solved.iter().find(|s| s.role == role) {
            Some(s) => s.part.clone(),
            None => block.part(plan, role)?,
        };
        parts.insert(role, part);
    }
    Ok(join(module, |role| parts[&role].clone())?)
}

/// A block's tensors as a source, to run the block as it will be read.
pub struct Tensors<'a>(pub &'a [(String, HostTensor)]);

impl TensorSource for Tensors<'_> {
    fn names(&self) -> Vec<String> {
        self.0.iter().map(|(name, _)| name.clone()).collect()
    }

    fn contains(&self, name: &str) -> bool {
        self.0.iter().any(|(stored, _)| stored == name)
    }

    fn tensor(&self, name: &str) -> planish_checkpoint::Result<HostTensor> {
        let found = self.0.iter().find(|(stored, _)| stored == name).map(|(_, tensor)| tensor.clone());
        found.ok_or_else(|| {
            planish_checkpoint::Error::tensor(Path::new("a block"), name, "a tensor of the block", "none")
        })
    }

    fn release(&self, _: &str) {}
}

/// A model with some tensors in place of its own, or beside them.
pub struct Over<'a>(pub &'a dyn TensorSource, pub Tensors<'a>);

impl TensorSource for Over<'_> {
    fn names(&self) -> Vec<String> {
        let others = self.0.names().into_iter().filter(|name| !self.1.contains(name));
        self.1.names().into_iter().chain(others).collect()
    }

    fn contains(&self, name: &str) -> bool {
        self.1.contains(name) || self.0.contains(name)
    }

    fn tensor(&self, name: &str) -> planish_checkpoint::Result<HostTensor> {
        if self.1.contains(name) { self.1.tensor(name) } else { self.0.tensor(name) }
    }

    fn release(&self, name: &str) {
        self.0.release(name);
    }
}

/// Writes tensors in their order.
pub fn write(writer: &mut CheckpointWriter, tensors: &[(String, HostTensor)]) -> Result<()> {
    tensors.iter().try_for_each(|(name, tensor)| add(writer, name, tensor))
}

/// Writes one tensor, if it is finite: what no sample reaches would be published as it is otherwise.
fn add(writer: &mut CheckpointWriter, name: &str, tensor: &HostTensor) -> Result<()> {
    let columns = tensor.shape().last().copied().unwrap_or(1).max(1);
    if let Some(at) = not_finite(tensor) {
        let value = tensor.to_f32()[at];
        let source = Box::new(Error::Weight { row: at / columns, column: at % columns, value });
        return Err(Error::Tensor { tensor: name.into(), source });
    }
    Ok(writer.add(name, tensor.dtype(), tensor.shape(), tensor.bytes())?)
}

/// The first number of a float tensor that is NaN or infinite: its exponent is all ones. Codes are not looked at.
fn not_finite(tensor: &HostTensor) -> Option<usize> {
    let bytes = tensor.bytes();
    let short = |mask: u16| bytes.chunks_exact(2).position(|b| u16::from_le_bytes([b[0], b[1]]) & mask == mask);
    match tensor.dtype() {
        DType::BF16 => short(0x7F80),
        DType::F16 => short(0x7C00),
        DType::F32 => {
            let mask = 0x7F80_0000;
            bytes.chunks_exact(4).position(|b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]) & mask == mask)
        }
        _ => None,
    }
}

/// The same without those that an earlier run wrote.
pub fn write_new(writer: &mut CheckpointWriter, tensors: &[(String, HostTensor)]) -> Result<()> {
    let new = tensors.iter().filter(|(name, _)| !writer.contains(name)).cloned().collect::<Vec<_>>();
    write(writer, &new)
}

/// Copies the tensors outside the blocks as they are stored.
pub fn write_ends(writer: &mut CheckpointWriter, plan: &Plan, source: &dyn TensorSource) -> Result<()> {
    let mut names: Vec<String> = plan.end_tensors().into_iter().map(|(name, _)| name).collect();
    names.push(plan.head_tensor());
    for name in &names {
        if writer.contains(name) || (*name == plan.head_tensor() && !source.contains(name)) {
            continue;
        }
        add(writer, name, &source.tensor(name)?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_that_are_none_are_found_in_every_float_type() {
        let bad = [f32::NAN, f32::INFINITY, f32::NEG_INFINITY];
        for dtype in [DType::BF16, DType::F16, DType::F32] {
            let fine = [0.0, -0.0, 1.0, -6e4, 1e-30, 6e4];
            assert_eq!(not_finite(&HostTensor::from_f32_as(dtype, vec![6], &fine).unwrap()), None, "{dtype}");
            for (at, bad) in bad.into_iter().enumerate() {
                let mut values = fine;
                values[at + 2] = bad;
                let tensor = HostTensor::from_f32_as(dtype, vec![2, 3], &values).unwrap();
                assert_eq!(not_finite(&tensor), Some(at + 2), "{dtype} {bad}");
            }
        }
        let codes = HostTensor::from_bytes(DType::I8, vec![2], vec![0x80, 0x7F]).unwrap();
        assert_eq!(not_finite(&codes), None);
    }
}
