//! Flags beside a recipe, or beside a preset, must say the same.
use super::flags::Typed;
use super::modifiers::{Modifiers, weight_modifier};
use super::{Activations, HEAD, Pattern, QuantizeArgs, smooth_name, when};
use crate::error::{Error, Result};
use planish_checkpoint::scheme::LinearScheme;

/// Refuses flags that say something else than the recipe.
pub(super) fn agree(typed: &Typed, args: &QuantizeArgs, recipe: &Modifiers) -> Result<()> {
    let other = |dtype| recipe.groups.iter().any(|g| g.scheme.weights.dtype != dtype);
    if typed.dtype.is_some_and(other) {
        return clash("--quant-dtype", &args.quant_dtype, "scheme", recipe.scheme.clone());
    }
    if typed.scheme.is_some_and(|scheme| recipe.groups.iter().any(|g| g.scheme != scheme)) {
        return clash("--scheme", &args.scheme, "scheme", recipe.scheme.clone());
    }
    if typed.head.is_some_and(|head| head != recipe.of(HEAD).map(|s| s.weights.dtype)) {
        let said = match recipe.of(HEAD) {
            Some(_) => format!("the scheme {} for it", recipe.scheme),
            None => "nothing for it, or ignores it".into(),
        };
        return clash("--lm-head", &args.lm_head, HEAD, said);
    }
    if typed.smooth.is_some_and(|s| s != recipe.smooth) {
        return clash("--smooth", &args.smooth, "smoothing_strength", smooth_name(recipe.smooth));
    }
    if typed.weights.is_some_and(|w| w != recipe.weights) {
        return clash("--weights", &args.weights, "modifier", weight_modifier(recipe.weights).into());
    }
    if typed.activations.is_some_and(|a| recipe.groups.iter().any(|g| when(&g.scheme) != a)) {
        return clash("--activations", &args.activations, "scheme", recipe.scheme.clone());
    }
    let clips = recipe.clip.unwrap_or(false);
    if typed.clip.is_some_and(|clip| clip != clips) {
        let said = if clips { "a search of scales" } else { "the largest magnitude" };
        return clash("--clip", &args.clip, "weight_observer", said.into());
    }
    if typed.kv_cache.is_some_and(|kv| kv != recipe.kv_cache) {
        let said = if recipe.kv_cache.is_some() { "scales of FP8 keys and values" } else { "nothing" };
        return clash("--kv-scales", &args.kv_scales, "kv_cache_scheme", said.into());
    }
    if let Some(ignore) = &typed.ignore
        && sorted(ignore) != sorted(&recipe.ignore)
    {
        let said = format!("{:?}", sorted(&recipe.ignore));
        return clash("--ignore", &Some(args.ignore.join(", ")), "ignore", said);
    }
    Ok(())
}

/// Refuses a preset beside flags that say another type or other activations.
pub(super) fn one_scheme(typed: &Typed, args: &QuantizeArgs, scheme: &LinearScheme) -> Result<()> {
    let name = args.scheme.clone().unwrap_or_default();
    let clash = |flag: &str, value: &Option<String>| {
        let found = format!("{flag} {}", value.clone().unwrap_or_default());
        Err(super::setting(&format!("--scheme {name}"), &format!("no other {flag} than its own"), &found))
    };
    if typed.dtype.is_some_and(|dtype| dtype != scheme.weights.dtype) {
        return clash("--quant-dtype", &args.quant_dtype);
    }
    match typed.activations {
        Some(a) if a != when(scheme) => clash("--activations", &args.activations),
        Some(Activations::Dynamic | Activations::Static) | None => Ok(()),
    }
}

fn clash(flag: &'static str, value: &Option<String>, field: &str, said: String) -> Result<()> {
    let (flag_value, recipe_field) = (value.clone().unwrap_or_default(), field.to_string());
    Err(Error::Contradiction { flag, flag_value, recipe_field, recipe_value: said })
}

fn sorted(patterns: &[Pattern]) -> Vec<String> {
    let mut names: Vec<_> = patterns.iter().map(|p| p.text().to_string()).collect();
    names.sort();
    names
}
