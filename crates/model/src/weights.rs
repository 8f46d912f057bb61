//! A block's weights in host memory: read from the files, changed by the quantizer, packed for a device.
use crate::arch::Role;
use crate::error::{Error, Result};
use crate::plan::Plan;
use planish_checkpoint::source::TensorSource;
use planish_tensor::{DType, Grid, HostTensor, LinearPart};
use std::collections::BTreeMap;

/// One block. Norm weights are as applied (the family's offset is added).
#[derive(Clone, Debug)]
pub struct HostBlock {
    /// `[h]` weight of the norm before attention.
    pub attention_norm: Vec<f32>,
    /// `[h]` weight of the norm before the MLP.
    pub mlp_norm: Vec<f32>,
    /// Those of [`Plan::roles`].
    pub linears: BTreeMap<Role, LinearPart>,
}

impl HostBlock {
    /// Reads and checks block `layer`.
    pub fn read(plan: &Plan, source: &dyn TensorSource, layer: usize) -> Result<HostBlock> {
        let prefix = plan.block_prefix(layer);
        let norm = |name: &str| read_norm(plan, source, &format!("{prefix}{name}"));
        let linear = |role| Ok((role, read_linear(plan, source, layer, role)?));
        Ok(HostBlock {
            attention_norm: norm(plan.arch.names.attention_norm)?,
            mlp_norm: norm(plan.arch.names.mlp_norm)?,
            linears: plan.roles(layer).into_iter().map(linear).collect::<Result<_>>()?,
        })
    }

    /// The linear of a role that the block has.
    pub fn linear(&self, role: Role) -> &LinearPart {
        &self.linears[&role]
    }
}

/// A norm's weight as applied.
pub fn read_norm(plan: &Plan, source: &dyn TensorSource, name: &str) -> Result<Vec<f32>> {
    let stored = read(source, name, &[plan.hidden])?;
    Ok(stored.to_f32().into_iter().map(|w| w + plan.arch.norm_offset).collect())
}

/// A tensor of the shape that the configuration demands.
pub fn read(source: &dyn TensorSource, name: &str, shape: &[usize]) -> Result<HostTensor> {
    let tensor = source.tensor(name)?;
    if tensor.shape() != shape {
        return Err(wrong(name, format!("shape {shape:?}"), format!("{:?}", tensor.shape())));
    }
    Ok(tensor)
}

fn read_linear(plan: &Plan, source: &dyn TensorSource, layer: usize, role: Role) -> Result<LinearPart> {
    let (n, k) = plan.linear_size(role);
    let name = plan.linear_name(layer, role);
    let bias = match plan.has_bias(role) {
        true => Some(read(source, &format!("{name}.bias"), &[n])?.to_f32()),
        false => None,
    };
    let part = read_weight(source, &name, n, k, bias)?;
    match part.scales {
        Some(_) if role.steers() => Err(wrong(
            &format!("{name}.weight"),
            "a float type: routers run in float".into(),
            part.weight.dtype().to_string(),
        )),
        _ => Ok(part),
    }
}

/// A module's weight `[n, k]` with, for 8-bit codes, its channel scales.
pub fn read_weight(
    source: &dyn TensorSource,
    module: &str,
    n: usize,
    k: usize,
    bias: Option<Vec<f32>>,
) -> Result<LinearPart> {
    let name = format!("{module}.weight");
    let weight = read(source, &name, &[n, k])?;
    let scales = match weight.dtype() {
        DType::F32 | DType::F16 | DType::BF16 => None,
        DType::I8 | DType::F8E4M3 | DType::F8E5M2 => Some(read_scales(source, module, n)?),
        other => return Err(wrong(&name, "a float or 8-bit type".into(), other.to_string())),
    };
    Ok(LinearPart { weight, scales, bias, grid: Grid::Token })
}

/// Channel scales as compressed-tensors (`weight_scale`) or LMDeploy (`scale`) name them; one for all is repeated.
fn read_scales(source: &dyn TensorSource, module: &str, n: usize) -> Result<Vec<f32>> {
    let candidates = [format!("{module}.weight_scale"), format!("{module}.scale")];
    let name = candidates.iter().find(|c| source.contains(c)).unwrap_or(&candidates[0]);
    let tensor = source.tensor(name)?;
    let scales = tensor.to_f32();
    if let Some(bad) = scales.iter().find(|s| !s.is_finite() || **s < 0.0) {
        return Err(wrong(name, "finite scales".into(), bad.to_string()));
    }
    match scales.len() {
        1 => Ok(vec![scales[0]; n]),
        len if len == n => Ok(scales),
        _ => Err(wrong(name, format!("{n} scales, one for each output channel"), format!("{:?}", tensor.shape()))),
    }
}

fn wrong(name: &str, expected: String, found: String) -> Error {
    Error::Weight { name: name.into(), expected, found }
}
