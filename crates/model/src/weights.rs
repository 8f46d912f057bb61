//! A block's weights in host memory: read from the files, changed by the quantizer, packed for a device.
use crate::arch::Role;
use crate::error::{Error, Result};
use crate::plan::Plan;
use crate::quantized::read_numbers;
use planish_checkpoint::scheme::QuantFormat;
use planish_checkpoint::source::TensorSource;
use planish_tensor::{DType, HostTensor, LinearPart, Q8};
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
    let part = read_weight(plan, source, &name, n, k, bias)?;
    match part.scales {
        Some(_) if role.steers() => Err(wrong(
            &format!("{name}.weight"),
            "a float type: routers run in float".into(),
            part.weight.dtype().to_string(),
        )),
        _ => Ok(part),
    }
}

/// A module's weight `[n, k]`, stored as the model's scheme says. Without a scheme, codes have a scale for each channel.
pub fn read_weight(
    plan: &Plan,
    source: &dyn TensorSource,
    module: &str,
    n: usize,
    k: usize,
    bias: Option<Vec<f32>>,
) -> Result<LinearPart> {
    let name = format!("{module}.weight");
    let weight = read(source, &name, &[n, k])?;
    let found = weight.dtype();
    let float = matches!(found, DType::F32 | DType::F16 | DType::BF16);
    match plan.scheme.as_deref().map(|scheme| (scheme, scheme.for_linear(module))) {
        _ if Q8::from_dtype(found).is_none() && !float => {
            Err(wrong(&name, "a float or 8-bit type".into(), found.to_string()))
        }
        Some((scheme, Some(linear))) if found == linear.weights.dtype.dtype() => {
            let (scales, grid) = read_numbers(source, linear, scheme.scale_name(), module, (n, k))?;
            Ok(LinearPart { weight, scales: Some(scales), bias, grid })
        }
        // LMDeploy's layout does not say which linears of a block stay in float.
        Some((scheme, Some(_))) if float && scheme.format() == QuantFormat::LmDeploy => {
            Ok(LinearPart::float(weight, bias))
        }
        Some((_, Some(linear))) => {
            let expected = format!("{}, as quantization_config says", linear.weights.dtype.dtype());
            Err(wrong(&name, expected, found.to_string()))
        }
        Some((_, None)) if !float => {
            Err(wrong(&name, "a float type, as quantization_config leaves it out".into(), found.to_string()))
        }
        _ if float => Ok(LinearPart::float(weight, bias)),
        _ => Ok(LinearPart { scales: Some(read_scales(source, module, n)?), ..LinearPart::float(weight, bias) }),
    }
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
