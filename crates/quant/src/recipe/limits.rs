//! What a recipe may ask for: more can be said than a layout can store, and more can be stored than is made here.
use super::presets::dynamic;
use super::{Format, HEAD, Recipe, RecipeGroup, WeightMethod};
use crate::error::{Error, Result};
use planish_checkpoint::scheme::{ActQuant, ActUnit, LinearScheme, QuantType, ScaleType, WeightStrategy};

/// Refuses what the layout cannot store.
pub(super) fn storable(recipe: &Recipe) -> Result<()> {
    for group in &recipe.groups {
        stored(recipe.format, group)?;
    }
    if recipe.format == Format::Lmdeploy && recipe.groups.len() > 1 {
        let problem = "--format lmdeploy stores one scheme for all linears; drop this one or use compressed-tensors";
        return Err(refused(&recipe.groups[1], problem));
    }
    if recipe.format == Format::Lmdeploy && recipe.kv_cache.is_some() {
        let problem = "kv_cache_scheme (--kv-scales): --format lmdeploy has no place for scales of keys and values; leave \
            it out, or use compressed-tensors";
        return Err(Error::Recipe(problem.into()));
    }
    if recipe.format == Format::Lmdeploy && recipe.quantizes(HEAD) {
        let problem =
            "--format lmdeploy keeps the output projection in float; ignore lm_head, or use compressed-tensors";
        return Err(Error::Recipe(problem.into()));
    }
    Ok(())
}

/// Refuses what can be stored but is not made.
pub(super) fn made(recipe: &Recipe) -> Result<()> {
    for group in &recipe.groups {
        if let Some(problem) = not_made(recipe, &group.scheme) {
            return Err(refused(group, problem));
        }
    }
    Ok(())
}

/// Why a scheme is not made, if it is not.
fn not_made(recipe: &Recipe, scheme: &LinearScheme) -> Option<&'static str> {
    let weights = scheme.weights;
    if weights.scale == ScaleType::Exponent {
        return Some("MX formats, whose scales are powers of two, are read and run, but not made");
    }
    let by_row = weights.strategy == WeightStrategy::Channel;
    if recipe.weights == WeightMethod::Gptq && !by_row {
        return Some(
            "GPTQ is made for weights with a scale for each output channel; others are rounded to nearest: \
             QuantizationModifier, or --weights rtn",
        );
    }
    if recipe.clip && !by_row {
        return Some("scales are searched for weights with one for each output channel; leave the search out");
    }
    let columns = match weights.strategy {
        WeightStrategy::Channel | WeightStrategy::Tensor => None,
        WeightStrategy::Block { columns, .. } => Some(columns),
        WeightStrategy::Group(size) => Some(size),
    };
    match (scheme.activations, columns) {
        (ActQuant::Dynamic { unit: ActUnit::Group(_), .. }, _) if weights.strategy == WeightStrategy::Tensor => {
            Some("weights with one scale for all are made with activations per token, or static")
        }
        (ActQuant::Dynamic { unit: ActUnit::Group(size), symmetric: true }, _) if columns.unwrap_or(size) == size => {
            None
        }
        (ActQuant::None, _) => Some("weights alone are not quantized here; activations need a scheme too"),
        (ActQuant::Dynamic { unit: ActUnit::Tensor, .. }, _) => {
            Some("a dynamic scale for all tokens would depend on whatever else runs beside them; take token")
        }
        (ActQuant::Dynamic { unit: ActUnit::Group(_), symmetric: false }, _) => {
            Some("activations in groups are made symmetric")
        }
        (_, Some(_)) => Some("weights in blocks or groups need dynamic activations in groups of as many columns"),
        (ActQuant::Dynamic { symmetric: false, .. } | ActQuant::Static { symmetric: false }, None)
            if weights.dtype != QuantType::Int8 =>
        {
            Some("float numbers have no zero point: activations are symmetric")
        }
        _ => None,
    }
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
