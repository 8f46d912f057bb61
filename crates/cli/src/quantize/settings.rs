//! What must be equal for a run to be continued, each thing by its name, so that a refusal says what is another.
use super::{Order, Prepared};
use anyhow::{Result, bail};
use planish_checkpoint::digests::sha256;
use planish_checkpoint::journal::Settings;
use planish_quant::recipe::Recipe;
use serde_json::to_vec;

/// What was asked for and given, before any search.
pub fn asked(order: &Order, prepared: &Prepared) -> Result<Settings> {
    let (model, recipe) = (&prepared.model, &prepared.recipe);
    let held_back: Vec<u8> = prepared.held_back.iter().flat_map(|id| id.to_le_bytes()).collect();
    let target = order.budget.map_or("none".into(), |b| format!("KL={}{}", b.target, if b.fp8 { ",fp8" } else { "" }));
    let all = [
        ("calibration_samples", prepared.samples.sha256.clone()),
        ("held_back_tokens", sha256(&held_back)),
        ("max_shard_size", order.max_shard_size.to_string()),
        ("model_config", sha256(&to_vec(model.config.fields())?)),
        ("model_weights", model.weights_digest()?),
        ("program_version", env!("CARGO_PKG_VERSION").into()),
        ("recipe", of_recipe(recipe)),
        ("target_divergence", target),
    ];
    Ok(all.map(|(name, value)| (name.to_owned(), value)).into())
}

/// Adds what a search has decided.
pub fn decided(settings: &mut Settings, prepared: &Prepared) {
    settings.insert("searched_recipe".into(), of_recipe(&prepared.recipe));
}

/// Whether a finished run, whose files are now in place, is the one that is to be resumed. An error names what is
/// another, unless it is to be overwritten.
pub fn agree(order: &Order, asked: &Settings, published: &Settings) -> Result<bool> {
    match asked.iter().find(|(name, value)| published.get(*name) != Some(value)) {
        None => Ok(true),
        Some(_) if order.overwrite => Ok(false),
        Some((name, value)) => bail!(
            "{}: expected a run with {name} {value} to resume, found one with {}, which was complete and is now in place; \
             --overwrite replaces it",
            order.work_dir.display(),
            published.get(name).map_or("none", String::as_str),
        ),
    }
}

fn of_recipe(recipe: &Recipe) -> String {
    sha256(format!("{:?} {:?} {}", recipe.format, recipe.seed, recipe.to_yaml()).as_bytes())
}
