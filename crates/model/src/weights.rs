//! A block's weights in host memory: read from the files, changed by the quantizer, packed for a device.
use crate::arch::{Place, Role};
use crate::error::{Error, Result};
use crate::packing::split;
use crate::plan::{Plan, Stored};
use crate::quantized::read_numbers;
use planish_checkpoint::scheme::QuantFormat;
use planish_checkpoint::source::TensorSource;
use planish_tensor::{DType, HostTensor, LinearPart, Q8};
use std::collections::BTreeMap;

/// A norm's numbers, as applied (the family's offset is added).
#[derive(Clone, Debug, PartialEq)]
pub struct HostNorm {
    /// `[h]`, or `[d]` of queries and keys.
    pub weight: Vec<f32>,
    /// The same of a norm that takes off the mean.
    pub bias: Option<Vec<f32>>,
}

/// One block.
#[derive(Clone, Debug)]
pub struct HostBlock {
    /// The norms that the family has.
    pub norms: BTreeMap<Place, HostNorm>,
    /// Those of [`Plan::roles`].
    pub linears: BTreeMap<Role, LinearPart>,
}

impl HostBlock {
    /// Reads and checks block `layer`.
    pub fn read(plan: &Plan, source: &dyn TensorSource, layer: usize) -> Result<HostBlock> {
        let prefix = plan.block_prefix(layer);
        let norm = |(place, name): &(Place, &str)| {
            let norm = read_norm(plan, source, &format!("{prefix}{name}"), plan.norm_width(*place))?;
            Ok((*place, norm))
        };
        let mut linears = BTreeMap::new();
        for module in plan.stored(layer) {
            let part = read_module(plan, source, &module)?;
            linears.extend(split(&module, part)?);
        }
        Ok(HostBlock { norms: plan.arch.names.norms.iter().map(norm).collect::<Result<_>>()?, linears })
    }

    /// The linear of a role that the block has.
    pub fn linear(&self, role: Role) -> &LinearPart {
        &self.linears[&role]
    }
}

/// A norm of `width` channels as applied; `name` is without `.weight`.
pub fn read_norm(plan: &Plan, source: &dyn TensorSource, name: &str, width: usize) -> Result<HostNorm> {
    let values = |kind: &str| Ok::<_, Error>(read(source, &format!("{name}.{kind}"), &[width])?.to_f32());
    let offset = plan.arch.norm.offset();
    Ok(HostNorm {
        weight: values("weight")?.into_iter().map(|w| w + offset).collect(),
        bias: plan.norms_have_biases().then(|| values("bias")).transpose()?,
    })
}

/// A tensor of the shape that the configuration demands.
pub fn read(source: &dyn TensorSource, name: &str, shape: &[usize]) -> Result<HostTensor> {
    let tensor = source.tensor(name)?;
    if tensor.shape() != shape {
        return Err(wrong(name, format!("shape {shape:?}"), format!("{:?}", tensor.shape())));
    }
    Ok(tensor)
}

fn read_module(plan: &Plan, source: &dyn TensorSource, module: &Stored) -> Result<LinearPart> {
    let name = &module.name;
    let bias = match module.bias {
        true => Some(read(source, &format!("{name}.bias"), &[module.n])?.to_f32()),
        false => None,
    };
    let part = read_weight(plan, source, name, module.n, module.k, bias)?;
    match part.scales {
        Some(_) if module.roles[0].steers() => {
            let found = part.weight.dtype().to_string();
            Err(wrong(&format!("{name}.weight"), "a float type: routers run in float".into(), found))
        }
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

/// Whether any linear of any block has 8-bit codes: some may be left in float, and all are in a float model.
pub fn has_codes(plan: &Plan, source: &dyn TensorSource) -> Result<bool> {
    let coded = |module: &Stored| {
        // Codes have scales beside them, and asking for a name is cheap: a GGUF's tensor is decoded when it is read.
        let may = match &plan.scheme {
            Some(scheme) => scheme.for_linear(&module.name).is_some(),
            None => scale_names(&module.name).iter().any(|name| source.contains(name)),
        };
        Ok::<_, Error>(may && Q8::from_dtype(source.tensor(&format!("{}.weight", module.name))?.dtype()).is_some())
    };
    for module in (0..plan.layers).flat_map(|layer| plan.stored(layer)) {
        if coded(&module)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn scale_names(module: &str) -> [String; 2] {
    [format!("{module}.weight_scale"), format!("{module}.scale")]
}

/// Channel scales as compressed-tensors (`weight_scale`) or LMDeploy (`scale`) name them; one for all is repeated.
fn read_scales(source: &dyn TensorSource, module: &str, n: usize) -> Result<Vec<f32>> {
    let candidates = scale_names(module);
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
