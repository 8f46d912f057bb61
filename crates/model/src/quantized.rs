//! From a checkpoint's scheme and the tensors beside a weight to what a device takes: scales, and the grid of the input.
//! What no product here computes is refused, with the field that asks for it.
use crate::error::{Error, Result};
use planish_checkpoint::Error as FileError;
use planish_checkpoint::scheme::{
    ActQuant, ActUnit, INPUT_SCALE, INPUT_ZERO_POINT, LinearScheme, QuantType, ScaleType, Scheme, WeightStrategy,
};
use planish_checkpoint::source::TensorSource;
use planish_tensor::grid::exponent_scale;
use planish_tensor::{DType, Grid, HostTensor};
use std::path::Path;

/// Fails unless every group of a scheme runs; `path` is the file that holds it.
pub fn check(scheme: &Scheme, path: &Path) -> Result<()> {
    for (i, group) in scheme.groups().enumerate() {
        if let Err(Refusal { field, expected, found }) = grid(&group.scheme, 1.0, 0) {
            let field = format!("quantization_config.config_groups.group_{i}.{field}");
            return Err(FileError::field(path, field, expected, found).into());
        }
    }
    Ok(())
}

/// One grid of each kind that inputs of a checked scheme have; for sizing buffers.
pub fn grids(scheme: &Scheme) -> Vec<Grid> {
    let mut found: Vec<Grid> = scheme.groups().filter_map(|group| grid(&group.scheme, 1.0, 0).ok()).collect();
    found.dedup();
    found
}

/// Scales `[n, groups]` of a weight `[n, k]` and the grid of its input, from the tensors beside it.
pub fn read_numbers(
    source: &dyn TensorSource,
    scheme: &LinearScheme,
    scale_name: &str,
    module: &str,
    (n, k): (usize, usize),
) -> Result<(Vec<f32>, Grid)> {
    let (mut scale, mut zero) = (1.0, 0);
    if let ActQuant::Static { symmetric } = scheme.activations {
        scale = one(source, &format!("{module}.{INPUT_SCALE}"))?;
        if !symmetric {
            zero = zero_point(source, &format!("{module}.{INPUT_ZERO_POINT}"))?;
        }
    }
    let grid = grid(scheme, scale, zero).map_err(|Refusal { field, expected, found }| {
        Error::Unsupported(format!("quantization_config of {module}: {field}: expected {expected}, found {found}"))
    })?;
    let name = format!("{module}.{scale_name}");
    let stored = source.tensor(&name)?;
    let shape = scheme.weights.strategy.scale_shape(n, k);
    if squeezed(stored.shape()) != squeezed(&shape) {
        return Err(wrong(&name, format!("shape {shape:?}"), format!("{:?}", stored.shape())));
    }
    let scales = scale_values(&name, scheme.weights.scale, &stored)?;
    Ok((spread(&scales, scheme.weights.strategy, n, k, grid), grid))
}

/// Names of the static scales of one layer's keys and values: `k_scale` and `v_scale` of the attention.
pub fn kv_scale_names(k_module: &str) -> [String; 2] {
    let attention = k_module.rsplit_once('.').map_or("", |(parent, _)| parent);
    ["k_scale", "v_scale"].map(|scale| format!("{attention}.{scale}"))
}

/// Static scales of one layer's keys and values, as the checkpoint has them: by [`kv_scale_names`], or, from older tools,
/// `output_scale` of k and v.
pub fn read_kv_scales(source: &dyn TensorSource, k_module: &str, v_module: &str) -> Result<[f32; 2]> {
    let read = |new: &str, old: &str| {
        let old = format!("{old}.output_scale");
        one(source, if source.contains(&old) && !source.contains(new) { &old } else { new })
    };
    let [k, v] = kv_scale_names(k_module);
    Ok([read(&k, k_module)?, read(&v, v_module)?])
}

/// A combination that does not run.
struct Refusal {
    field: &'static str,
    expected: String,
    found: String,
}

/// The grid of a linear's input, given the static scale and zero point, should it have such.
fn grid(scheme: &LinearScheme, scale: f32, zero: i8) -> Result<Grid, Refusal> {
    let refuse = |field, expected: &str, found: String| Err(Refusal { field, expected: expected.into(), found });
    let width = match scheme.weights.strategy {
        WeightStrategy::Channel | WeightStrategy::Tensor => None,
        WeightStrategy::Block { columns, .. } => Some(columns),
        WeightStrategy::Group(size) => Some(size),
    };
    let powers = scheme.weights.scale == ScaleType::Exponent;
    let strategy = "input_activations.strategy";
    match (scheme.activations, width) {
        (ActQuant::Dynamic { unit: ActUnit::Group(size), symmetric: true }, width) => match width {
            Some(width) if width != size => {
                let expected = format!("{width}, as many as weights in a row share a scale");
                Err(Refusal { field: "input_activations.group_size", expected, found: size.to_string() })
            }
            _ if powers => Ok(Grid::Powers(size)),
            _ => Ok(Grid::Group(size)),
        },
        (ActQuant::Dynamic { unit: ActUnit::Group(_), symmetric: false }, _) => {
            refuse("input_activations.symmetric", "true for groups", "false".into())
        }
        (ActQuant::None, _) => refuse("input_activations", "a quantization of 8 bits", "null (weights alone)".into()),
        (ActQuant::Dynamic { unit: ActUnit::Tensor, .. }, _) => {
            // Such a scale would depend on whatever else is in the batch.
            refuse(strategy, "token or group, for scales that are dynamic", "tensor".into())
        }
        (_, Some(width)) => {
            let expected = format!("group with group_size {width}, as the weights have");
            let found = if matches!(scheme.activations, ActQuant::Static { .. }) { "tensor" } else { "token" };
            Err(Refusal { field: strategy, expected, found: found.into() })
        }
        (ActQuant::Dynamic { unit: ActUnit::Token, symmetric: true }, None) => Ok(Grid::Token),
        (ActQuant::Dynamic { .. } | ActQuant::Static { symmetric: false }, None)
            if scheme.weights.dtype != QuantType::Int8 =>
        {
            refuse("input_activations.symmetric", "true for float numbers", "false".into())
        }
        (ActQuant::Dynamic { .. }, None) => Ok(Grid::Asymmetric),
        (ActQuant::Static { .. }, None) => Ok(Grid::Static { scale, zero }),
    }
}

/// Scales as stored become one for each channel and group of the grid.
fn spread(scales: &[f32], strategy: WeightStrategy, n: usize, k: usize, grid: Grid) -> Vec<f32> {
    let groups = grid.groups(k);
    let at = |row: usize, group: usize| match strategy {
        WeightStrategy::Tensor => 0,
        WeightStrategy::Channel => row,
        WeightStrategy::Block { rows, .. } => row / rows * groups + group,
        WeightStrategy::Group(_) => row * groups + group,
    };
    (0..n).flat_map(|row| (0..groups).map(move |group| (row, group))).map(|(row, g)| scales[at(row, g)]).collect()
}

fn scale_values(name: &str, stored_as: ScaleType, tensor: &HostTensor) -> Result<Vec<f32>> {
    let scales = match (stored_as, tensor.dtype()) {
        (ScaleType::Exponent, DType::U8) => tensor.bytes().iter().map(|&code| exponent_scale(code)).collect(),
        (ScaleType::Float, DType::F32 | DType::F16 | DType::BF16) => tensor.to_f32(),
        (ScaleType::Exponent, other) => return Err(wrong(name, "exponents in U8".into(), other.to_string())),
        (ScaleType::Float, other) => return Err(wrong(name, "a float type".into(), other.to_string())),
    };
    match scales.iter().find(|s: &&f32| !s.is_finite() || **s < 0.0) {
        Some(bad) => Err(wrong(name, "finite scales".into(), bad.to_string())),
        None => Ok(scales),
    }
}

/// The one element of a scale.
fn one(source: &dyn TensorSource, name: &str) -> Result<f32> {
    let tensor = source.tensor(name)?;
    if tensor.len() != 1 || !tensor.dtype().is_float() {
        return Err(wrong(name, "one float".into(), format!("{tensor:?}")));
    }
    match tensor.to_f32()[0] {
        scale if scale.is_finite() && scale > 0.0 => Ok(scale),
        bad => Err(wrong(name, "a finite scale above 0".into(), bad.to_string())),
    }
}

fn zero_point(source: &dyn TensorSource, name: &str) -> Result<i8> {
    let tensor = source.tensor(name)?;
    match (tensor.len(), tensor.dtype()) {
        (1, DType::I8) => Ok(tensor.bytes()[0] as i8),
        _ => Err(wrong(name, "one I8".into(), format!("{tensor:?}"))),
    }
}

/// A shape without its ones: writers differ in them.
fn squeezed(shape: &[usize]) -> Vec<usize> {
    shape.iter().copied().filter(|&d| d != 1).collect()
}

fn wrong(name: &str, expected: String, found: String) -> Error {
    Error::Weight { name: name.into(), expected, found }
}

#[cfg(test)]
mod tests {
    use super::*;
    use planish_checkpoint::scheme::{Group, QuantFormat, WeightQuant};

    fn scheme(strategy: WeightStrategy, activations: ActQuant) -> LinearScheme {
        let weights = WeightQuant { dtype: QuantType::Fp8E4M3, strategy, scale: ScaleType::Float, act_order: false };
        LinearScheme { weights, activations }
    }

    fn refused(strategy: WeightStrategy, activations: ActQuant) -> String {
        let group = Group { targets: vec!["Linear".into()], scheme: scheme(strategy, activations) };
        let whole = Scheme::new(QuantFormat::CompressedTensors, vec![group], vec![]).unwrap();
        check(&whole, Path::new("config.json")).unwrap_err().to_string()
    }

    #[test]
    fn what_does_not_run_names_its_field() {
        let block = WeightStrategy::Block { rows: 128, columns: 128 };
        let dynamic = |unit, symmetric| ActQuant::Dynamic { unit, symmetric };
        for (error, field, expected) in [
            (refused(block, dynamic(ActUnit::Token, true)), "input_activations.strategy", "group_size 128"),
            (refused(block, dynamic(ActUnit::Group(64), true)), "input_activations.group_size", "found 64"),
            (refused(block, ActQuant::Static { symmetric: true }), "input_activations.strategy", "found tensor"),
            (refused(block, ActQuant::None), "input_activations", "weights alone"),
            (refused(WeightStrategy::Channel, dynamic(ActUnit::Tensor, true)), "strategy", "token or group"),
            (refused(WeightStrategy::Channel, dynamic(ActUnit::Token, false)), "symmetric", "true for float"),
            (refused(WeightStrategy::Tensor, ActQuant::Static { symmetric: false }), "symmetric", "true for float"),
        ] {
            let place = format!("config.json: field quantization_config.config_groups.group_0.{field}");
            assert!(error.contains(field) && error.contains(expected), "{error} for {place}");
            assert!(error.starts_with("config.json: field quantization_config.config_groups.group_0."), "{error}");
        }
    }

    #[test]
    fn scales_are_spread_over_rows_and_groups() {
        let block = WeightStrategy::Block { rows: 2, columns: 4 };
        let scales = [1.0, 2.0, 3.0, 4.0];
        assert_eq!(spread(&scales, block, 3, 6, Grid::Group(4)), [1.0, 2.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(spread(&[5.0], WeightStrategy::Tensor, 3, 6, Grid::Token), [5.0; 3]);
        assert_eq!(spread(&scales[..2], WeightStrategy::Channel, 2, 6, Grid::Group(4)), [1.0, 1.0, 2.0, 2.0]);
        assert_eq!(squeezed(&[3, 1]), squeezed(&[3]));
    }
}
