//! From one 8-bit layout to the other where nothing has to be computed anew: the codes stay, scales change name and shape.
//! What the other layout cannot say is refused, with the field that says it.
use crate::scheme::{ActQuant, ActUnit, Group, LinearScheme, QuantFormat, ScaleType, Scheme, WeightStrategy};
use crate::source::TensorSource;
use crate::{Error, Result};
use planish_tensor::HostTensor;
use std::collections::BTreeMap;
use std::path::Path;

/// A decided conversion.
pub struct Conversion {
    /// The scheme as the new layout says it.
    pub scheme: Scheme,
    from: Scheme,
    /// Name and `[out, in]` of each quantized module.
    modules: BTreeMap<String, [usize; 2]>,
}

impl Conversion {
    /// Decides how the tensors of `source`, stored by `scheme`, are stored in the layout `to`. `path` is the file that
    /// holds the scheme; `embedding` names the table that no layout counts among the linears.
    pub fn new(
        source: &dyn TensorSource,
        scheme: &Scheme,
        to: QuantFormat,
        embedding: &str,
        path: &Path,
    ) -> Result<Conversion> {
        let mut modules = BTreeMap::new();
        let mut floats = Vec::new();
        for name in source.names() {
            let Some(module) = name.strip_suffix(".weight").filter(|_| name != embedding) else { continue };
            let tensor = source.tensor(&name)?;
            let &[out, input] = tensor.shape() else { continue };
            match scheme.for_linear(module) {
                Some(linear) if tensor.dtype() == linear.weights.dtype.dtype() => {
                    modules.insert(module.to_owned(), [out, input]);
                }
                _ => floats.push(module.to_owned()),
            }
        }
        let scheme_there = match to {
            QuantFormat::LmDeploy => to_lmdeploy(scheme, &modules, &floats, path)?,
            QuantFormat::CompressedTensors => to_compressed_tensors(scheme, floats)?,
        };
        Ok(Conversion { scheme: scheme_there, from: scheme.clone(), modules })
    }

    /// A tensor of the source as the new layout stores it.
    pub fn tensor(&self, name: &str, tensor: HostTensor) -> Result<(String, HostTensor)> {
        let scale = name.strip_suffix(self.from.scale_name()).and_then(|module| module.strip_suffix('.'));
        let Some((module, &[out, _])) = scale.and_then(|module| Some((module, self.modules.get(module)?))) else {
            return Ok((name.to_owned(), tensor));
        };
        let name = format!("{module}.{}", self.scheme.scale_name());
        if self.scheme.format() == self.from.format() {
            return Ok((name, tensor));
        }
        let mut scales = tensor.to_f32();
        if scales.len() == 1 {
            scales = vec![scales[0]; out];
        }
        let there = HostTensor::from_f32(vec![out, 1], &scales);
        let bad =
            |e: planish_tensor::Error| Error::tensor(Path::new(&name), &name, "a scale for each row", e.to_string());
        Ok((name.clone(), there.map_err(bad)?))
    }
}

/// The one scheme that LMDeploy's layout has, if every linear of a block is stored by it.
fn to_lmdeploy(
    scheme: &Scheme,
    modules: &BTreeMap<String, [usize; 2]>,
    floats: &[String],
    path: &Path,
) -> Result<Scheme> {
    if scheme.format() == QuantFormat::LmDeploy {
        return Ok(scheme.clone());
    }
    let refuse = |field: &str, expected: &str, found: String| {
        Err(Error::field(path, format!("quantization_config.{field}"), expected, found))
    };
    if scheme.kv_cache().is_some() {
        return refuse(
            "kv_cache_scheme",
            "null, as LMDeploy's layout stores no scales of keys and values",
            "one".into(),
        );
    }
    let mut types = Vec::new();
    for module in modules.keys() {
        let Some(linear) = scheme.for_linear(module) else { continue };
        if let Some((field, expected, found)) = unlike_lmdeploy(linear) {
            return refuse(&format!("config_groups ({module}) {field}"), expected, found);
        }
        types.push(linear.weights.dtype);
    }
    types.dedup();
    let &[dtype] = types.as_slice() else {
        let expected = "one 8-bit type for all linears, as LMDeploy's layout has";
        return refuse("config_groups", expected, format!("{types:?}"));
    };
    let there = Scheme::w8a8(QuantFormat::LmDeploy, dtype, kept_in_blocks(floats))?;
    match modules.keys().find(|module| there.for_linear(module).is_none()) {
        Some(module) => refuse("ignore", "every linear outside the blocks in float", format!("codes in {module}")),
        None => Ok(there),
    }
}

/// LMDeploy's reader takes every linear of a block for quantized unless it is listed.
fn kept_in_blocks(floats: &[String]) -> Vec<String> {
    let in_block = |name: &&String| name.split('.').any(|part| part.parse::<usize>().is_ok());
    floats.iter().filter(in_block).cloned().collect()
}

/// Field, expectation and finding of what LMDeploy's layout cannot say about a linear.
fn unlike_lmdeploy(linear: &LinearScheme) -> Option<(&'static str, &'static str, String)> {
    let strategy = linear.weights.strategy;
    if !matches!(strategy, WeightStrategy::Channel | WeightStrategy::Tensor) || linear.weights.scale != ScaleType::Float
    {
        return Some((
            "weights.strategy",
            "channel or tensor: LMDeploy stores a scale for each row",
            format!("{strategy:?}"),
        ));
    }
    let token = ActQuant::Dynamic { unit: ActUnit::Token, symmetric: true };
    let expected = "dynamic and symmetric per token: LMDeploy stores no scales of activations";
    (linear.activations != token).then(|| ("input_activations", expected, format!("{:?}", linear.activations)))
}

fn to_compressed_tensors(scheme: &Scheme, floats: Vec<String>) -> Result<Scheme> {
    if scheme.format() == QuantFormat::CompressedTensors {
        return Ok(scheme.clone());
    }
    let group = |group: &Group| Group { targets: vec!["Linear".into()], scheme: group.scheme };
    let ignore = [vec!["lm_head".into()], floats.into_iter().filter(|name| name != "lm_head").collect()].concat();
    Scheme::new(QuantFormat::CompressedTensors, scheme.groups().map(group).collect(), ignore)
}
