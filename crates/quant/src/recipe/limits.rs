//! What a recipe may ask for: more can be said than a layout can store, and more can be stored than is made here.
use super::presets::dynamic;
use super::{Format, Recipe, RecipeGroup};
use crate::error::{Error, Result};
use planish_checkpoint::scheme::{ActQuant, ActUnit, LinearScheme, QuantType, WeightStrategy};

/// Refuses what the layout cannot store.
pub(super) fn storable(recipe: &Recipe) -> Result<()> {
    for group in &recipe.groups {
        stored(recipe.format, group)?;
    }
    if recipe.format == Format::Lmdeploy && recipe.groups.len() > 1 {
        let problem = "--format lmdeploy stores one scheme for all linears; drop this one or use compressed-tensors";
        return Err(refused(&recipe.groups[1], problem));
    }
    Ok(())
}

/// Refuses what can be stored but is not made.
pub(super) fn made(recipe: &Recipe) -> Result<()> {
    let first = recipe.groups[0].scheme;
    for group in &recipe.groups {
        let usual = dynamic(group.scheme.weights.dtype);
        let fixed = LinearScheme { activations: ActQuant::Static { symmetric: true }, ..usual };
        if group.scheme != usual && group.scheme != fixed {
            let problem = "made are weights with a scale for each output channel, and activations that are dynamic for \
                           each token, or static and symmetric";
            return Err(refused(group, problem));
        }
        if group.scheme != first {
            return Err(refused(group, "one 8-bit type and one kind of activations for all groups are made"));
        }
    }
    Ok(())
}

fn stored(format: Format, group: &RecipeGroup) -> Result<()> {
    let dtype = group.scheme.weights.dtype;
    match format {
        Format::CompressedTensors if dtype == QuantType::Fp8E5M2 => {
            let problem = "compressed-tensors has no E5M2 weights; use float8_e4m3fn, or --format lmdeploy";
            Err(refused(group, problem))
        }
        Format::Lmdeploy if group.scheme != dynamic(dtype) => {
            let problem = "--format lmdeploy stores scales for each output channel, and no scales of activations";
            Err(refused(group, problem))
        }
        _ => Ok(()),
    }
}

fn refused(group: &RecipeGroup, problem: &str) -> Error {
    let targets: Vec<_> = group.targets.iter().map(|t| t.text()).collect();
    let scheme = group.scheme;
    Error::Recipe(format!("the scheme of {}: {problem}; found {}", targets.join(", "), described(&scheme)))
}

fn described(scheme: &LinearScheme) -> String {
    let dtype = super::dtype_name(super::q8(scheme.weights.dtype));
    let weights = match scheme.weights.strategy {
        WeightStrategy::Channel => "per channel".to_owned(),
        WeightStrategy::Tensor => "per tensor".to_owned(),
        WeightStrategy::Block { rows, columns } => format!("in blocks of {rows} x {columns}"),
        WeightStrategy::Group(size) => format!("in groups of {size}"),
    };
    let symmetry = |symmetric: bool| if symmetric { "" } else { ", asymmetric" };
    let activations = match scheme.activations {
        ActQuant::None => "float activations".to_owned(),
        ActQuant::Static { symmetric } => format!("static activations{}", symmetry(symmetric)),
        ActQuant::Dynamic { unit, symmetric } => {
            let unit = match unit {
                ActUnit::Token => "token".to_owned(),
                ActUnit::Tensor => "tensor".to_owned(),
                ActUnit::Group(size) => format!("group of {size}"),
            };
            format!("dynamic activations per {unit}{}", symmetry(symmetric))
        }
    };
    format!("{dtype} weights {weights} with {activations}")
}
